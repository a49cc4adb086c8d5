package replication

import (
	"encoding/binary"
	"fmt"
)

// Members tell a witness, and the leader, how far their durable checkpoints are; and, while members change, whether they have everything.

// WitnessStatus is what a witness keeps.
type WitnessStatus struct {
	From  uint64 // its log begins behind this index
	Bytes int64  // of records
	Limit int64  // above which a member that is away is given up
}

// report is what a member says of itself.
type report struct {
	witness  bool
	index    uint64 // of its durable checkpoint: it needs nothing up to here. A witness': it has everything behind
	bytes    int64  // that a witness keeps
	limit    int64
	laggard  uint64 // for whom
	complete bool   // a replica with content has all of it, as of the index that it has applied
	applied  uint64
	tick     int // when it came
}

// encode: what a witness does not have and what only it has are in the same bytes.
func (r report) encode() []byte {
	le, b := binary.LittleEndian, make([]byte, 1, reportBytes)
	if r.witness {
		b[0] = 1
	} else if r.bytes = int64(r.applied); r.complete {
		r.limit = 1
	}
	b = le.AppendUint64(le.AppendUint64(b, r.index), uint64(r.bytes))
	return le.AppendUint64(le.AppendUint64(b, uint64(r.limit)), r.laggard)
}

func decodeReport(b []byte) (report, error) {
	le := binary.LittleEndian
	if len(b) != reportBytes || b[0] > 1 {
		return report{}, fmt.Errorf("%w: a report of %d bytes", ErrMessage, len(b))
	}
	r := report{witness: b[0] == 1, index: le.Uint64(b[1:])}
	if r.witness {
		r.bytes, r.limit, r.laggard = int64(le.Uint64(b[9:])), int64(le.Uint64(b[17:])), le.Uint64(b[25:])
	} else {
		r.applied, r.complete = le.Uint64(b[9:]), le.Uint64(b[17:]) == 1
	}
	return r, nil
}

// witnessStatus is nil where this is none. g.mu is held.
func (g *Group) witnessStatus() *WitnessStatus {
	if !g.witness() {
		return nil
	}
	p := g.peers
	return &WitnessStatus{From: uint64(p.floor.Index), Bytes: p.kept, Limit: p.cfg.KeepBytes}
}

// reported takes a member's report.
func (g *Group) reported(from uint64, body []byte) error {
	r, err := decodeReport(body)
	if err != nil {
		return err
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.failed != nil || g.closing {
		return nil
	}
	p := g.peers
	r.tick = p.ticks
	if old := p.reports[from]; old.index > r.index { // a durable checkpoint does not go back, nor the start of a witness' log: it was late
		r.index = old.index
	}
	p.reports[from], p.heard[from] = r, p.ticks
	if r.witness && !g.witness() && r.laggard == uint64(g.key().replica) && r.bytes > r.limit/pressParts && g.saved < g.applied {
		g.pressed = true // a checkpoint lets it forget
		g.work.Signal()
	}
	return nil
}
