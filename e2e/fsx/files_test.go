package fsx

import (
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// first is the first seed of a test.
func first(t *testing.T) uint64 {
	t.Helper()
	seed := *firstArg
	if seed == 0 {
		seed = rand.Uint64N(1 << 40)
	}
	t.Logf("first seed %d", seed)
	return seed
}

// batch is seeds whose files are worked on at the same time.
type batch struct {
	t      *testing.T
	dir    string // where the files are
	states string // where the models are
	place  string // "volume" or "ruler"
	does   string // the worker: "exercise" or "drive"
	looks  string // the worker that compares: "verify" or "verifylanes"
	seeds  []uint64
	said   map[string]int // what profiles and abilities the workers had
}

func (b *batch) path(seed uint64) string { return filepath.Join(b.dir, strconv.FormatUint(seed, 10)) }
func (b *batch) state(seed uint64) string {
	return filepath.Join(b.states, strconv.FormatUint(seed, 10))
}

// exercise starts a worker for each seed.
func (b *batch) exercise() (all []*worker) {
	for _, seed := range b.seeds {
		run(b.t, "mkdir", "-p", b.path(seed))
		all = append(all, startWorker(b.t, b.does, b.path(seed), b.state(seed), strconv.FormatUint(seed, 10), strconv.Itoa(*ops), b.place))
	}
	return all
}

// finish notes what the workers said, and removes the files after a last look at them.
func (b *batch) finish(all []*worker) {
	for n, w := range all {
		said, _, _ := strings.Cut(w.out.String(), ";")
		b.said[said]++
		if b.place == "volume" { // Linux does not pass collapse and insert on to FUSE servers
			require.NotContains(b.t, said, "O_DIRECT")
		}
		run(b.t, programs.Self, "worker", b.looks, b.path(b.seeds[n]), b.state(b.seeds[n]))
		run(b.t, "rm", "-r", b.path(b.seeds[n]))
	}
}

func repeatFiles(test string, seed uint64) string {
	return fmt.Sprintf("go test ./e2e/fsx -run '^%s$' -count=1 -v -args -seed=%d -seeds=1 -ops=%d -kills=%d", test, seed, *ops, *kills)
}

// batches calls do for all seeds, some at a time.
func batches(t *testing.T, b batch, do func(b *batch, n int)) {
	t.Helper()
	b.t, b.states, b.said = t, tempDir(t), map[string]int{}
	from := first(t)
	for n := 0; n*(*jobs) < *seeds; n++ {
		b.seeds = nil
		for k := n * *jobs; k < min((n+1)*(*jobs), *seeds); k++ {
			b.seeds = append(b.seeds, from+uint64(k))
		}
		do(&b, n)
	}
	for said, times := range b.said {
		t.Logf("%d seeds: %s", times, said)
	}
}

// ruler works on files of a plain directory: what is found there is wrong in the tests.
func ruler(t *testing.T, does, looks string) {
	t.Helper()
	t.Parallel()
	k := newKiller(nil, 0)
	batches(t, batch{dir: tempDir(t), place: "ruler", does: does, looks: looks}, func(b *batch, _ int) {
		all := b.exercise()
		k.wait(t, all, false, func(n int) string { return repeatFiles(t.Name(), b.seeds[n]) })
		b.finish(all)
	})
}

// volume works on files of a volume, and kills the sidecar under every second batch.
func volume(t *testing.T, annotations, does, looks string) {
	t.Helper()
	t.Parallel()
	i := startDev(t, annotations)
	used := i.status().Used
	k := newKiller(i, rand.Uint64())
	batches(t, batch{dir: i.mount, place: "volume", does: does, looks: looks}, func(b *batch, n int) {
		all := b.exercise()
		k.wait(t, all, n%2 == 1 || *seeds <= *jobs, func(n int) string { return repeatFiles(t.Name(), b.seeds[n]) })
		k.remount()
		b.finish(all)
		i.empty(used)
		if n%5 == 4 {
			t.Logf("%d seeds done", (n+1)**jobs)
		}
	})
	i.check()
	t.Logf("%d operations on %d seeds, %v", *seeds**ops, *seeds, k)
	require.True(t, *kills == 0 || k.done > 0, "the sidecar was not killed once")
}

// TestFiles works on files, each with one process.
func TestFiles(t *testing.T) { volume(t, sealed, "exercise", "verify") }

// TestFilesRuler is TestFiles on a plain directory.
func TestFilesRuler(t *testing.T) { ruler(t, "exercise", "verify") }

// TestLanes works on files, each with four threads at the same time, of a volume that is not sealed.
func TestLanes(t *testing.T) { volume(t, unsealed, "drive", "verifylanes") }

// TestLanesRuler is TestLanes on a plain directory.
func TestLanesRuler(t *testing.T) { ruler(t, "drive", "verifylanes") }
