# Remora's commands. `make help` lists them.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

# Variables of `make dev`: where everything lives, and the manifests (F="a.yaml b.yaml"; none: the example in the binary).
DIR ?= .remora-dev
F ?=
# Variables of `make test`: packages, flags of go test (RUN='-run TestX -count=1').
PKG ?= ./...
RUN ?=
# Flags of `make bench`; see docs/benchmarks.md.
BENCH ?=
# How often `make storm` kills the sidecar.
KILLS ?= 200
# `make fsx`: files of random calls, and how many calls on each. Of names, a round of eight processes for every four files.
SEEDS ?= 100
OPS ?= 10000
# How long `make fuzz` stays with each target.
FUZZTIME ?= 10s
# How many crash points `make crash` tries.
POINTS ?= 100000
# How long `make replication` does harm.
MINUTES ?= 30
# Power cuts of `make powercut` on ext4.
IMAGES ?= 1000
SEED ?=
# The first seed of `make sim`.
FROM ?= 1
# What `make realwork` does.
WORK ?= TestTrees|TestGitOfATree|TestRsync|TestLinuxBuild|TestPostgresRegression|TestLSM
# The vulnerability database of `make check`, for machines that do not reach the public one: VULNDB=file:///srv/vulndb
VULNDB ?=
# Flags of the tests of `make e2e`: -kills=20 -pods=50 -crowd=100 -keep.
ARGS ?=
# Name and architectures of `make image`.
IMAGE ?= remora:dev
ARCH ?= amd64,arm64
# How long one package's tests may take.
TESTTIME ?= 20m

# A checkout that belongs to another user has no version stamp; that is no reason not to build.
ifneq ($(shell git status --porcelain >/dev/null 2>&1 && echo yes),yes)
export GOFLAGS := $(GOFLAGS) -buildvcs=false
endif

# The tests of `make e2e` that CI runs: one of each kind of workload, sidecars killed, what is refused and what is left alone.
SHORT := TestStatefulSet|TestDeployment|TestJob|TestBarePod|TestRefused|TestNotOptedIn|TestPlainPods

.PHONY: help build dev image cluster cluster-down e2e e2e-short test check bench bench-commit failover extremes posix storm fsx replication crash planted sim powercut realwork admission fuzz clean

help: ## list the commands
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z0-9-]+):.*## /make \1|/' | column -t -s '|' 2>/dev/null || \
		grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST)

build: ## build bin/remora, and bin/remora-cluster, which is the part of it that talks to an API server
	@scripts/need build
	CGO_ENABLED=0 go build -trimpath -o bin/ ./cmd/remora ./cmd/remora-cluster

dev: ## run an annotated StatefulSet on this machine, no Kubernetes (DIR=, F=); Ctrl-C stops it
	@scripts/need dev
	@$(MAKE) build
	exec bin/remora dev --dir $(DIR) $(foreach f,$(F),-f $(f))

test: ## all tests that this machine can run, with the race detector (PKG=, RUN=)
	@scripts/need test
	@$(MAKE) build
	@[ '$(PKG)' != ./... ] || go run ./e2e/cluster/binaries/build kube-apiserver >/dev/null # minutes, once: not in a test's time
	go tool gotestsum --format pkgname --format-hide-empty-pkg --jsonfile bin/test.json -- \
		-race -timeout $(TESTTIME) $(RUN) $(PKG)
	@go run ./e2e/skips bin/test.json

image: ## bin/remora-image.tar: the image for all architectures, reproducible, without Docker (IMAGE=, ARCH=)
	@scripts/need build
	go run ./manifests/image/build -name $(IMAGE) -arch $(ARCH) -o bin/remora-image.tar

cluster: ## a real Kubernetes of three nodes on this machine; the first time it is built from its Go modules, which takes minutes
	@scripts/need cluster
	@go build -o bin/cluster ./e2e/cluster
	bin/cluster up

cluster-down: ## stop it; nothing of it is left but the programs in the cache
	@go build -o bin/cluster ./e2e/cluster
	bin/cluster down

