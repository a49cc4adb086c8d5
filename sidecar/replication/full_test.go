package replication_test

import (
	"fmt"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

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
