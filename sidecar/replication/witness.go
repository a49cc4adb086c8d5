package replication

import (
	"errors"
	"slices"

	pb "go.etcd.io/raft/v3/raftpb"

	"github.com/remora-storage/remora/cachefs/record"
	"github.com/remora-storage/remora/cachefs/store"
	"github.com/remora-storage/remora/sidecar/replication/consensus"
	"github.com/remora-storage/remora/sidecar/replication/diskdir"
	"github.com/remora-storage/remora/sidecar/replication/journal"
)

// A witness is a voter that keeps records and no state (DESIGN 6, docs/decisions/0020). Two replicas with content and a witness survive what
// three replicas do, but for one thing: what only one replica has applied is in the witness' log, and the other must get it from there.
//
//   - It keeps records whole, sealed as they came; it has no key. Of a record it knows the name, which is all that Raft's log needs. In memory
//     is what is not in the journal yet, and for the rest where in the journal it is.
//   - It forgets a record when every voter has it in a durable checkpoint: members tell it their checkpoints (report), and truncate moves the
//     start of its log, its own checkpoint, behind the least of them.
//   - When a member is away for longer than KeepBytes of records, the leader gives the member up (givenUp): the volume has one copy then, and
//     says so. The witness does not vote meanwhile: with one copy, it would be one more that must not be lost. It becomes a voter again with
//     the next replica that is filled.
//   - Who leads and sees that a member needs what its log has no more has it ask the witness first (witnesslog.go): to replace a state by a
//     copy of another one is to have none of one's own for a while.
//   - A witness that is elected, because it has most, brings a member up to date and hands on (witnessTick).
//   - A new witness begins its log at the leader's index. It becomes a voter when every voter with content has come so far (covered): what
//     is before, it cannot give.

// keepBytes of records are kept for a member that is away (PeersConfig.KeepBytes).
const keepBytes = 256 << 20

const (
	// reportTicks are between two reports.
	reportTicks = 20
	// reportFresh is for how many ticks a report counts: a learner's holds records so long, a witness' lets the leader act.
	reportFresh = 60 * reportTicks
	// pressParts of its limit make a witness ask for a checkpoint: content that others have once, in their arenas, is in its journal.
	pressParts = 4
	// absentTicks of silence make a member that may be given up.
	absentTicks = 100
)

// errWitness: a witness has no state to give.
var errWitness = errors.New("a witness keeps records and no state")

// reportBytes is the length of an encoded report.
const reportBytes = 33

// witness tells whether this replica is one.
func (g *Group) witness() bool { return g.cfg.Peers != nil && g.cfg.Peers.Witness }

// isWitness tells whether a member is one, as the Volume object says.
func (p *peers) isWitness(id uint64) bool {
	return p.cfg.Members != nil && slices.ContainsFunc(p.cfg.Members(), func(m Member) bool { return m.ID == id && m.Witness })
}

// knowsGroup tells whether this witness has its place in the group's log.
func (g *Group) knowsGroup() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	leader, _ := g.peers.core.Leader()
	return g.failed == nil && leader != 0 && !g.peers.memberless()
}

// witnessTick reports, hands leadership on, and has the log made shorter. g.mu is held.
func (g *Group) witnessTick() {
	p := g.peers
	if g.witness() && p.core.Leads() && p.ticks%2 == 0 {
		s := p.core.Status()
		g.giveLead(func(id uint64) bool { return s.Peers[id].Match+near >= s.Last })
	}
	if p.ticks%reportTicks != 0 || p.cfg.Members == nil {
		return
	}
	if !g.witness() {
		r := g.report()
		for _, m := range p.cfg.Members() {
			if m.Witness {
				p.sendTo(m.ID, FrameReport, r.encode())
			}
		}
		return
	}
	least, laggard := g.least()
	r := report{witness: true, index: uint64(p.floor.Index), bytes: p.kept, limit: p.cfg.KeepBytes, laggard: laggard}
	for _, m := range p.cfg.Members() {
		if !m.Witness {
			p.sendTo(m.ID, FrameReport, r.encode())
		}
	}
	if least > p.floor.Index {
		g.pressed = true
		g.work.Signal()
	}
}

// least is up to where nobody needs the log of this witness, and who needs what is behind. A learner may become a voter at any time, so it
// counts, too. One that has not been heard of for long does not: it is no copy, and will not become one before it has come to where this log
// begins (covered). g.mu is held.
func (g *Group) least() (to record.Index, laggard uint64) {
	p := g.peers
	conf, self := p.core.Members(), uint64(g.key().replica)
	to = g.applied
	for _, id := range slices.Concat(conf.Voters, conf.VotersOutgoing) {
		if at := record.Index(p.reports[id].index); id != self && (at < to || laggard == 0) {
			to, laggard = min(to, at), id
		}
	}
	for _, id := range slices.Concat(conf.Learners, conf.LearnersNext) {
		if id == self || p.isWitness(id) {
			continue
		}
		if _, known := p.joined[id]; !known {
			p.joined[id] = p.ticks
		}
		if r := p.reports[id]; p.ticks-max(r.tick, p.joined[id]) < reportFresh {
			to = min(to, record.Index(r.index))
		}
	}
	return to, laggard
}