e2e: ## tests in a real Kubernetes: the cluster of `make cluster`, or that of KUBECONFIG (RUN='-run TestStatefulSet', ARGS='-kills=3')
	@scripts/need cluster
	@[ -n "$${KUBECONFIG:-}" ] || $(MAKE) cluster
	@$(MAKE) image ARCH=$$(go env GOARCH) IMAGE=remora:dev,remora:dev-next
	go vet -tags kube ./e2e/kube/...
	go run ./manifests/chart/generate -kubectl "$$(go run ./e2e/cluster/binaries/build kube)/kubectl" -check
	go tool gotestsum --format standard-verbose --jsonfile bin/e2e.json -- -tags kube ./e2e/kube -count=1 -timeout 60m $(RUN) -args $(ARGS)
	@go run ./e2e/skips bin/e2e.json

e2e-short: ## what CI runs of it, on a new cluster of this machine that is gone afterwards; a cluster that does not come up fails it
	@scripts/need cluster
	@go build -o bin/cluster ./e2e/cluster
	@unset KUBECONFIG; trap 'bin/cluster down' EXIT; bin/cluster down; bin/cluster up; $(MAKE) e2e RUN='-run "^($(SHORT))"' ARGS='-kills=3'

bench: ## compare a volume with a plain directory of the same disk, and with an unsealed one (BENCH='-only w1 -rounds 5')
	@scripts/need bench
	@$(MAKE) build
	go build -o bin/bench ./e2e/bench
	bin/bench $(BENCH)
	@[ -n '$(BENCH)' ] || bin/bench -against unsealed -only w1,w2,w4,w5 -json bin/bench-sealing.json

crash: ## crash random histories at POINTS points of a simulated disk (SEED= repeats one)
	go test ./sidecar/replication -run '^TestCrashPoints$$' -v -count=1 -timeout 24h -points $(POINTS) $(if $(SEED),-seed $(SEED))

planted: ## plant bugs in the code, one at a time; the crash points must find each
	go test -tags planted ./sidecar/replication -run '^TestPlanted' -v -count=1 -timeout 2h

sim: ## simulate SEEDS groups of replicas with all faults, from the seed FROM on (SEED= repeats one, and tells its story; TWICE=1)
	@[[ '$(SEEDS)' =~ ^[1-9][0-9]*$$ && '$(FROM)$(SEED)' =~ ^[0-9]+$$ ]] || \
		{ echo 'make sim: SEEDS=$(SEEDS) FROM=$(FROM) SEED=$(SEED): want numbers, of seeds at least 1: make sim SEEDS=500 FROM=1' >&2; exit 2; }
	go test ./sidecar/replication -run '^TestSimulation$$' -v -count=1 -timeout 24h -args -sim $(SEEDS) -sim-from $(FROM) \
		$(if $(SEED),-sim-seed $(SEED)) $(if $(TWICE),-sim-twice)

posix: ## what POSIX promises of names, modes, owners, times and errors: on ext4, XFS, a volume, and a volume whose sidecar is killed
	@scripts/need test
	go test ./e2e/conformance -run '^TestRuler$$' -count=1 -v
	go test ./e2e -run '^Test(Posix|Conformance|ConformanceDeath)$$' -count=1 -v -args -many-links

failover: ## the node of a volume with SIZE MiB and FILES files fails ROUNDS times; until it is mounted elsewhere (CHANGED= MiB: a disk comes back)
	@scripts/need bench
	@$(MAKE) build
	go build -o bin/bench ./e2e/bench
	bin/bench failover -rounds $(or $(ROUNDS),20) -size $(or $(SIZE),10) -files $(or $(FILES),0) -changed $(or $(CHANGED),0)

bench-commit: ## a commit of three replicas without the kernel, beside three bare logs (ROUNDS=3 FOR=3s PEERS=tmpfs or disk, COUNT=1: instructions, switches, objects)
	go test ./e2e/bench/commit -run '^TestCommit$$' -v -count=1 -timeout 1h -args -rounds $(or $(ROUNDS),3) -for $(or $(FOR),3s) -peers $(or $(PEERS),tmpfs) -depths 1,4,16 $(if $(COUNT),-instructions)

extremes: ## 100,000 open files, a directory of a million entries, a killed write of 1 GiB
	@scripts/need test
	go test ./e2e -run '^Test(ManyOpenFiles|LargeDirectory|KilledInAWrite)$$' -count=1 -v -timeout 60m -args -open-files=100000 -entries=1000000

storm: ## kill -9 the sidecar KILLS times under pgbench, random I/O and a metadata storm; prints the longest pause
	@scripts/need test
	go test ./e2e -run '^TestStorm$$' -count=1 -v -timeout 60m -args -kills=$(KILLS)

