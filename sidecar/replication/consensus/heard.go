package consensus

import (
	"encoding/binary"

	"go.etcd.io/raft/v3"
	pb "go.etcd.io/raft/v3/raftpb"
)

// A replica knows of the commit index only as far as its log reaches. So one that comes back, and has applied all that it has, would take
// itself for being in sync long before it is. The leader's appends have the leader's commit index; its heartbeats have it as their context.

// heard is what a leader has said of its commit index.
type heard struct{ from, term, commit uint64 }

// spell is a stretch of ElectionTicks: what was committed when the one before it began, and when it did. A replica under load is always a
// moment behind its leader. What it is to have applied, to be in sync, is what was committed a moment ago.
type spell struct{ leader, term, before, began, at uint64 }

const commitBytes = 8

// tell adds the commit index to a heartbeat; and to a refusal of a vote where this replica knows the log to be committed that the other one
// has, with the term there.
//
// Without that a group may stand still for ever: a leader that has left takes no part any more as soon as it knows so. If nobody else does, they
// need its vote by the old members, which it refuses where its log is longer, and it does not ask for theirs.
func (c *Core) tell(m *pb.Message) {
	le := binary.LittleEndian
	switch m.Type {
	case pb.MsgHeartbeat:
		if len(m.Context) == 0 {
			m.Context = le.AppendUint64(make([]byte, 0, commitBytes), c.raw.BasicStatus().HardState.Commit)
		}
	case pb.MsgVoteResp, pb.MsgPreVoteResp:
		index := min(c.delivered, c.asked[m.To])
		if term, err := c.log.Term(index); m.Reject && err == nil && len(m.Context) == 0 {
			m.Context = le.AppendUint64(le.AppendUint64(make([]byte, 0, 2*commitBytes), index), term)
		}
	}
}

// hear takes what others say, and takes it off where it is not Raft's.
func (c *Core) hear(m *pb.Message) {
	commit := m.Commit
	switch m.Type {
	case pb.MsgApp:
	case pb.MsgHeartbeat:
		if len(m.Context) == commitBytes {
			commit = binary.LittleEndian.Uint64(m.Context)
		}
		m.Context = nil // what a newer version may have added means nothing here, and Raft would send it back
	case pb.MsgHeartbeatResp:
		m.Context = nil // Raft would look for a question of its own that it answers
		return
	case pb.MsgVote, pb.MsgPreVote:
		c.asked[m.From] = m.Index
		return
	case pb.MsgVoteResp, pb.MsgPreVoteResp:
		if len(m.Context) == 2*commitBytes {
			index, term := binary.LittleEndian.Uint64(m.Context), binary.LittleEndian.Uint64(m.Context[commitBytes:])
			m.Context = nil
			c.believe(m.From, index, term)
		}
		return
	default:
		return
	}
	switch h := &c.heard; {
	case m.Term > h.term:
		*h = heard{m.From, m.Term, commit}
	case m.Term == h.term:
		h.commit = max(h.commit, commit)
	}
}

// believe takes the word of a peer that an index with this term is committed. Two logs that have the same term at an index are alike up to it.
func (c *Core) believe(from, index, term uint64) {
	s := c.raw.BasicStatus()
	have, err := c.log.Term(index)
	if s.Lead != raft.None || index <= s.HardState.Commit || err != nil || have != term {
		return
	}
	// As a leader would say it. Raft takes the peer for one then, and is told that it is none.
	_ = c.raw.Step(pb.Message{Type: pb.MsgHeartbeat, To: c.id, From: from, Term: s.HardState.Term, Commit: index})
	_ = c.raw.ForgetLeader()
}

// target is what the present leader has committed, as far as it has said so; false if it has not said anything yet.
func (c *Core) target() (commit uint64, known bool) {
	if c.leads {
		return c.log.hard.Commit, true
	}
	return c.heard.commit, c.leader != raft.None && c.heard.from == c.leader && c.heard.term == c.term
}

// look notes at each tick what is committed.
func (c *Core) look() {
	commit, known := c.target()
	switch s := &c.spell; {
	case !known:
		*s = spell{}
	case s.leader != c.leader || s.term != c.term:
		*s = spell{c.leader, c.term, commit, commit, c.ticks}
	case c.ticks-s.at >= ElectionTicks:
		s.before, s.began, s.at = s.began, commit, c.ticks
	}
}

// settled is what the present leader had committed one to two spells ago, or when it said so first.
func (c *Core) settled() uint64 {
	if commit, known := c.target(); !known || c.spell.leader != c.leader || c.spell.term != c.term {
		return commit
	}
	return c.spell.before
}
