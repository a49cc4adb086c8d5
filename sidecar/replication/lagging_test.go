package replication_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/remora-storage/remora/sidecar/replication"
)

// TestOneIsCaughtUpForLong: what is kept for a replica that is being caught up is bounded, and a leader whose bound is reached goes on with
// the others. It once took nothing more from an owner elsewhere, so that nothing was applied, and nothing ever forgotten.
func TestOneIsCaughtUpForLong(t *testing.T) {
	c := newTrio(t)
	c.log = 32 << 10
	for id := range uint64(3) {
		c.object = append(c.object, replication.Member{ID: id + 1, Role: replication.Voter})
	}
	for _, m := range c.object {
		c.add(m.ID, []uint64{1, 2, 3})
	}
	for id := range uint64(2) {
		c.nodes[id+1].group.BoundTable(128 << 10)
	}
	c.nodes[1].own(true)
	c.nodes[1].file("first", 1000)
	c.mu.Lock()
	c.object = append(c.object, replication.Member{ID: 4, Role: replication.Learner})
	c.mu.Unlock()
	o := c.add(4, nil) // an owner that cannot lead
	o.own(false)
	c.nodes[3].crash()
	slow := make(chan struct{})
	written := make(chan struct{})
	go func() { // none of this ends where the leader takes nothing any more
		defer close(written)
		for i := range 40 {
			o.file(fmt.Sprintf("away-%d", i), 4000)
		}
		c.mu.Lock()
		c.slow = slow
		c.mu.Unlock()
		c.nodes[3].start(nil)
		for i := range 120 {
			o.file(fmt.Sprintf("there-%d", i), 4000)
		}
	}()
	select {
	case <-written:
		close(slow)
		c.agree()
	case <-time.After(5 * time.Minute): // it takes 4 s; with the race detector on a busy machine, 50
		close(slow)
		require.FailNow(t, "the group stands still", "%+v", o.group.Status().Group)
	}
}

// TestALeaderWithAStateIsNotCaughtUp: a replica that was told that it lacks a part of the log, and is elected before it has asked for it, has it
// all by then. It once handed leadership on to be caught up; where the others are to leave, they handed it back, for ever (seed 95006736).
func TestALeaderWithAStateIsNotCaughtUp(t *testing.T) {
	c := newSlowTrio(t, time.Minute, 1, 2, 3) // nobody is elected for want of a heartbeat
	n := c.nodes[1]
	n.own(true)
	n.file("first", 1000)
	var term uint64
	require.Eventually(t, func() bool {
		s := n.group.Status().Group
		term = s.Term
		if !s.Leads {
			n.group.Lead()
		}
		return s.Leads
	}, time.Minute, 100*time.Millisecond)
	n.group.BeCaughtUp()
	require.Eventually(t, func() bool { return !n.group.Unfilled() }, time.Minute, time.Millisecond)
	s := n.group.Status().Group
	require.True(t, s.Leads)
	require.Equal(t, term, s.Term, "it has handed on")
}