// truncate forgets, durably, what every voter has in a durable checkpoint.
func (g *Group) truncate() error {
	g.applying.Lock() // against position
	defer g.applying.Unlock()
	g.mu.Lock()
	p := g.peers
	to, _ := g.least()
	g.pressed = false
	if to <= p.floor.Index {
		g.mu.Unlock()
		return nil
	}
	at, err := p.floorAt(to)
	kept := p.needsAbove(to, g.disk.journal.End())
	g.mu.Unlock()
	if err != nil {
		return err
	}
	if err := g.moveFloor(at, kept, g.groupState(at)); err != nil {
		return err
	}
	return g.releaseJournal(at.Index)
}

// floorAt is the start of the log at an index that is committed. g.mu is held.
func (p *peers) floorAt(to record.Index) (store.Checkpoint, error) {
	at := p.floor
	for _, e := range p.core.Entries() {
		if i := record.Index(e.Index); i <= at.Index || i > to || e.Type != pb.EntryNormal || len(e.Data) == 0 {
			continue
		}
		kind, n, err := consensus.DecodeName(e.Data)
		if err != nil {
			return at, err
		}
		at.Acceptance.Step(kind, n)
	}
	at.Index = to
	return at, nil
}

// needsAbove is from where on the journal is needed for what is behind an index. g.mu is held.
func (p *peers) needsAbove(index record.Index, kept journal.LSN) journal.LSN {
	for i, lsn := range p.at {
		if record.Index(i) > index {
			kept = min(kept, lsn)
		}
	}
	for _, it := range p.table {
		if it.payload != 0 && (it.index == 0 || it.index > index) {
			kept = min(kept, it.payload)
		}
	}
	return kept
}

// moveFloor makes another start of the log durable, and then forgets what is before it.
func (g *Group) moveFloor(at store.Checkpoint, kept journal.LSN, state diskdir.GroupState) error {
	if err := g.disk.syncs.settle(); err != nil {
		return err
	}
	// Never above what is synced: a power cut may leave the journal shorter than its end, and that is no damage.
	if err := g.cfg.Replica.SaveGroupCheckpoint(at, uint64(min(kept, g.disk.journal.Synced())), state); err != nil {
		return err
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	p := g.peers
	p.floor, g.firstKept = at, min(journal.LSN(g.cfg.Replica.JournalFrom()), g.hardAt)
	p.core.Forget(uint64(at.Index))
	for i := range p.at {
		if record.Index(i) <= at.Index {
			delete(p.at, i)
		}
	}
	for n, it := range p.table {
		if it.index != 0 && it.index <= at.Index {
			p.drop(n)
		}
	}
	return nil
}

// covered takes back of members that they are filled, where that would leave a voter with content that has not come to the start of the
// witness' log. g.mu is held.
func (g *Group) covered(want []Member, s *consensus.Status) []Member {
	p := g.peers
	want = slices.Clone(want)
	for _, w := range want {
		if !w.Witness || !slices.Contains(s.Voters, w.ID) {
			continue
		}
		r, ok := p.reports[w.ID]
		has := s.Peers[w.ID] // a witness whose log ends before the leader's begins will begin it anew (position)
		keeps := ok && p.ticks-r.tick < 3*reportTicks && !has.Lagging && has.Match >= p.core.Base()
		for i := range want {
			if m := &want[i]; m.Role == Learner && !m.Witness {
				m.Filled = m.Filled && keeps && s.Peers[m.ID].Match >= r.index
			}
		}
	}
	for i := range want {
		m := &want[i]
		if !m.Witness || m.Role != Learner || !m.Filled {
			continue
		}
		r, ok := p.reports[m.ID]
		m.Filled = ok && r.witness && p.ticks-r.tick < 3*reportTicks
		for _, o := range want {
			joins := o.Role == Learner && o.Filled && slices.Contains(s.Learners, o.ID)
			if !o.Witness && (joins || slices.Contains(s.Voters, o.ID)) && s.Peers[o.ID].Match < r.index {
				m.Filled = false
			}
		}
	}
	return want
}

// givenUp is the change that takes a member out for which the witness keeps more than it may, and which has not been heard of for long. The
// witness gives up its vote, too, where it would be one of two. g.mu is held.
func (g *Group) givenUp(want []Member, s *consensus.Status) []pb.ConfChangeSingle {
	p := g.peers
	for _, m := range want {
		r := p.reports[m.ID]
		id := r.laggard
		if !m.Witness || !r.witness || p.ticks-r.tick > 3*reportTicks || r.bytes <= r.limit || !slices.Contains(s.Voters, m.ID) {
			continue
		}
		if id == s.ID || id == m.ID || !slices.Contains(s.Voters, id) || p.ticks-p.heard[id] < absentTicks || s.Peers[id].Active {
			continue
		}
		changes := []pb.ConfChangeSingle{single(pb.ConfChangeRemoveNode, id)}
		if len(s.Voters) == 3 {
			changes = append(changes, single(pb.ConfChangeAddLearnerNode, m.ID))
		}
		g.cfg.Logger.Error("a replica has been away for too long: the witness keeps no more for it, and it is no member any more",
			"replica", diskdir.ID(id).String(), "kept", r.bytes, "limit", r.limit, "voters", len(s.Voters))
		return changes
	}
	return nil
}
