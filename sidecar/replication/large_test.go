package replication_test

import (
	"fmt"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/remora-storage/remora/cachefs"
	"github.com/remora-storage/remora/cachefs/meta"
)

// TestLargeRecordsGoAtOnce: a record with much content is on its way to a peer when the write is answered, and does not wait for a commit:
// the peers' disks are to be busy while the owner's is.
func TestLargeRecordsGoAtOnce(t *testing.T) {
	c := newSlowTrio(t, 200*time.Millisecond, 1, 2, 3) // ticks send, too
	var sent atomic.Int64
	c.mu.Lock()
	c.wire = true
	c.tap = func(l letter) {
		if l.from == 1 && len(l.body) > 1<<20 {
			sent.Add(1)
		}
	}
	c.mu.Unlock()
	n := c.nodes[1]
	n.own(true)
	n.file("before", 1<<20)
	caller := &cachefs.Caller{}
	a, err := n.fs1.Create(caller, meta.Root, "large", cachefs.Node{Mode: syscall.S_IFREG | 0o600})
	require.NoError(t, err)
	const writes = 24
	content, atOnce := make([]byte, 1<<20), 0
	for i := range writes {
		copy(content, fmt.Sprint(i))
		before := sent.Load()
		_, err := n.fs1.Write(caller, a.Ino, uint64(i)<<20, content, false)
		require.NoError(t, err)
		if sent.Load() > before {
			atOnce++
		}
	}
	require.NoError(t, n.fs1.Sync(t.Context(), caller))
	require.GreaterOrEqual(t, atOnce, writes-2, "of %d records", writes)
	require.Zero(t, c.unsummed.Load())
	c.agree()
}
