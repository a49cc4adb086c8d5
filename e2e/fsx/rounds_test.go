package fsx

import (
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"strconv"
	"testing"

	"github.com/stretchr/testify/require"
)

const processes = 8

// round is one of TestNames: eight processes, each with a tree of its own, and one directory for all.
type round struct {
	t      *testing.T
	dir    string // where the trees are
	states string // where the models are
	seed   uint64
	age    uint64 // rounds since the trees were new
}

func (r *round) tree(n int) string  { return filepath.Join(r.dir, "tree"+strconv.Itoa(n)) }
func (r *round) state(n int) string { return filepath.Join(r.states, "tree"+strconv.Itoa(n)) }
func (r *round) tally(n int) string { return filepath.Join(r.states, "tally"+strconv.Itoa(n)) }
func (r *round) shared() string     { return filepath.Join(r.dir, "shared") }

func (r *round) start() (all []*worker) {
	if r.age == 0 {
		run(r.t, "mkdir", r.shared())
		run(r.t, programs.Self, "worker", "makeshared", r.shared())
	}
	for n := range processes {
		run(r.t, "mkdir", "-p", r.tree(n))
		all = append(all, startWorker(r.t, "tree", r.tree(n), r.state(n), strconv.FormatUint(r.seed+uint64(n), 10), strconv.Itoa(*names),
			r.shared(), r.tally(n)))
	}
	return all
}

// compare compares everything with the models.
func (r *round) compare() {
	r.t.Helper()
	tallies := []string{"worker", "sameshared", r.shared()}
	for n := range processes {
		run(r.t, programs.Self, "worker", "sametree", r.tree(n), r.state(n))
		tallies = append(tallies, r.tally(n))
	}
	run(r.t, programs.Self, tallies...)
}

// repeat is the command for the rounds in which the trees lived.
func (r *round) repeat(int) string {
	return fmt.Sprintf("go test ./e2e/fsx -run '^%s$' -count=1 -v -args -seed=%d -rounds=%d -names=%d -kills=%d", r.t.Name(), r.seed-r.age*processes,
		r.age+1, *names, *kills)
}

// eachRound runs the rounds. A tree lives for three of them.
func eachRound(t *testing.T, dir string, do func(r *round, all []*worker, n int)) {
	t.Helper()
	r := &round{t: t, dir: dir, seed: first(t)}
	for n := range *rounds {
		if r.age = uint64(n % 3); r.age == 0 {
			run(t, programs.Self, "worker", "removein", dir)
			r.states = tempDir(t)
		}
		all := r.start()
		do(r, all, n)
		if n == 0 {
			t.Logf("the first process: %s", all[0].out.String())
		}
		r.seed += processes
	}
	run(t, programs.Self, "worker", "removein", dir)
}

// TestNamesRuler works on names of a plain directory: what is found there is wrong in the tests.
func TestNamesRuler(t *testing.T) {
	t.Parallel()
	k := newKiller(nil, 0)
	eachRound(t, tempDir(t), func(r *round, all []*worker, _ int) {
		k.wait(t, all, false, r.repeat)
		r.compare()
	})
}

// TestNames works on names of a volume, and kills the sidecar in every second round.
func TestNames(t *testing.T) {
	t.Parallel()
	i := startDev(t, sealed)
	used := i.status().Used
	k := newKiller(i, rand.Uint64())
	eachRound(t, i.mount, func(r *round, all []*worker, n int) {
		k.wait(t, all, n%2 == 1 || *rounds == 1, r.repeat)
		r.compare()
		if k.left < *kills { // once more, from a sidecar that has just started
			k.kill()
			r.compare()
		}
		k.remount()
		r.compare()
	})
	i.empty(used)
	i.check()
	t.Logf("%d operations of %d processes, %v", *rounds**names*processes, processes, k)
	require.True(t, *kills == 0 || k.done > 0, "the sidecar was not killed once")
}
