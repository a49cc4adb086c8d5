//go:build realwork

package e2e

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// These take minutes each and need packages that `make test` does not: `make realwork` brings them.

// TestGitOfATree keeps a source tree in Git: all of it is added, removed, brought back, packed and checked.
func TestGitOfATree(t *testing.T) {
	w := newRealWork(t)
	w.tree()
	git := func(title, script string) string {
		t.Helper()
		return w.both(title, 30*time.Minute, `cd tree
			export HOME="$0" GIT_CONFIG_NOSYSTEM=1 GIT_AUTHOR_DATE="2026-01-01T00:00:00Z" GIT_COMMITTER_DATE="2026-01-01T00:00:00Z"
			git() { command git -c user.name=t -c user.email=t@example.com -c gc.auto=0 -c core.fsync=all "$@"; }
			`+script)
	}
	git("git init; git add", `git init -q -b main; git add -A -f`)
	git("git commit", `git commit -q -m all`)
	git("git status", `git status --porcelain`)
	biggest := strings.TrimSpace(w.sh(time.Minute, w.plain, `cd tree; du -s */ | sort -n | tail -n 1 | cut -f 2`))
	git("git rm -r "+biggest+"; git commit", `git switch -q -c less; git rm -r -q `+biggest+`; git commit -q -m less; git status --porcelain`)
	git("git switch main", `git switch -q main; git status --porcelain`)
	git("git switch less; git switch main", `git switch -q less; git switch -q main; git status --porcelain`)
	git("change 1,000 files; git commit; git merge", `git ls-files '*.go' '*.c' | grep -v "^`+biggest+`" | head -n 1000 | while read -r f; do echo >>"$f"; done
		git commit -q -a -m changed; git merge -q less -m merged; git status --porcelain; git rev-parse HEAD`)
	git("git reset --hard HEAD~1", `git reset -q --hard HEAD~1; git status --porcelain; git rev-parse HEAD`)
	collecting := w.script(w.mount, `cd tree; git -c gc.auto=0 gc -q --prune=now`).start()
	w.i.killSidecar("db-0")
	began := time.Now()
	collecting.ok(30 * time.Minute)
	t.Logf("%-48s %.1f s", "git gc, its sidecar killed", time.Since(began).Seconds())
	w.forget()
	git("git fsck, cold", `git fsck --full --strict --no-progress 2>&1 | grep -v -E '^(dangling|notice|warning)' || true; git rev-parse main less`)
	w.sh(20*time.Minute, w.plain, `rm -rf clone; git clone -q "$1"/tree clone && diff -r --no-dereference -x .git tree clone`, w.mount)
}

// TestRsync copies a tree from the disk to the volume and back, changes it on the way, and compares checksums.
func TestRsync(t *testing.T) {
	w := newRealWork(t)
	w.tree()
	for _, step := range []struct{ title, from, to string }{
		{"rsync to the volume", w.plain + "/tree/", w.mount + "/synced/"},
		{"rsync from the volume", w.mount + "/synced/", w.plain + "/back/"},
	} {
		began := time.Now()
		w.sh(20*time.Minute, w.plain, `rsync -aHX --delete "$1" "$2"`, step.from, step.to)
		t.Logf("%-48s %.1f s", step.title, time.Since(began).Seconds())
		w.forget()
		began = time.Now()
		require.Empty(t, w.sh(20*time.Minute, w.plain, `rsync -aHXcni --delete "$1" "$2"`, step.from, step.to))
		t.Logf("%-48s %.1f s", "  compare checksums, cold", time.Since(began).Seconds())
	}
	w.sh(10*time.Minute, w.mount+"/synced", `find . -type f -name '*.h' | head -n 3000 | while read -r f; do echo changed >>"$f"; done
		find . -type f -name 'Kconfig' -delete; find . -type f -name Makefile | head -n 500 | while read -r f; do mv "$f" "$f.moved"; done`)
	began := time.Now()
	w.sh(20*time.Minute, w.plain, `rsync -aHX --inplace --delete "$1" "$2"`, w.mount+"/synced/", w.plain+"/back/")
	w.sh(20*time.Minute, w.plain, `rsync -aHX --inplace --delete "$1" "$2"`, w.plain+"/back/", w.mount+"/tree/")
	t.Logf("%-48s %.1f s", "changes, both ways", time.Since(began).Seconds())
	require.Empty(t, w.sh(20*time.Minute, w.plain, `rsync -aHXcni --delete "$1" "$2"`, w.mount+"/synced/", w.mount+"/tree/"))
}

// TestLinuxBuild builds a small kernel on both sides, the sidecar killed on the way: the kernels must be the same, byte by byte.
func TestLinuxBuild(t *testing.T) {
	w := newRealWork(t)
	w.tree()
	build := `cd tree; export KBUILD_BUILD_TIMESTAMP=2026-01-01 KBUILD_BUILD_USER=t KBUILD_BUILD_HOST=t
		make -s tinyconfig >/dev/null 2>&1; make -s -j2 vmlinux >../log 2>&1 || { tail -n 20 ../log; exit 1; }; sha256sum vmlinux; nm vmlinux | wc -l`
	began := time.Now()
	building := w.script(w.mount, build).start()
	killed := w.i.killEvery(15*time.Second, building)
	got := building.ok(30 * time.Minute)
	t.Logf("%-48s %.1f s, %d kills", "make tinyconfig, vmlinux on the volume", time.Since(began).Seconds(), <-killed)
	began = time.Now()
	want := w.sh(30*time.Minute, w.plain, build)
	t.Logf("%-48s %.1f s", "  the same on the directory", time.Since(began).Seconds())
	require.Equal(t, want, got)
	t.Log(strings.ReplaceAll(strings.TrimSpace(got), "\n", ", "), " symbols")
	w.both("make clean", 10*time.Minute, `cd tree; make -s mrproper; find . -type f | wc -l`)
}
