package replication_test

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/remora-storage/remora/sidecar/replication"
)

// TestGrowAndShrink: a group of one becomes one of three, and one of one again, while it is written to and its processes die.
func TestGrowAndShrink(t *testing.T) {
	c := newTrio(t)
	c.object = []replication.Member{{ID: 1, Role: replication.Voter}}
	n := c.empty(1)
	n.alone = true
	n.start(nil)
	n.own(true)
	n.file("alone", 300_000)
	n.file("large", 3<<20)
	n.crash()

	n.alone = false
	n.start(nil)
	n.own(false)
	n.check("alone", 300_000)
	require.Equal(t, []uint64{1}, n.group.Status().Group.Voters)
	c.mu.Lock()
	c.object = append(c.object, replication.Member{ID: 2, Role: replication.Learner}, replication.Member{ID: 3, Role: replication.Learner})
	c.mu.Unlock()
	for id := uint64(2); id <= 3; id++ {
		c.add(id, nil)
		n.file(fmt.Sprintf("grows-%d", id), 100_000)
		n.crash() // in the middle
		n.start(nil)
		n.own(false)
	}
	c.voters(n, 1, 2, 3)
	c.agree()
	n.file("three", 300_000)
	n.crash()
	o := c.nodes[2] // it needs nobody's permission
	o.own(false)
	for _, name := range []string{"alone", "three"} {
		o.check(name, 300_000)
	}
	o.check("large", 3<<20)
	n.start(nil)
	c.agree()

	c.mu.Lock()
	c.copies = 1
	for i := range c.object {
		if c.object[i].ID != 1 {
			c.object[i].Role = replication.Leaving
		}
	}
	c.mu.Unlock()
	o.file("shrinks", 300_000)
	c.voters(n, 1)
	c.nodes[2].stop()
	c.nodes[3].stop()
	n.own(false)
	n.file("one", 300_000)
	n.crash()
	n.start(nil)
	n.own(false)
	for _, name := range []string{"alone", "three", "shrinks", "one"} {
		n.check(name, 300_000)
	}
	n.stop()
	n.alone = true // what it has voted for must not be forgotten
	require.ErrorIs(t, n.tryStart(nil), replication.ErrSeveral)
}

// voters waits until a node knows these as the group's voters, and fills learners meanwhile.
func (c *trio) voters(n *node, want ...uint64) {
	c.t.Helper()
	require.Eventually(c.t, func() bool {
		c.mu.Lock()
		var groups []*node
		for _, n := range c.nodes {
			groups = append(groups, n)
		}
		c.mu.Unlock()
		for _, n := range groups {
			filled := n.group != nil && n.group.Filled()
			c.mu.Lock()
			c.filled[n.id] = filled
			c.mu.Unlock()
		}
		s := n.group.Status().Group
		return !s.Joint && slices.Equal(want, slices.Sorted(slices.Values(s.Voters)))
	}, time.Minute, 10*time.Millisecond, "%+v", n.group.Status().Group)
}

// TestTheOwnerLeads: leadership goes to where the owner is, when that is a voter and writes.
func TestTheOwnerLeads(t *testing.T) {
	c := newTrio(t, 1, 2, 3)
	for _, id := range []uint64{1, 2, 3, 1} {
		n := c.nodes[id]
		if c.epoch > 0 {
			n.stop()
			n.start(nil)
		}
		n.own(c.epoch == 0)
		limit, wrote := time.Now().Add(time.Minute), 0
		for ; !n.group.Status().Group.Leads && time.Now().Before(limit); wrote++ {
			n.file(fmt.Sprintf("of-%d-%d", c.epoch, wrote), 1000)
		}
		require.True(t, n.group.Status().Group.Leads, "after %d files: %+v", wrote, n.group.Status().Group)
		n.fs1.Close()
		n.fs1 = nil
	}
}

