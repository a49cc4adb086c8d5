package replication

import (
	"bytes"
	"fmt"

	"github.com/remora-storage/remora/cachefs/meta"
	"github.com/remora-storage/remora/cachefs/record"
	"github.com/remora-storage/remora/cachefs/seal"
	"github.com/remora-storage/remora/cachefs/store"
	"github.com/remora-storage/remora/sidecar/replication/diskdir"
	"github.com/remora-storage/remora/sidecar/replication/journal"
)

// history is what the journal has of one replica.
type history struct {
	payloads []payload
	byName   map[name]int // newest payload of a name
	bindings map[record.Index]bound
	last     record.Index
	hard     journal.HardState
	hardAt   journal.LSN
}

// start is where the first frame is that counts, or a position before it.
func (h *history) start(before journal.LSN) journal.LSN {
	if len(h.payloads) > 0 {
		before = min(before, h.payloads[0].lsn)
	}
	if h.hard != (journal.HardState{}) {
		before = min(before, h.hardAt)
	}
	return before
}

// bound is what an index is bound to: the record of that name, or an entry of Raft's own.
type bound struct {
	name
	term  uint64
	entry *journal.Entry
	lsn   journal.LSN // of the entry
}

// name is how payload and binding frames refer to each other.
type name struct {
	epoch record.Epoch
	seq   record.Seq
}

type payload struct {
	lsn    journal.LSN
	body   []byte
	placed []journal.Placement
}

// decode reads the record, and where the content is that it lacks.
func (p *payload) decode(keys *seal.Keys) (*record.Record, []store.Placement, error) {
	var absent []int
	var placed []store.Placement
	for _, pl := range p.placed {
		absent = append(absent, int(pl.Op))
		placed = append(placed, store.Placement{Op: int(pl.Op), Slot: pl.Slot})
	}
	r, err := record.DecodePlaced(p.body, keys.Sealer(), absent)
	return r, placed, err
}

type replicaKey struct{ group, replica diskdir.ID }

// histories sorts the frames of a journal by replica.
type histories map[replicaKey]*history

func (hs histories) visit(f journal.Frame) error {
	key := replicaKey{diskdir.ID(f.Group), diskdir.ID(f.Replica)}
	h := hs[key]
	if h == nil {
		h = &history{byName: map[name]int{}, bindings: map[record.Index]bound{}}
		hs[key] = h
	}
	switch f.Kind {
	case journal.KindPayload, journal.KindPlaced:
		p, _, err := journal.PayloadOf(f)
		if err != nil {
			return err
		}
		h.byName[name{record.Epoch(p.Epoch), record.Seq(p.Seq)}] = len(h.payloads)
		h.payloads = append(h.payloads, payload{f.LSN, append([]byte(nil), p.Record...), p.Placed})
	case journal.KindBinding:
		b, err := journal.DecodeBinding(f.Body)
		if err != nil {
			return err
		}
		h.bind(b)
	case journal.KindEntry:
		e, err := journal.DecodeEntry(f.Body)
		if err != nil {
			return err
		}
		e.Data = append([]byte(nil), e.Data...)
		h.void(record.Index(e.Index))
		h.last = record.Index(e.Index)
		h.bindings[h.last] = bound{entry: &e, term: e.Term, lsn: f.LSN}
	case journal.KindHardState:
		var err error
		h.hard, err = journal.DecodeHardState(f.Body)
		h.hardAt = f.LSN
		return err
	}
	return nil
}

// bind notes a binding; it voids all earlier ones at or above its index.
func (h *history) bind(b journal.Binding) {
	h.void(record.Index(b.Index))
	for k := range b.Count {
		h.last = record.Index(b.Index) + record.Index(k)
		h.bindings[h.last] = bound{name: name{record.Epoch(b.Epoch), record.Seq(b.Seq) + record.Seq(k)}, term: b.Term}
	}
}

// void takes back what indexes from i on are bound to. A binding of no records does only that: the state of a peer was installed.
func (h *history) void(i record.Index) {
	for k := i; k <= h.last; k++ {
		delete(h.bindings, k)
	}
	if h.last >= i {
		h.last = i - 1
	}
}

// log returns the log above the checkpoint: records, and entries of Raft's own (of which rec is nil). Behind it come the gap-free payloads
// that the owner of the newest epoch left and that are not committed: an owner that died had answered them. Where the group is of one,
// commit is the end of the log.
func (h *history) log(from store.Checkpoint, commit record.Index, keys *seal.Keys) (bound, stream []item, err error) {
	acceptance := from.Acceptance
	for i := from.Index + 1; i <= h.last; i++ {
		b, ok := h.bindings[i]
		if !ok {
			return nil, nil, fmt.Errorf("%w: the journal has no binding for index %d, and one for %d", store.ErrDamaged, i, h.last)
		}
		it := item{payload: b.lsn}
		if b.entry == nil {
			if it, err = h.item(b.name, keys); err != nil {
				return nil, nil, fmt.Errorf("%w: index %d: %w", store.ErrDamaged, i, err)
			}
			if i <= commit {
				acceptance.Step(it.rec.Kind, it.rec.Name)
			}
		}
		it.index = i
		bound = append(bound, it)
	}
	for next := range h.payloads {
		hdr, err := record.DecodeHeader(h.payloads[next].body)
		if err != nil {
			return nil, nil, fmt.Errorf("%w: payload at %d: %w", store.ErrDamaged, h.payloads[next].lsn, err)
		}
		if !acceptance.Step(hdr.Kind, hdr.Name) {
			continue
		}
		it, err := h.item(name{hdr.Name.Epoch, hdr.Name.Seq}, keys)
		if err != nil {
			return nil, nil, fmt.Errorf("%w: payload at %d: %w", store.ErrDamaged, h.payloads[next].lsn, err)
		}
		stream = append(stream, it)
	}
	return bound, stream, nil
}

// learn takes the salt of a new incarnation from its Owner record.
func learn(keys *seal.Keys, r *record.Record) error {
	if r.Kind != record.Owner || keys == nil {
		return nil
	}
	for i := range r.Muts {
		if bytes.Equal(r.Muts[i].Key, meta.SaltKey(uint32(r.Name.Incarnation))) && len(r.Muts[i].Value) == 8+seal.SaltSize {
			return keys.Learn(r.Name.Incarnation, r.Muts[i].Value[8:])
		}
	}
	return fmt.Errorf("owner record %v has no salt", r.Name)
}

func (h *history) item(n name, keys *seal.Keys) (item, error) {
	k, ok := h.byName[n]
	if !ok {
		return item{}, fmt.Errorf("the journal has no payload %d/%d", n.epoch, n.seq)
	}
	p := h.payloads[k]
	r, placed, err := p.decode(keys)
	if err != nil {
		return item{}, err
	}
	if err := learn(keys, r); err != nil {
		return item{}, err
	}
	if r.Name.Epoch != n.epoch || r.Name.Seq != n.seq {
		return item{}, fmt.Errorf("payload %d/%d holds record %v", n.epoch, n.seq, r.Name)
	}
	return item{rec: r, placed: placed, payload: p.lsn}, nil
}
