package replication

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
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

// WitnessStatus is what a witness keeps.
type WitnessStatus struct {
	From  uint64 // its log begins behind this index
	Bytes int64  // of records
	Limit int64  // above which a member that is away is given up
}

// report is what a member says of itself.
type report struct {
	witness bool
	index   uint64 // of its durable checkpoint: it needs nothing up to here. A witness': it has everything behind
	bytes   int64  // that a witness keeps
	limit   int64
	laggard uint64 // for whom
	tick    int    // when it came
}

// reportBytes is the length of an encoded report.
const reportBytes = 33

func (r report) encode() []byte {
	le, b := binary.LittleEndian, make([]byte, 1, reportBytes)
	if r.witness {
		b[0] = 1
	}
	b = le.AppendUint64(le.AppendUint64(b, r.index), uint64(r.bytes))
	return le.AppendUint64(le.AppendUint64(b, uint64(r.limit)), r.laggard)
}

func decodeReport(b []byte) (report, error) {
	le := binary.LittleEndian
	if len(b) != reportBytes || b[0] > 1 {
		return report{}, fmt.Errorf("%w: a report of %d bytes", ErrMessage, len(b))
	}
	return report{witness: b[0] == 1, index: le.Uint64(b[1:]), bytes: int64(le.Uint64(b[9:])), limit: int64(le.Uint64(b[17:])), laggard: le.Uint64(b[25:])}, nil
}

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
	if old := p.reports[from]; !r.witness && old.index > r.index { // a durable checkpoint does not go back: it was late
		r.index = old.index
	}
	p.reports[from], p.heard[from] = r, p.ticks
	if r.witness && !g.witness() && r.laggard == uint64(g.key().replica) && r.bytes > r.limit/pressParts && g.saved < g.applied {
		g.pressed = true // a checkpoint lets it forget
		g.work.Signal()
	}
	return nil
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
		r := report{index: uint64(g.saved)}
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
	for _, id := range slices.Concat(conf.GetVoters(), conf.GetVotersOutgoing()) {
		if at := record.Index(p.reports[id].index); id != self && (at < to || laggard == 0) {
			to, laggard = min(to, at), id
		}
	}
	for _, id := range slices.Concat(conf.GetLearners(), conf.GetLearnersNext()) {
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
		if i := record.Index(e.GetIndex()); i <= at.Index || i > to || e.GetType() != pb.EntryNormal || len(e.GetData()) == 0 {
			continue
		}
		kind, n, err := consensus.DecodeName(e.GetData())
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

// position has this witness go on where the leader is, whose log does not reach back to where its own ends.
func (g *Group) position(ctx context.Context, leader uint64) error {
	r, err := g.peers.cfg.Fetch(ctx, leader, []byte{bulkPosition})
	if err != nil {
		return fmt.Errorf("fetch the position of %016x: %w", leader, err)
	}
	defer r.Close()
	state, err := readStateHeader(r)
	if err != nil {
		return err
	}
	b := make([]byte, 8+record.AcceptanceSize)
	if _, err := io.ReadFull(r, b); err != nil {
		return fmt.Errorf("read a position: %w", err)
	}
	state.Index = binary.LittleEndian.Uint64(b)
	if state.Acceptance, err = record.DecodeAcceptance(b[8:]); err != nil {
		return err
	}
	m, self := state.Members, uint64(g.key().replica)
	if !slices.Contains(slices.Concat(m.GetVoters(), m.GetVotersOutgoing(), m.GetLearners(), m.GetLearnersNext()), self) {
		return fmt.Errorf("%016x at index %d does not know this witness as a member", leader, state.Index)
	}
	if state.Index == 0 {
		return g.found(m)
	}
	g.applying.Lock()
	defer g.applying.Unlock()
	if err := g.takePosition(state); err != nil {
		g.fail(err)
		return err
	}
	g.cfg.Logger.Info("this witness goes on where the leader is", "from", fmt.Sprintf("%016x", leader), "index", state.Index)
	return nil
}

// takePosition is install for a witness. g.applying is held.
func (g *Group) takePosition(state consensus.State) error {
	g.mu.Lock()
	done := g.failed != nil || g.closing || record.Index(state.Index) <= g.applied
	kept := g.peers.needsAbove(record.Index(state.Index), g.disk.journal.End())
	if !done && g.has(state.Index, state.Term) { // it is all here, and only not known to be committed
		err := g.peers.core.Learn(state.Terms, state.Index)
		g.process()
		g.unlock()
		return err
	}
	g.mu.Unlock()
	if done {
		return nil
	}
	if err := g.voidLog(state.Index, state.Term); err != nil {
		return err
	}
	saved, err := encodeState(state)
	if err != nil {
		return err
	}
	at := store.Checkpoint{Index: record.Index(state.Index), Acceptance: state.Acceptance}
	if err := g.moveFloor(at, kept, saved); err != nil {
		return err
	}
	g.mu.Lock()
	defer g.unlock()
	g.installed, g.applied, g.saved = at.Index, at.Index, at.Index
	g.core.committed, g.core.last = max(g.core.committed, at.Index), max(g.core.last, at.Index)
	if !g.has(state.Index, state.Term) {
		err := g.peers.core.Restore(state)
		g.process()
		if !g.has(state.Index, state.Term) {
			g.cfg.Logger.Warn("raft did not take the position; it is asked for again", "index", state.Index, "err", err)
		}
	}
	g.process()
	g.disk.poke(true)
	return nil
}

// founders has a founder that has nothing take over from a witness, whose log goes back to the beginning, who the founders are: what it has come
// to then the log brings. Nobody else can be asked where the other one with content is lost.
func (g *Group) founders(ctx context.Context, witness uint64) error {
	g.mu.Lock()
	knows := !g.peers.memberless()
	g.mu.Unlock()
	if knows {
		return errNoLeader
	}
	r, err := g.peers.cfg.Fetch(ctx, witness, []byte{bulkPosition})
	if err != nil {
		return errNoLeader
	}
	defer r.Close()
	state, err := readStateHeader(r)
	b := make([]byte, 8)
	if _, readErr := io.ReadFull(r, b); err != nil || readErr != nil || binary.LittleEndian.Uint64(b) != 0 {
		return errNoLeader
	}
	return g.found(state.Members)
}

// sendPosition answers bulkPosition.
func (g *Group) sendPosition(w io.Writer) error {
	g.mu.Lock()
	core := g.peers.core
	index, acceptance := core.Delivered()
	term, members, err := core.At(index)
	state := consensus.State{Index: index, Term: term, Terms: core.Terms(index), Members: members}
	stop := g.failed != nil || g.closing
	if g.witness() { // only to founders that have nothing: what follows is in its log
		index, acceptance = 0, record.Acceptance{}
		stop = stop || core.Base() > 0
		_, members, err = core.At(0)
		state = consensus.State{Members: members}
	}
	g.mu.Unlock()
	if stop || err != nil || len(members.GetVoters()) == 0 {
		return errors.Join(errNotHere, err)
	}
	head, err := stateHeader(state)
	if err != nil {
		return err
	}
	_, err = w.Write(acceptance.Append(binary.LittleEndian.AppendUint64(head, index)))
	return err
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
		for i := range want {
			if m := &want[i]; m.Role == Learner && !m.Witness {
				m.Filled = m.Filled && ok && p.ticks-r.tick < 3*reportTicks && s.Peers[m.ID].Match >= r.index
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
func (g *Group) givenUp(want []Member, s *consensus.Status) []*pb.ConfChangeSingle {
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
		changes := []*pb.ConfChangeSingle{single(pb.ConfChangeRemoveNode, id)}
		if len(s.Voters) == 3 {
			changes = append(changes, single(pb.ConfChangeAddLearnerNode, m.ID))
		}
		g.cfg.Logger.Error("a replica has been away for too long: the witness keeps no more for it, and it is no member any more",
			"replica", diskdir.ID(id).String(), "kept", r.bytes, "limit", r.limit, "voters", len(s.Voters))
		return changes
	}
	return nil
}

// rawLog is log for a witness: names, and where the records are.
func (h *history) rawLog(from store.Checkpoint) (bound []item, err error) {
	for i := from.Index + 1; i <= h.last; i++ {
		b, ok := h.bindings[i]
		if !ok {
			return nil, fmt.Errorf("%w: the journal has no binding for index %d, and one for %d", store.ErrDamaged, i, h.last)
		}
		it := item{index: i, payload: b.lsn}
		if b.entry == nil {
			k, ok := h.byName[b.name]
			if !ok {
				return nil, fmt.Errorf("%w: the journal has no payload %d/%d", store.ErrDamaged, b.name.epoch, b.name.seq)
			}
			hdr, err := record.DecodeHeader(h.payloads[k].body)
			if err != nil {
				return nil, fmt.Errorf("%w: index %d: %w", store.ErrDamaged, i, err)
			}
			it.rec, it.raw, it.payload = nameOnly(hdr), len(h.payloads[k].body), h.payloads[k].lsn
		}
		bound = append(bound, it)
	}
	return bound, nil
}

func nameOnly(h record.Header) *record.Record {
	return &record.Record{Header: record.Header{Kind: h.Kind, Name: h.Name}}
}

// raw takes a record as it came: a witness cannot open it.
func (d *decoder) raw(b []byte, kind record.Kind, n record.Name) (record.Kind, record.Name, bool) {
	h, err := record.DecodeHeader(b)
	if err == nil && (h.Name != n || h.Kind != kind) {
		err = fmt.Errorf("%w: record %v came as %v", ErrMessage, h.Name, n)
	}
	if err != nil {
		d.err = err
		return 0, n, false
	}
	d.items = append(d.items, &item{rec: nameOnly(h), meta: b, raw: len(b)})
	return kind, n, true
}

// leaveToJournal lets go of a record that a witness has written. g.mu is held.
func (g *Group) leaveToJournal(it *item) {
	if it.raw == 0 || it.meta == nil {
		return
	}
	if g.peers.table[it.rec.Name] == it {
		g.peers.bytes -= it.weight()
	}
	it.meta = nil
}

// rawParts are a record's bytes with a header, as parts has them. What was placed elsewhere is not known here: that is a hint.
func (g *Group) rawParts(it *item) ([][]byte, int, error) {
	b := it.meta
	if b == nil {
		f, err := g.disk.journal.Read(it.payload)
		if err != nil {
			return nil, 0, fmt.Errorf("record %v: %w", it.rec.Name, err)
		}
		p, _, err := journal.PayloadOf(f)
		if err == nil && (record.Epoch(p.Epoch) != it.rec.Name.Epoch || record.Seq(p.Seq) != it.rec.Name.Seq) {
			err = fmt.Errorf("%w: the frame at %d has record %d/%d", store.ErrDamaged, it.payload, p.Epoch, p.Seq)
		}
		if err != nil {
			return nil, 0, fmt.Errorf("record %v: %w", it.rec.Name, err)
		}
		b = p.Record
	}
	head := binary.LittleEndian.AppendUint64(nil, uint64(len(b))) // and no operations with fresh content
	return [][]byte{head, b}, 8 + len(b), nil
}
