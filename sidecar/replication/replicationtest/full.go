package replicationtest

import (
	"fmt"
	"math/rand/v2"
	"sort"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/remora-storage/remora/cachefs"
	"github.com/remora-storage/remora/disk"
	"github.com/remora-storage/remora/disk/faultfs"
)

// NewDisk makes a disk for the directory "node".
func NewDisk(t testing.TB, seed uint64) *faultfs.FS {
	fs := faultfs.New(rand.New(rand.NewPCG(seed, 12)))
	require.NoError(t, fs.MkdirAll("node", 0o755))
	require.NoError(t, disk.SyncDir(fs, "/"))
	return fs
}

// NewSmallHistory is a history of little work on a disk of its own.
func NewSmallHistory(t testing.TB, seed uint64, fs disk.FS) *History {
	return newHistory(t, rand.New(rand.NewPCG(seed, 0)), fs, "node", Small)
}

// FullStep is Step on a disk that may be full: an operation that is refused with ENOSPC must have changed nothing, and any other error
// is returned.
func (h *History) FullStep() (full bool, err error) {
	before := h.states[len(h.states)-1]
	err = h.TryStep()
	if err == nil {
		return false, nil
	}
	if !strings.Contains(err.Error(), syscall.ENOSPC.Error()) {
		return false, err
	}
	last := len(h.states) - 1
	h.states[last] = before
	h.see(last, last, int(h.seen.durable.Load()))
	return true, nil
}

// Same compares the volume with the model.
func (h *History) Same() { require.Equal(h.t, h.model.String(), DescribeFS(h.t, h.vol)) }

// Err is why the replica has stopped.
func (h *History) Err() error { return h.group.Status().Err }

// RemoveAll removes every name, as rm -r does, while the disk may be full.
func (h *History) RemoveAll() {
	var paths []string
	for p := range h.model.nodes {
		if p != "" {
			paths = append(paths, p)
		}
	}
	sort.Sort(sort.Reverse(sort.StringSlice(paths)))
	for _, p := range paths {
		dir, name := split(p)
		ino := h.ino(p)
		remove := h.vol.Unlink
		if h.model.nodes[p].mode&syscall.S_IFMT == syscall.S_IFDIR {
			remove = h.vol.Rmdir
		}
		require.NoError(h.t, h.vol.Admit(), "remove %s", p)
		require.NoError(h.t, remove(h.caller(), h.ino(dir), name), "remove %s", p)
		delete(h.model.nodes, p)
		h.noteState(h.model.String())
		last := len(h.states) - 1
		h.see(last, last, int(h.seen.durable.Load()))
		h.vol.Forget(ino, 1<<40)
	}
}

// Fits writes a file of n bytes and tells whether there was space for it; the file is removed again.
func (h *History) Fits(n int) bool {
	const name = "fits"
	a, err := h.vol.Create(h.caller(), h.ino(""), name, cachefs.Node{Mode: syscall.S_IFREG | 0o600})
	if err == nil {
		for off := 0; off < n && err == nil; off += 32 << 10 {
			_, err = h.vol.Write(h.caller(), a.Ino, uint64(off), make([]byte, 32<<10), false)
		}
		require.NoError(h.t, h.vol.Unlink(h.caller(), h.ino(""), name))
		h.vol.Forget(a.Ino, 1<<40)
	}
	if err != nil {
		require.ErrorIs(h.t, err, syscall.ENOSPC)
	}
	return err == nil
}

// Watch takes images of the disk while it is used, as Crashes does; verify recovers them and returns what is wrong.
func (h *History) Watch(t testing.TB, fs *faultfs.FS, seed uint64, most int) (verify func() *Found) {
	col := &collector{fs: fs, rng: rand.New(rand.NewPCG(seed, 13)), other: 6, most: most, h: h}
	fs.Watch(col.hooks())
	return func() *Found {
		fs.Watch(nil)
		r := &crashes{Crashes: Crashes{Seed: seed, Tuning: h.tuning}, t: t, h: h, found: &Found{Histories: 1}}
		r.verifyAll(0, col.images)
		r.found.Nonces = h.Nonces()
		return r.found
	}
}

// Eventually waits until something is true.
func Eventually(t testing.TB, what string, is func() bool) {
	t.Helper()
	for range 500 {
		if is() {
			return
		}
		time.Sleep(10 * time.Millisecond) // the disk has no event for it
	}
	require.Fail(t, fmt.Sprintf("not within 5 s: %s", what))
}
