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
	bindings map[record.Index]name
	last     record.Index
	hard     journal.HardState
	hardAt   journal.LSN
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
		h = &history{byName: map[name]int{}, bindings: map[record.Index]name{}}
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
	for i := record.Index(b.Index); i <= h.last; i++ {
		delete(h.bindings, i)
	}
	for k := range b.Count {
		h.last = record.Index(b.Index) + record.Index(k)
		h.bindings[h.last] = name{record.Epoch(b.Epoch), record.Seq(b.Seq) + record.Seq(k)}
	}
}

// log returns the bound records above the checkpoint, which are the group's log, and the gap-free payloads behind it that have no
// binding: an owner that died had answered them.
func (h *history) log(from store.Checkpoint, keys *seal.Keys) (bound, unbound []item, err error) {
	acceptance := from.Acceptance
	for i := from.Index + 1; i <= h.last; i++ {
		n, ok := h.bindings[i]
		if !ok {
			return nil, nil, fmt.Errorf("%w: the journal has no binding for index %d, and one for %d", store.ErrDamaged, i, h.last)
		}
		it, err := h.item(n, keys)
		if err != nil {
			return nil, nil, fmt.Errorf("%w: index %d: %w", store.ErrDamaged, i, err)
		}
		it.index = i
		acceptance.Step(it.rec.Kind, it.rec.Name)
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
		unbound = append(unbound, it)
	}
	return bound, unbound, nil
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
