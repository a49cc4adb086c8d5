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

const commitBytes = 8

// tell adds the commit index to a heartbeat.
func (c *Core) tell(m *pb.Message) {
	if m.GetType() == pb.MsgHeartbeat && len(m.Context) == 0 {
		m.Context = binary.LittleEndian.AppendUint64(make([]byte, 0, commitBytes), c.raw.BasicStatus().HardState.GetCommit())
	}
}

// hear takes what a leader says, and takes it off where it is not Raft's.
func (c *Core) hear(m *pb.Message) {
	commit := m.GetCommit()
	switch m.GetType() {
	case pb.MsgApp:
	case pb.MsgHeartbeat:
		if len(m.Context) == commitBytes {
			commit, m.Context = binary.LittleEndian.Uint64(m.Context), nil
		}
	default:
		return
	}
	switch h := &c.heard; {
	case m.GetTerm() > h.term:
		*h = heard{m.GetFrom(), m.GetTerm(), commit}
	case m.GetTerm() == h.term:
		h.commit = max(h.commit, commit)
	}
}

// target is what the present leader has committed, as far as it has said so; false if it has not said anything yet.
func (c *Core) target() (commit uint64, known bool) {
	if c.leads {
		return c.log.hard.GetCommit(), true
	}
	return c.heard.commit, c.leader != raft.None && c.heard.from == c.leader && c.heard.term == c.term
}
