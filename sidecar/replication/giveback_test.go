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

// punchFS tells when a punch begins, and takes its time for it, as a disk does that discards what is freed.
type punchFS struct {
	disk.FS
	begins func()
}

func (f punchFS) OpenReadWrite(name string, c disk.WriteCategory, opts ...disk.OpenOption) (disk.File, error) {
	file, err := f.FS.OpenReadWrite(name, c, opts...)
	return punchFile{file, f.begins}, err
}

type punchFile struct {
	disk.File
	begins func()
}

func (f punchFile) PunchHole(int64, int64) error {
	f.begins()
	time.Sleep(10 * time.Millisecond)
	return nil
}

// TestGivesBackBetweenBatches: a large file is deleted on a disk that is slow to take blocks back. What is written meanwhile is applied between
// two punches. (It stood still for the time of all of them: 16 s for 336 MiB where ext4 discards what it frees.)
func TestGivesBackBetweenBatches(t *testing.T) {
	c := newTrio(t)
	n := c.emptyOn(vfs.NewMem(), 1) // no crash, and so no copy of all that is synced
	const batch, chunks, warm = 128, 80, 64
	var mu sync.Mutex
	var punches, kept int
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
		if punches++; due != 0 && st.Applied < due {
			kept++
		}
		if applied, due = st.Applied, 0; st.Committed >= applied+batch {
			due = applied + 1
		}
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
		p, k := punches, kept
		mu.Unlock()
		require.Zero(t, k, "punches that did not wait for a batch that was there before the one before them")
		if p >= chunks-warm {
			return
		}
		require.True(t, time.Now().Before(end), "%d slots were given back of %d", p, chunks-warm)
	}
}
