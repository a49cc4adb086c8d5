package replication_test

import (
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/stretchr/testify/require"

	"github.com/remora-storage/remora/cachefs"
	"github.com/remora-storage/remora/cachefs/meta"
	"github.com/remora-storage/remora/cachefs/record"
	"github.com/remora-storage/remora/disk"
)

// punchFS tells when a punch of a slot begins and ends, and takes its time for it, as a disk does that discards what is freed.
type punchFS struct {
	disk.FS
	begins, ends func()
}

func (f punchFS) OpenReadWrite(name string, c disk.WriteCategory, opts ...disk.OpenOption) (disk.File, error) {
	file, err := f.FS.OpenReadWrite(name, c, opts...)
	return punchFile{file, f}, err
}

type punchFile struct {
	disk.File
	fs punchFS
}

func (f punchFile) PunchHole(_, n int64) error {
	if n < record.ChunkSize { // zeros that were written
		return nil
	}
	f.fs.begins()
	defer f.fs.ends()
	time.Sleep(10 * time.Millisecond)
	return nil
}

// TestGivesBackBetweenBatches: a large file is deleted on a disk that is slow to take blocks back. What is written meanwhile is applied between
// two punches, and the disk is left alone for most of the time. (It stood still for the time of all of them: 16 s for 336 MiB where ext4 discards
// what it frees; and each sync for up to 30 ms, when they came one after the other.)
func TestGivesBackBetweenBatches(t *testing.T) {
	c := newTrio(t)
	n := c.emptyOn(vfs.NewMem(), 1) // no crash, and so no copy of all that is synced
	const batch, chunks, warm = 128, 80, 64
	var mu sync.Mutex
	var punches, kept int
	var ended time.Time
	var rest = time.Hour          // the shortest one
	var applied, due record.Index // when the last punch began; due: a whole batch was waiting then
	n.fs = punchFS{n.fs, func() {
		n.trio.mu.Lock()
		g := n.group
		n.trio.mu.Unlock()
		if g == nil { // it is being opened, or closed
			return
		}
		st := g.Status()
		mu.Lock()
		defer mu.Unlock()
		if !ended.IsZero() {
			rest = min(rest, time.Since(ended))
		}
		if punches++; due != 0 && st.Applied < due {
			kept++
		}
		if applied, due = st.Applied, 0; st.Committed >= applied+batch {
			due = applied + 1
		}
	}, func() {
		mu.Lock()
		defer mu.Unlock()
		ended = time.Now()
	}}
	n.start([]uint64{1})
	n.own(true)
	caller := &cachefs.Caller{}
	n.file("large", chunks<<20)
	large, err := n.fs1.Lookup(meta.Root, "large")
	require.NoError(t, err)
	a, err := n.fs1.Create(caller, meta.Root, "small", cachefs.Node{Mode: syscall.S_IFREG | 0o600})
	require.NoError(t, err)
	require.NoError(t, n.fs1.Unlink(caller, meta.Root, "large"))
	n.fs1.Forget(large.Ino, 1<<40)
	block := make([]byte, record.BlockSize)
	for end := time.Now().Add(time.Minute); ; {
		for k := range 2 * batch {
			require.NoError(t, n.fs1.Admit())
			_, err := n.fs1.Write(caller, a.Ino, uint64(k%8)*record.BlockSize, block, false)
			require.NoError(t, err)
		}
		require.NoError(t, n.fs1.Sync(t.Context(), caller))
		mu.Lock()
		p, k, r := punches, kept, rest
		mu.Unlock()
		require.GreaterOrEqual(t, r, 50*time.Millisecond, "between two punches of 10 ms")
		require.Zero(t, k, "punches that did not wait for a batch that was there before the one before them")
		if p >= chunks-warm {
			return
		}
		require.True(t, time.Now().Before(end), "%d slots were given back of %d", p, chunks-warm)
	}
}
