package consensus

import (
	"slices"

	"go.etcd.io/raft/v3"
	pb "go.etcd.io/raft/v3/raftpb"
	"go.etcd.io/raft/v3/tracker"
)

// Who leads, and who is taken for gone.

// Tick is called at equal distances in time.
func (c *Core) Tick() {
	c.ticks++
	c.release(nil)
	if c.hasty() {
		c.raw.Tick()
	}
	if c.campaign != 0 && c.ticks >= c.campaign {
		if c.campaign = 0; c.leader == 0 {
			c.Campaign()
		}
	}
	c.stream.tick(c)
	c.look()
}

// Campaign asks to lead now, if this replica may: for a group that was just started, whose owner is here.
func (c *Core) Campaign() {
	if slices.Contains(c.Members().Voters, c.id) {
		_ = c.raw.Campaign()
	}
}

// Gone says that the process of a peer has ended, or seems to. If it led, nobody does until somebody is elected, and that is not put off
// for as long as a leader's silence would be.
func (c *Core) Gone(peer uint64) {
	c.raw.ReportUnreachable(peer)
	if peer != c.leader || c.leads {
		return
	}
	if c.raw.ForgetLeader() == nil {
		c.campaign = c.ticks + patience(c.Members().Voters, c.id)
		if c.witness {
			c.campaign += 2 * ElectionTicks
		}
	}
}

// patience is after how many ticks a voter asks to lead when the leader is gone: not all at once.
func patience(voters []uint64, id uint64) uint64 {
	rank := 0
	for _, v := range voters {
		if v < id {
			rank++
		}
	}
	return uint64(2 + 2*rank)
}

// Transfer asks the leader, if this is it, to hand over to another voter.
func (c *Core) Transfer(to uint64) { c.raw.TransferLeader(to) }

// Ask has a voter ask to lead now, whatever it has: the others decide whether it may. For a leader that cannot give them what it has more.
func (c *Core) Ask(to uint64) {
	if c.leads {
		c.out = append(c.out, Message{To: to, From: c.id, Raft: &pb.Message{Type: pb.MsgTimeoutNow, To: to, From: c.id, Term: c.term}})
	}
}

// Transferring tells that this replica is to hand over, and waits until the other voter has all of its log to tell it so.
func (c *Core) Transferring() bool {
	to, waits := c.raw.BasicStatus().LeadTransferee, false
	c.raw.WithProgress(func(id uint64, _ raft.ProgressType, p raftProgress) {
		waits = waits || id == to && p.Match < c.log.last()
	})
	return c.leads && to != 0 && waits
}

// Unreachable says that a message to a peer was lost.
func (c *Core) Unreachable(peer uint64) { c.raw.ReportUnreachable(peer) }

// AskAgain has those peers asked again, where this replica leads, that were told to fetch the state and have not said that they have it: the
// message may be lost, or their answer.
func (c *Core) AskAgain() {
	if !c.leads {
		return
	}
	var waiting []uint64
	c.raw.WithProgress(func(id uint64, _ raft.ProgressType, p raftProgress) {
		if p.State == tracker.StateSnapshot {
			waiting = append(waiting, id)
		}
	})
	for _, id := range waiting {
		c.raw.ReportSnapshot(id, raft.SnapshotFailure)
	}
}