// TestPlannedHandOver: a leader that is stopped in order hands leadership on. The clock is so slow that nobody would be elected otherwise.
func TestPlannedHandOver(t *testing.T) {
	c := newSlowTrio(t, time.Minute, 1, 2, 3)
	c.nodes[1].own(true)
	for round := range 4 {
		var leader *node
		require.Eventually(t, func() bool {
			for _, n := range c.nodes {
				if n.group == nil {
					continue
				}
				s := n.group.Status().Group
				heard := 0 // of those who are there: nobody else is asked to lead
				for id, peer := range s.Peers {
					if id != n.id && peer.Active && peer.Match == s.Last {
						heard++
					}
				}
				if s.Leads && heard > 0 {
					leader = n
				}
			}
			return leader != nil
		}, time.Minute, time.Millisecond, "round %d", round)
		if round < 3 {
			leader.stop()
			leader.start(nil)
		}
	}
}

// TestNextChange is about whom the next change of members takes in and lets go.
func TestNextChange(t *testing.T) {
	member := func(id uint64, role string, filled bool) replication.Member {
		return replication.Member{ID: id, Role: role, Filled: filled}
	}
	witness := func(id uint64) replication.Member {
		return replication.Member{ID: id, Role: replication.Learner, Filled: true, Witness: true}
	}
	one, two, three := member(1, replication.Voter, true), member(2, replication.Voter, true), member(3, replication.Voter, true)
	gone2, gone3 := member(2, replication.Leaving, true), member(3, replication.Leaving, true)
	for _, r := range []struct {
		what             string
		want             []replication.Member
		voters, learners []uint64
		copies           int
		change           string
	}{
		{"nothing", []replication.Member{one, two, three}, []uint64{1, 2, 3}, nil, 3, ""},
		{"a learner comes", []replication.Member{one, two, three, member(4, replication.Learner, false)}, []uint64{1, 2, 3}, nil, 3, "+learner 4"},
		{"it is not filled", []replication.Member{one, two, gone3, member(4, replication.Learner, false)}, []uint64{1, 2, 3}, []uint64{4}, 3, ""},
		{"it takes a place", []replication.Member{one, two, gone3, member(4, replication.Learner, true)}, []uint64{1, 2, 3}, []uint64{4}, 3, "+4 -3"},
		{"growth", []replication.Member{one, member(2, replication.Learner, true), member(3, replication.Learner, true)}, []uint64{1}, []uint64{2, 3}, 3, "+2 +3"},
		{"not to two, which survive no loss", []replication.Member{one, member(2, replication.Learner, true), member(3, replication.Learner, false)}, []uint64{1}, []uint64{2, 3}, 3, ""},
		{"from two to three", []replication.Member{one, two, member(3, replication.Learner, true)}, []uint64{1, 2}, []uint64{3}, 3, "+3"},
		{"no growth beyond", []replication.Member{one, two, three, member(4, replication.Learner, true)}, []uint64{1, 2, 3}, []uint64{4}, 3, ""},
		{"fewer, all at once, those that have least first", []replication.Member{one, gone2, gone3}, []uint64{1, 2, 3}, nil, 1, "-3 -2"},
		{"fewer, and no more than that", []replication.Member{one, gone2, gone3, member(4, replication.Voter, true), member(5, replication.Leaving, true)}, []uint64{1, 2, 3, 4, 5}, nil, 3, "-5 -3"},
		{"a witness takes the place of a copy where there is none", []replication.Member{gone2, three, member(4, replication.Voter, true), witness(5)}, []uint64{2, 3, 4}, []uint64{5}, 3, "+5 -2"},
		{"but not where there is one", []replication.Member{gone2, three, member(4, replication.Leaving, true), witness(5)}, []uint64{2, 3, 9}, []uint64{5}, 3, "+5 -9"},
		{"nobody goes without a substitute", []replication.Member{one, two, gone3}, []uint64{1, 2, 3}, nil, 3, ""},
		{"one that the object does not name gives its place", []replication.Member{one, two, member(5, replication.Learner, true)}, []uint64{1, 2, 4}, []uint64{5}, 3, "+5 -4"},
		{"the object could not be read", nil, []uint64{1, 2, 3}, nil, 1, ""},
		{"a learner that is not named goes", []replication.Member{one, two, three}, []uint64{1, 2, 3}, []uint64{4}, 3, "-4"},
	} {
		require.Equal(t, r.change, replication.NextChange(r.want, r.voters, r.learners, r.copies), r.what)
	}
}
