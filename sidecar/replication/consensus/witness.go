package consensus

import (
	"fmt"

	pb "go.etcd.io/raft/v3/raftpb"
)

// witnessTicks of the group are one of a witness that hears of no leader.
const witnessTicks = 8

// hasty tells whether Raft's clock goes on with this tick. That of a witness slows down when the leader is silent: the others ask to lead
// first. It lets them: after ElectionTicks it does not believe in the old leader any more than they do.
func (c *Core) hasty() bool {
	if !c.witness || c.leads {
		return true
	}
	still := c.ticks - c.alive
	if still == ElectionTicks-1 && c.leader != 0 {
		_ = c.raw.ForgetLeader() // a candidate knows none
	}
	return still < ElectionTicks-1 || still%witnessTicks == 0
}

// Behind gives entries of the group's log that are committed, from whoever has them, to this replica, as if the leader had sent them.
func (c *Core) Behind(m *pb.Message) error {
	n := len(m.Entries)
	if c.leader == 0 || c.leads || n == 0 {
		return fmt.Errorf("%d entries of the log, and nobody leads", n)
	}
	return c.raw.Step(pb.Message{Type: pb.MsgApp, To: c.id, From: c.leader, Term: c.raw.BasicStatus().HardState.Term,
		Index: m.Index, LogTerm: m.LogTerm, Entries: m.Entries, Commit: m.Entries[n-1].Index})
}

// Log returns the committed entries behind an index that are in memory, at most so many, with the index's term.
func (c *Core) Log(behind uint64, most int) (term uint64, entries []pb.Entry, err error) {
	if term, err = c.log.Term(behind); err != nil || behind >= c.delivered {
		return term, nil, err
	}
	to := min(c.delivered, behind+uint64(most))
	return term, c.log.entries[behind-c.log.base : to-c.log.base], nil
}
