package replication

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/remora-storage/remora/cachefs/record"
)

// Who commits next waits for company only where the last commit woke several.
func TestCompany(t *testing.T) {
	g := &Group{peers: &peers{}}
	g.owner, g.core.acceptance = record.Name{Epoch: 1, Incarnation: 1}, record.Acceptance{Epoch: 1, Incarnation: 1}
	wait := func(seqs ...record.Seq) (all []*waiter) {
		for _, seq := range seqs {
			all = append(all, &waiter{seq: seq, wake: make(chan struct{}, 1)})
		}
		g.peers.waiters = append(g.peers.waiters, all...)
		return all
	}
	accepted := func(seq record.Seq) { g.core.acceptance.Last = seq; g.wakeReached() }
	accepted(1)
	require.False(t, g.company.Load(), "nobody has waited")
	all := wait(2, 3, 4)
	accepted(3)
	require.Equal(t, all[2:], g.peers.waiters)
	require.True(t, g.company.Load())
	accepted(3)
	require.True(t, g.company.Load(), "nobody was woken since")
	accepted(4)
	require.False(t, g.company.Load(), "one alone")
	for _, w := range all {
		require.Len(t, w.wake, 1)
	}
}
