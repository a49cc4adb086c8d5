package replication_test

import (
	"encoding/binary"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/stretchr/testify/require"
	pb "go.etcd.io/raft/v3/raftpb"

	"github.com/remora-storage/remora/cachefs"
	"github.com/remora-storage/remora/cachefs/meta"
	"github.com/remora-storage/remora/disk"
	"github.com/remora-storage/remora/sidecar/replication"
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

// TestOlderLeader: a leader that says nothing of room in its heartbeats is told nothing, for it would die of that; nor does what a newer one may
// add come back to it.
func TestOlderLeader(t *testing.T) {
	var mu sync.Mutex
	extra, answers, told, echoed := -1, 0, 0, 0
	set := func(n int) { mu.Lock(); extra, answers, told, echoed = n, 0, 0, 0; mu.Unlock() }
	c := newTrio(t, 1, 2, 3)
	c.mu.Lock()
	c.forge = func(l letter) []byte {
		if l.kind != replication.FrameRaft {
			return l.body
		}
		var m pb.Message
		size := binary.LittleEndian.Uint32(l.body)
		require.NoError(t, m.Unmarshal(l.body[4:4+size]))
		mu.Lock()
		defer mu.Unlock()
		switch {
		case m.Type == pb.MsgHeartbeatResp:
			answers++
			told += gauge(len(m.Context) == 8)
			echoed += gauge(len(m.Context) > 8)
			return l.body
		case m.Type != pb.MsgHeartbeat || extra < 0:
			return l.body
		case extra == 0: // as before there was any
			m.Context = nil
		default: // of a newer version, in front
			m.Context = append(make([]byte, extra), m.Context...)
		}
		b, err := m.Marshal()
		require.NoError(t, err)
		return append(binary.LittleEndian.AppendUint32(nil, uint32(len(b))), b...)
	}
	c.mu.Unlock()
	n := c.nodes[1]
	n.own(true)
	n.file("first", 300_000)
	seen := func(ok func() bool) {
		require.Eventually(t, func() bool { mu.Lock(); defer mu.Unlock(); return answers > 20 && ok() }, time.Minute, time.Millisecond)
	}
	seen(func() bool { return told > 0 })
	for _, n := range []int{0, 5} {
		set(n)
		seen(func() bool { return true }) // those under way among them
		set(n)
		seen(func() bool { return true })
		mu.Lock()
		nobody, room := echoed, told
		mu.Unlock()
		require.Zero(t, nobody)
		require.Equal(t, n != 0, room > 0, "%d answers with the room", room)
	}
	set(-1)
	n.file("second", 300_000)
	c.agree()
}

func gauge(yes bool) int {
	if yes {
		return 1
	}
	return 0
}
