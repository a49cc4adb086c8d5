package consensus

import (
	"go.etcd.io/raft/v3"
	pb "go.etcd.io/raft/v3/raftpb"
	"go.etcd.io/raft/v3/tracker"

	"github.com/remora-storage/remora/cachefs/record"
)

// What of the log stays in memory, and where it begins after a restart or a copy of the state.

// Empty tells that this replica has no log.
func (c *Core) Empty() bool { return c.log.base == 0 && c.log.last() == 0 }

// snapshot is what Raft tells a peer that lags behind the start of this log; the driver sends the content (Restore).
func (c *Core) snapshot() pb.Snapshot {
	at := c.membersAt(c.delivered)
	term, _ := c.log.Term(c.delivered)
	return pb.Snapshot{Metadata: pb.SnapshotMetadata{Index: c.delivered, Term: term, ConfState: *at}}
}

// At returns the term of an index that this replica has applied, and the members there.
func (c *Core) At(index uint64) (term uint64, members *pb.ConfState, err error) {
	term, err = c.log.Term(index)
	return term, c.membersAt(index), err
}

// State is what a replica must know of the group's log to go on behind an index of it.
type State struct {
	Index, Term uint64
	Terms       []TermStart // up to Index
	Members     *pb.ConfState
	Acceptance  record.Acceptance
}

// Restore says that the driver has installed the group's state as it was at an index, because a MsgSnap said that the log does not reach
// back to ours.
func (c *Core) Restore(at State) error {
	if at.Index <= c.delivered {
		return nil
	}
	a := at.Acceptance
	meta := pb.SnapshotMetadata{Index: at.Index, Term: at.Term, ConfState: *at.Members}
	m := pb.Message{Type: pb.MsgSnap, To: c.id, From: c.leader, Term: c.raw.BasicStatus().HardState.Term,
		Snapshot: &pb.Snapshot{Metadata: meta}}
	c.acceptance = a
	c.stream.skip(a)
	c.stream.review(a)
	c.restoring = at.Terms
	return c.raw.Step(m)
}

// Compact forgets the log up to an index that is applied, as far as no peer needs it. most bounds how many entries are kept for peers that
// are away. One that is there and lags, or is being caught up, holds what it will need next, until somebody calls Forget.
func (c *Core) Compact(applied uint64, most int) {
	away, there := applied, applied
	if c.leads {
		c.raw.WithProgress(func(id uint64, _ raft.ProgressType, p raftProgress) {
			switch {
			case id == c.id || p.State == tracker.StateSnapshot && !p.RecentActive:
			case p.State == tracker.StateSnapshot:
				there = min(there, p.PendingSnapshot)
			case p.RecentActive:
				there = min(there, p.Match)
			default:
				away = min(away, p.Match)
			}
		})
	}
	if last := c.log.last(); last > uint64(most) {
		away = max(away, min(applied, last-uint64(most)))
	}
	c.Forget(min(away, there))
}

// Forget drops the log up to an index that is applied, whoever needs it: what is in it cannot be sent any more.
func (c *Core) Forget(applied uint64) {
	c.compact(applied)
	for len(c.members) > 1 && c.members[1].index <= c.log.base {
		c.members = c.members[1:]
	}
}

// compact drops the start of the log, and keeps its terms.
func (c *Core) compact(upTo uint64) {
	if upTo > c.log.base && upTo <= c.log.last() {
		c.history = c.Terms(upTo)
	}
	c.log.compact(upTo)
}

// Base is the index before the first entry in memory.
func (c *Core) Base() uint64 { return c.log.base }

// Entries are those in memory, oldest first.
func (c *Core) Entries() []pb.Entry { return c.log.entries }

// Delivered is the newest index that Ready gave as committed, with the acceptance state there.
func (c *Core) Delivered() (uint64, record.Acceptance) { return c.delivered, c.acceptance }

// Hard is the newest hard state.
func (c *Core) Hard() HardState {
	return HardState{c.log.hard.Term, c.log.hard.Vote, c.log.hard.Commit}
}
