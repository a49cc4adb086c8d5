package replication_test

import (
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/stretchr/testify/require"

	"github.com/remora-storage/remora/cachefs"
	"github.com/remora-storage/remora/cachefs/meta"
	"github.com/remora-storage/remora/disk"
)

// nearlyFull is a disk that says how much is free.
type nearlyFull struct {
	disk.FS
	free atomic.Uint64
}

func (f *nearlyFull) GetDiskUsage(string) (vfs.DiskUsage, error) {
	return vfs.DiskUsage{AvailBytes: f.free.Load(), TotalBytes: 1 << 40}, nil
}

// TestRoomAtPeers: a program gets ENOSPC where one of the voters has no room, whoever leads, statfs and the log say so; and it goes on when
// there is some.
func TestRoomAtPeers(t *testing.T) {
	c := newTrio(t, 1, 2, 3)
	small := &nearlyFull{FS: c.nodes[3].fs}
	small.free.Store(1 << 40)
	c.nodes[3].stop()
	c.nodes[3].fs = small
	c.nodes[3].start(nil)
	n := c.nodes[1]
	n.own(true)
	n.file("first", 300_000)
	for _, leader := range []uint64{1, 2} {
		require.Eventually(t, func() bool {
			for _, peer := range c.nodes {
				if peer.group.Status().Group.Leads && peer.id != leader {
					peer.group.HandOver(leader)
				}
			}
			return c.nodes[leader].group.Status().Group.Leads
		}, time.Minute, 20*time.Millisecond)
		write := func(size int) error { // of what is there, so that only the room decides
			a, err := n.fs1.Lookup(meta.Root, "first")
			require.NoError(t, err)
			_, err = n.fs1.Write(&cachefs.Caller{}, a.Ino, 0, make([]byte, size), false)
			return err
		}
		small.free.Store(1 << 20) // less than the reserve
		require.Eventually(t, func() bool { return write(4096) != nil }, time.Minute, 10*time.Millisecond)
		require.ErrorIs(t, write(4096), syscall.ENOSPC)
		st := n.fs1.Statfs()
		require.Zero(t, st.Avail, "there is no room at a peer")
		require.Equal(t, uint64(1<<30), st.Size)
		require.True(t, n.said.has("replica=0000000000000003 node=node-3"))
		_, err := n.fs1.Lookup(meta.Root, "first")
		require.NoError(t, err)
		small.free.Store(1 << 40)
		require.Eventually(t, func() bool { return write(4096) == nil }, time.Minute, 10*time.Millisecond)
		require.Eventually(t, func() bool { st := n.fs1.Statfs(); return st.Avail == st.Size-st.Used }, time.Minute, 10*time.Millisecond, "the volume's limit is less")
	}
	c.agree()
}
