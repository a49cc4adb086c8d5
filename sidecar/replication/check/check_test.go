package check_test

import (
	"context"
	"encoding/hex"
	"flag"
	"fmt"
	"hash/crc32"
	"io"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/stretchr/testify/require"

	"github.com/remora-storage/remora/disk"
	"github.com/remora-storage/remora/sidecar/replication/check"
	"github.com/remora-storage/remora/sidecar/replication/replicationtest"
)

var (
	seeds = flag.Int("seeds", 3, "random histories")
	seed  = flag.Uint64("seed", 0, "run this one alone")
)

// eachSeed runs a test for random seeds, and prints them.
func eachSeed(t *testing.T, n int, test func(t *testing.T, rng *rand.Rand)) {
	for i := range n {
		s := uint64(i + 1)
		if *seed != 0 {
			s = *seed
		}
		t.Run(fmt.Sprintf("seed=%d", s), func(t *testing.T) { test(t, rand.New(rand.NewPCG(s*0x9e3779b97f4a7c15, s))) })
		if *seed != 0 {
			return
		}
	}
}

// tree is a fingerprint of every file below a directory.
func tree(t testing.TB, fs disk.FS, dir string) map[string]string {
	found := map[string]string{}
	var walk func(path string)
	walk = func(path string) {
		st, err := fs.Stat(path)
		require.NoError(t, err)
		if !st.IsDir() {
			found[path] = fmt.Sprintf("%d bytes %08x", st.Size(), crc32.ChecksumIEEE(read(t, fs, path)))
			return
		}
		names, err := fs.List(path)
		require.NoError(t, err)
		slices.Sort(names)
		found[path] = fmt.Sprint(names)
		for _, n := range names {
			walk(filepath.Join(path, n))
		}
	}
	walk(dir)
	return found
}

func read(t testing.TB, fs disk.FS, path string) []byte {
	t.Helper()
	f, err := fs.Open(path)
	require.NoError(t, err)
	defer f.Close()
	b, err := io.ReadAll(f)
	require.NoError(t, err)
	return b
}

func run(t testing.TB, fs disk.FS, dir string) check.Report {
	r, err := check.Run(context.Background(), check.Config{FS: fs, Dir: dir, KeyDir: "keys"})
	require.NoError(t, err)
	return r
}

func requireClean(t testing.TB, fs disk.FS, dir string) check.Report {
	before := tree(t, fs, dir)
	r := run(t, fs, dir)
	for _, f := range r.Findings {
		t.Error(f)
	}
	require.Empty(t, r.Findings)
	require.Equal(t, before, tree(t, fs, dir), "a check must not change a byte")
	return r
}

// wreck is what a crash leaves of a history's disk, with the volume's key beside it.
func wreck(t testing.TB, h *replicationtest.History, percent int) *vfs.MemFS {
	fs := h.Wreck(percent)
	if key := h.Key(); key != nil {
		require.NoError(t, fs.MkdirAll("keys", 0o700))
		write(t, fs, "keys/v.key", []byte(hex.EncodeToString(key)+"\n"))
	}
	return fs
}

func write(t testing.TB, fs disk.FS, path string, b []byte) {
	f, err := fs.Create(path, disk.Category)
	require.NoError(t, err)
	_, err = f.Write(b)
	require.NoError(t, err)
	require.NoError(t, f.Close())
}

// TestCleanHistories: there is nothing to find in what the product wrote, wherever it was when the power went.
func TestCleanHistories(t *testing.T) {
	eachSeed(t, *seeds, func(t *testing.T, rng *rand.Rand) {
		h := replicationtest.NewMemHistory(t, rng)
		defer func() { h.Stop() }()
		wrecks := 0
		for range 3 {
			for range 30 + rng.IntN(60) {
				h.Step()
				if rng.IntN(12) == 0 {
					requireClean(t, wreck(t, h, []int{0, 30, 70, 100}[rng.IntN(4)]), h.Root())
					wrecks++
				}
			}
			h.CrashAndCheck()
		}
		r := requireClean(t, wreck(t, h, 0), h.Root())
		require.Len(t, r.Replicas, 1)
		t.Logf("%d wrecks; the last has %+v", wrecks, r.Replicas[0])
	})
}

// TestServed: a disk that somebody serves is not looked at.
func TestServed(t *testing.T) {
	h := replicationtest.NewMemHistory(t, rand.New(rand.NewPCG(1, 1)))
	defer h.Stop()
	r := run(t, h.FS(), h.Root())
	require.Len(t, r.Findings, 1)
	require.Contains(t, r.Findings[0].String(), "a sidecar is serving this directory")
	require.Empty(t, r.Replicas)
}