fsx: ## OPS random calls on each of SEEDS files, and on trees, compared with a model; kills the sidecar KILLS times in each test (SEED=)
	@scripts/need test
	go test ./e2e/fsx -count=1 -v -parallel 1 -timeout 6h -args -seeds=$(SEEDS) -ops=$(OPS) -kills=$(KILLS) -names=$(OPS) \
		-rounds=$$((($(SEEDS) + 3) / 4)) $(if $(SEED),-seed=$(SEED))

replication: ## pgbench on three copies for MINUTES while replicas are killed, paused, cut off and restarted; then its node fails (SEED=)
	@scripts/need test
	go test ./e2e -run '^TestPostgresThreeCopies$$' -count=1 -v -timeout 12h -args -minutes=$(MINUTES) $(if $(SEED),-fault-seed=$(SEED))

powercut: ## cut the power of ext4 IMAGES times and of XFS a fifth of that, shut them down, let their disks fail (SEED=)
	@scripts/need test
	go test ./e2e/powercut -count=1 -v -timeout 6h -args -images=$(IMAGES) -xfs-images=$$(($(IMAGES) / 5)) -shutdowns=50 -faults=100 -steps=300 \
		$(if $(SEED),-seed=$(SEED))

realwork: ## Linux and PostgreSQL untarred, built, diffed, in git and rsync on a volume, PostgreSQL's own tests, an LSM tree (WORK=TestTrees)
	@scripts/need realwork
	go vet -tags realwork ./e2e
	go test -tags realwork ./e2e -run '^($(WORK))$$' -v -count=1 -timeout 4h -args -lsm=5000 \
		-linux="$$(ls /usr/src/linux-source-*.tar.xz | tail -n 1)" -postgres="$$(scripts/sources postgresql-$$(ls /usr/lib/postgresql | sort -V | tail -n 1) .cache/sources)"

admission: ## what an admission costs: latency at 50 pods/s, memory and processor time of `remora webhook`, asked as an API server asks it
	go vet -tags load ./webhook/admission
	go test -tags load ./webhook/admission -run '^TestLoad$$' -count=1 -v -timeout 10m -args -load=60s

fuzz: ## every fuzz target for FUZZTIME each
	@scripts/fuzz $(FUZZTIME)

clean: ## remove what was built; data of `make dev` stays
	rm -rf bin .cache

# --- make check: every step can be run alone ------------------------------------------------------------------------------

STEPS := fmt vet staticcheck errorlint arrows vulns tidy generate
.PHONY: $(STEPS)

check: ## gofmt, vet, staticcheck, errorlint, import arrows, known vulnerabilities, go mod tidy, go generate
	@scripts/need check
	@failed=; for step in $(STEPS); do echo "check: $$step"; $(MAKE) $$step || failed="$$failed $$step"; done; \
	if [ -n "$$failed" ]; then echo "check: FAILED:$$failed (run one alone: make STEP)" >&2; exit 1; fi; echo "check: ok"

fmt:
	@out=$$(git ls-files -z --cached --others --exclude-standard '*.go' | xargs -0 -r ls -d 2>/dev/null | \
		xargs -r "$$(go env GOROOT)/bin/gofmt" -l); \
	if [ -n "$$out" ]; then echo "not gofmt'ed: run gofmt -w on"; echo "$$out"; exit 1; fi

vet:
	@go vet ./...

staticcheck:
	@go tool staticcheck ./...

errorlint:
	@go tool go-errorlint ./...

arrows: # of docs/architecture.md; without a readable configuration depguard would check something else, and pass
	@out=$$(go tool depguard ./... 2>&1) && status=0 || status=$$?; [ -z "$$out" ] || echo "$$out"; \
	case "$$out" in *"default configuration"*) status=1;; esac; exit $$status

vulns:
	@scripts/vulns $(VULNDB)

tidy:
	@go mod tidy -diff

generate: # nothing that go generate writes may differ from what is here; works in a tree with changes of your own, too
	@state() { git diff HEAD --binary; git ls-files -z --others --exclude-standard | xargs -0 -r sha256sum; }; \
	before=$$(state | sha256sum); go generate ./...; \
	if [ "$$before" != "$$(state | sha256sum)" ]; then echo "go generate changed files:"; git status --short; exit 1; fi
