package replication_test

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/remora-storage/remora/sidecar/replication"
)

// bareNode starts a trio that small logs make copy states: node 1 leads and owns, and node 2 has been away and has no content of that time.
func bareNode(t *testing.T) *trio {
	c := newTrio(t)
	c.log, c.bare = 16<<10, 2
	for id := range uint64(3) {
		c.object = append(c.object, replication.Member{ID: id + 1, Role: replication.Voter})
	}
	for _, m := range c.object {
		c.add(m.ID, []uint64{1, 2, 3})
	}
	n, away := c.nodes[1], c.nodes[2]
	n.own(true)
	for i := 0; !n.group.Status().Group.Leads; i++ {
		require.Less(t, i, 5000, "the owner does not lead")
		n.file(fmt.Sprintf("first-%d", i), 1000)
	}
	c.agree()
	last := away.group.Status().Group.Last
	away.crash()
	for i := 0; i < 20 || n.group.LogBase() <= last; i++ {
		require.Less(t, i, 5000, "the log is kept for ever")
		n.file(fmt.Sprintf("away-%d", i), 4000)
	}
	away.start(nil)
	require.Eventually(t, func() bool {
		st := away.group.Status()
		return st.Replaced && !st.Hollow && st.Applied >= n.group.Status().Applied
	}, time.Minute, time.Millisecond, "it is not caught up by a copy of the state")
	require.False(t, away.group.FillStatus().Complete)
	return c
}

// TestWhoLeavesStays: a replica leaves for a new one. What was committed by it and the leader just before, the third one has got without content,
// and the new one not yet: as long as that is so, the one that leaves stays, and the loss of another disk costs nothing.
func TestWhoLeavesStays(t *testing.T) {
	for _, end := range []string{"the new one comes along", "the third one is filled"} {
		t.Run(end, func(t *testing.T) {
			c := bareNode(t)
			n := c.nodes[1]
			c.replace(3, 4)
			o := c.add(4, nil)
			require.Eventually(t, func() bool { return o.group.Status().Err == nil && o.group.Filled() }, time.Minute, time.Millisecond)
			alone := func(cut bool) { // whoever leads
				c.mu.Lock()
				defer c.mu.Unlock()
				for id := range uint64(3) {
					c.cut[[2]uint64{id + 1, 4}], c.cut[[2]uint64{4, id + 1}] = cut, cut
				}
				c.filled[4] = true
			}
			alone(true)
			n.file("without it", 4000)
			status := func() bool { return n.group.Status().Group.Joint }
			require.Eventually(t, status, time.Minute, time.Millisecond, "the change does not begin")
			for i := range 50 { // whatever is asked for here is committed behind the end of the change, if it ends
				n.file(fmt.Sprintf("meanwhile-%d", i), 1000)
			}
			require.True(t, status(), "who has the content has left: %+v", n.group.Status().Group)

			left := uint64(2)
			if end == "the new one comes along" {
				alone(false)
				left = 4
			} else {
				c.mu.Lock()
				c.bare = 0
				c.mu.Unlock()
			}
			require.Eventually(t, func() bool {
				c.hears(o) // it may have to be caught up by a copy
				s := n.group.Status().Group
				return !s.Joint && slices.Equal([]uint64{1, 2, 4}, slices.Sorted(slices.Values(s.Voters)))
			}, time.Minute, time.Millisecond, "the change does not end")
			c.lose(3)
			alone(false)
			if left == 4 {
				c.agree()
			}
			c.lose(1)
			x := c.nodes[left]
			x.own(false)
			x.check("away-7", 4000)
			x.check("without it", 4000)
			x.check("meanwhile-49", 1000)
		})
	}
}

