package replication

import (
	"encoding/binary"
	"math"
	"slices"

	pb "go.etcd.io/raft/v3/raftpb"

	"github.com/remora-storage/remora/sidecar/replication/consensus"
	"github.com/remora-storage/remora/telemetry"
)

// A group commit has a span for each replica whose answer came: from sending to answer, by the clock of this process. What the other one did
// in that time it says in its answer, so its clock does not matter, and its process need not send spans to anywhere.

// flight is a message under way to a peer with entries up to an index.
type flight struct {
	index uint64
	since int64
}

// part is a piece of the time that a group commit took.
type part struct {
	telemetry.Part
	index uint64
}

// maxFlights bounds what is remembered for spans of a peer that does not answer.
const maxFlights = 256

// sent remembers when entries went to a peer. g.mu is held.
func (p *peers) sent(to uint64, m *pb.Message) {
	n := len(m.Entries)
	if n == 0 || m.Type != pb.MsgApp {
		return
	}
	if len(p.flights[to]) == maxFlights {
		p.flights[to] = slices.Delete(p.flights[to], 0, 1)
	}
	p.flights[to] = append(p.flights[to], flight{m.Entries[n-1].Index, telemetry.Now()})
}

// timesBytes are the context of an answer: how long its records waited for the sync of the journal, and how long that took, in nanoseconds,
// u32 each. Raft itself has no use for the context of an answer.
const timesBytes = 8

// addTimes adds them to answers that were due when a sync was over.
func addTimes(answers []consensus.Message, since, start, end int64) {
	for _, m := range answers {
		if m.Raft.Type == pb.MsgAppResp && !m.Raft.Reject {
			b := binary.LittleEndian.AppendUint32(make([]byte, 0, timesBytes), nanoseconds(start-since))
			m.Raft.Context = binary.LittleEndian.AppendUint32(b, nanoseconds(end-start))
		}
	}
}

func nanoseconds(d int64) uint32 { return uint32(min(max(d, 0), math.MaxUint32)) }

// answered makes a span of the time that a peer took. One that was not needed for the commit comes late, and is a child of the newest one.
func (g *Group) answered(m *pb.Message) {
	p := g.peers
	if m.Type != pb.MsgAppResp || m.Reject {
		return
	}
	flights, n := p.flights[m.From], 0
	for n < len(flights) && flights[n].index <= m.Index {
		n++
	}
	if n == 0 {
		return
	}
	done := part{index: flights[n-1].index}
	done.Part = telemetry.Part{Peer: m.From, Start: flights[n-1].since, End: telemetry.Now()}
	if b := m.Context; len(b) == timesBytes { // a peer of an older version says nothing
		done.Waited, done.Synced = int64(binary.LittleEndian.Uint32(b)), int64(binary.LittleEndian.Uint32(b[4:]))
	}
	p.flights[m.From] = slices.Delete(flights, 0, n)
	if done.index <= uint64(g.core.committed) {
		g.cfg.Trace.Part(g.commit, done.Part)
		return
	}
	p.parts = append(p.parts, done)
}
