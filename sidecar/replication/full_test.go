package replication_test

import (
	"bytes"
	"fmt"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/remora-storage/remora/cachefs"
	"github.com/remora-storage/remora/cachefs/meta"
	"github.com/remora-storage/remora/disk/faultfs"
	"github.com/remora-storage/remora/sidecar/replication/replicationtest"
)

// TestFullDisk fills a small disk again and again: what is refused changes nothing, reading and deleting go on, space comes back
// without a restart, and crashes at any moment lose nothing.
func TestFullDisk(t *testing.T) {
	refused, images := 0, 0
	for s := uint64(1); s <= uint64(*seeds)/4; s++ {
		t.Run(fmt.Sprintf("seed=%d", s), func(t *testing.T) {
			fs := replicationtest.NewDisk(t, s)
			h := replicationtest.NewSmallHistory(t, s, fs)
			defer func() { h.Stop() }()
			fs.Limit(fs.Used() + 850<<10 + int64(s%5)*(100<<10))
			verify := h.Watch(t, fs, s, 25)
			for range 2 {
				for k := 0; k < 10; {
					full, err := h.FullStep()
					require.NoError(t, err)
					if full {
						k++
						refused++
					}
				}
				h.Same()
				h.RemoveAll()
				replicationtest.Eventually(t, "space comes back", func() bool { return h.Fits(150 << 10) })
				require.NoError(t, h.Sync())
				require.NoError(t, h.Err())
			}
			h.Same()
			found := verify()
			images += found.Points
			require.Empty(t, found.Violations)
		})
	}
	t.Logf("%d operations refused, %d crash points", refused, images)
}

// TestFullDiskGoesOn: what does not make the volume larger goes on for as long as one likes while the disk is full: the journal of it is
// given back, and the reserve does not run out.
func TestFullDiskGoesOn(t *testing.T) {
	fs := replicationtest.NewDisk(t, 1)
	h := replicationtest.NewSmallHistory(t, 1, fs)
	defer func() { h.Stop() }()
	fs.Limit(fs.Used() + 1200<<10)
	vol, caller := h.Volume(), &cachefs.Caller{}
	file := func(name string) meta.Ino {
		a, err := vol.Create(caller, meta.Root, name, cachefs.Node{Mode: syscall.S_IFREG | 0o600})
		require.NoError(t, err)
		return a.Ino
	}
	small, large := file("small"), file("large")
	for off := uint64(0); ; off += 32 << 10 {
		_, err := vol.Write(caller, large, off, bytes.Repeat([]byte{7}, 32<<10), false)
		if err != nil {
			require.ErrorIs(t, err, syscall.ENOSPC)
			break
		}
	}
	names := [2]string{"small", "llams"}
	for k := range 600 {
		require.NoError(t, vol.Admit())
		mode, size := uint32(0o600+k%2), uint64(0)
		_, err := vol.SetAttr(caller, small, cachefs.SetAttr{Mode: &mode, Size: &size})
		require.NoError(t, err, "operation %d", k)
		require.NoError(t, vol.Rename(caller, meta.Root, names[k%2], meta.Root, names[1-k%2], 0), "operation %d", k)
		require.NoError(t, vol.Fallocate(caller, large, cachefs.FallocPunchHole|cachefs.FallocKeepSize, 100, 200), "operation %d", k)
		if k%200 == 0 {
			require.ErrorIs(t, vol.Fallocate(caller, small, 0, 0, 1<<20), syscall.ENOSPC)
		}
	}
	require.NoError(t, vol.Unlink(caller, meta.Root, "large"))
	vol.Forget(large, 1)
	replicationtest.Eventually(t, "space comes back", func() bool { return h.Fits(150 << 10) })
	require.NoError(t, h.Sync())
	require.NoError(t, h.Err())
}

// TestNoSpaceFromCall fills the disk from one outside at each of many calls, for a while: what needs new space fails, wherever it
// is. When there is space again everything goes on without a restart.
func TestNoSpaceFromCall(t *testing.T) {
	fs := replicationtest.NewDisk(t, 1)
	calls := func(full func(call int64) bool, s uint64) (n int64, refused int) {
		fs = replicationtest.NewDisk(t, s)
		h := replicationtest.NewSmallHistory(t, s, fs)
		defer func() { h.Stop() }()
		first, _ := fs.Calls()
		fs.Watch(&faultfs.Hooks{Before: func(op *faultfs.Op) error {
			if op.Grows && full(op.Call-first) {
				op.Part = op.Len / 2 // a part may have been written
				return syscall.ENOSPC
			}
			return nil
		}})
		for range 60 {
			full, err := h.FullStep()
			require.NoError(t, err)
			if full {
				refused++
			}
		}
		h.Same()
		fs.Watch(nil)
		replicationtest.Eventually(t, "everything goes on", func() bool { return h.Fits(100<<10) && h.Sync() == nil })
		require.NoError(t, h.Err())
		h.Same()
		last, _ := fs.Calls()
		return last - first, refused
	}
	total, _ := calls(func(int64) bool { return false }, 1)
	points, refused := 0, 0
	for at := int64(1); at < total; at += max(1, total/int64(*seeds)) {
		for _, length := range []int64{1, 100, 1 << 40} {
			_, n := calls(func(call int64) bool { return call >= at && call < at+length }, 1)
			refused += n
			points++
		}
	}
	t.Logf("full at %d of %d calls: %d operations refused", points, total, refused)
}