// TestTheOnlyCopyMoves: a volume of one copy moves to a new replica, which was away for a moment when its turn came, and is caught up by a copy of
// the metadata. The content of that moment is with the one that leaves, which stays until the new one has got it there.
func TestTheOnlyCopyMoves(t *testing.T) {
	c := newTrio(t)
	c.log, c.copies = 16<<10, 1
	c.object = []replication.Member{{ID: 1, Role: replication.Voter}}
	n := c.add(1, []uint64{1})
	n.own(true)
	n.file("first", 3<<20)
	c.replace(1, 4)
	o := c.add(4, nil)
	require.Eventually(t, func() bool { return o.group.Status().Err == nil && o.group.Filled() }, time.Minute, time.Millisecond)
	apart := func(cut bool) {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.cut[[2]uint64{1, 4}], c.cut[[2]uint64{4, 1}] = cut, cut
	}
	apart(true)
	require.Eventually(t, func() bool { return !n.group.Status().Group.Peers[4].Active }, time.Minute, time.Millisecond, "it is there")
	last := n.group.Status().Group.Last
	for i := range 30 { // few enough that its turn comes, and more than is kept for it
		n.file(fmt.Sprintf("away-%d", i), 4000)
		require.Eventually(t, func() bool { return n.group.Status().Applied == n.group.Status().Committed }, time.Minute, time.Millisecond)
	}
	require.Greater(t, n.group.LogBase(), last, "the log is kept")
	c.mu.Lock()
	c.filled[4] = true
	c.mu.Unlock()
	require.Eventually(t, func() bool { return n.group.Status().Group.Joint }, time.Minute, time.Millisecond, "its turn does not come")
	c.mu.Lock()
	c.bare = 4
	c.mu.Unlock()
	apart(false)
	require.Eventually(t, func() bool {
		c.hears(o)
		return !o.group.Status().Hollow && o.group.Status().Applied >= n.group.Status().Applied && n.group.Status().Group.Peers[4].Match == n.group.Status().Group.Last
	}, time.Minute, time.Millisecond, "it is not caught up")
	require.False(t, o.group.FillStatus().Complete)
	require.Eventually(t, func() bool { // and now it leads, and who leaves is nobody that it would ask otherwise
		n.group.HandOver(4)
		return o.group.Status().Group.Leads
	}, time.Minute, 10*time.Millisecond)
	require.True(t, o.group.Status().Group.Joint, "who has the content has left")
	c.mu.Lock()
	c.bare = 0
	c.mu.Unlock()
	require.Eventually(t, func() bool {
		c.hears(o)
		s := o.group.Status().Group
		return !s.Joint && slices.Equal([]uint64{4}, s.Voters)
	}, time.Minute, 5*time.Millisecond, "it does not move")
	c.lose(1)
	o.own(false)
	o.check("first", 3<<20)
	o.check("away-29", 4000)
}

// hears has the object hear that a learner lacks something.
func (c *trio) hears(n *node) {
	unfilled := n.group.Unfilled()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.filled[n.id] = !unfilled
}

// TestWhoLeavesLeadsOnForWhomItServes: a leader that is to leave hands leadership on; not while a peer fetches its state, which might be the only one
// that stays, and would have to begin again each time.
func TestWhoLeavesLeadsOnForWhomItServes(t *testing.T) {
	c := newSlowTrio(t, time.Minute, 1, 2, 3) // nobody is elected by itself
	n := c.nodes[1]
	n.own(true)
	for i := 0; !n.group.Status().Group.Leads; i++ {
		require.Less(t, i, 5000, "the owner does not lead")
		n.file(fmt.Sprintf("first-%d", i), 1000)
	}
	c.mu.Lock()
	c.copies = 1
	for i := range c.object {
		if c.object[i].ID != 2 {
			c.object[i].Role = replication.Leaving
		}
	}
	c.mu.Unlock()
	term, done := n.group.Status().Group.Term, n.group.Serve()
	n.group.Review()
	for i := range 20 {
		n.file(fmt.Sprintf("served-%d", i), 1000)
	}
	require.Equal(t, term, n.group.Status().Group.Term, "it has handed on")
	done()
	require.Eventually(t, func() bool {
		n.group.Review()
		return !n.group.Status().Group.Leads
	}, time.Minute, 10*time.Millisecond)
}
