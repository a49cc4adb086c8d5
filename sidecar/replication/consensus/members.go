package consensus

import (
	"errors"
	"slices"

	pb "go.etcd.io/raft/v3/raftpb"
)

// Changes of the members.

// membership is who the members are from an index on.
type membership struct {
	index uint64
	conf  *pb.ConfState
}

// Change proposes another set of members. Only a leader can. Where voters change, the old and the new ones both decide, until Leave.
func (c *Core) Change(changes []pb.ConfChangeSingle) error {
	if c.log.base == 0 && c.delivered > 0 {
		c.compact(1) // whoever joins must not find a log that begins without members
	}
	cc := pb.ConfChangeV2{Changes: changes}
	for _, change := range changes {
		if change.Type == pb.ConfChangeAddNode || slices.Contains(c.Members().Voters, change.NodeID) {
			cc.Transition = pb.ConfChangeTransitionJointExplicit
		}
	}
	return c.raw.ProposeConfChange(cc)
}

// Leave proposes that the new members decide alone from now on, and returns the index of that entry. If it comes to nothing, the change is still
// under way when the entry is committed.
func (c *Core) Leave() (index uint64, err error) {
	index = c.log.last() + 1
	return index, c.raw.ProposeConfChange(pb.ConfChangeV2{})
}

// Joint tells whether the old and the new members decide together.
func (c *Core) Joint() bool { return len(c.Members().VotersOutgoing) > 0 }

// Found makes a replica without a log, and without members, one of the founders. The driver has made them durable.
func (c *Core) Found(members *pb.ConfState) error {
	if !c.Empty() || len(c.Members().Voters) > 0 {
		return errors.New("a replica with a log or members is no founder any more")
	}
	for _, id := range members.Voters {
		add := []pb.ConfChangeSingle{{Type: pb.ConfChangeAddNode, NodeID: id}}
		c.raw.ApplyConfChange(pb.ConfChangeV2{Changes: add})
	}
	c.log.initial, c.members = members, []membership{{0, members}}
	return nil
}

// Confirm puts an entry without meaning behind the log that this replica leads, and returns its index. When that is committed, a majority knows
// durably that what is committed now is committed: the entry came with the commit index.
func (c *Core) Confirm() (index uint64, err error) {
	index = c.log.last() + 1
	return index, c.raw.Propose(nil)
}

func confChange(e *pb.Entry) (pb.ConfChangeI, error) {
	if e.Type == pb.EntryConfChange {
		var cc pb.ConfChange
		return &cc, cc.Unmarshal(e.Data)
	}
	var cc pb.ConfChangeV2
	return &cc, cc.Unmarshal(e.Data)
}

func (c *Core) membersAt(index uint64) *pb.ConfState {
	conf := c.members[0].conf
	for _, m := range c.members {
		if m.index <= index {
			conf = m.conf
		}
	}
	return conf
}
