package replication

import (
	"encoding/binary"
	"fmt"

	"github.com/remora-storage/remora/cachefs/record"
	"github.com/remora-storage/remora/cachefs/store"
	"github.com/remora-storage/remora/sidecar/replication/journal"
)

// A witness keeps records as the bytes that came: in the journal, and in memory only until they are there.

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

// rawParts are a record's bytes with a header, as parts adds them. What was placed elsewhere is not known here: that is a hint.
func (g *Group) rawParts(it *item) (size int, err error) {
	b := it.meta
	if b == nil {
		f, err := g.disk.journal.Read(it.payload)
		if err != nil {
			return 0, fmt.Errorf("record %v: %w", it.rec.Name, err)
		}
		p, _, err := journal.PayloadOf(f)
		if err == nil && (record.Epoch(p.Epoch) != it.rec.Name.Epoch || record.Seq(p.Seq) != it.rec.Name.Seq) {
			err = fmt.Errorf("%w: the frame at %d has record %d/%d", store.ErrDamaged, it.payload, p.Epoch, p.Seq)
		}
		if err != nil {
			return 0, fmt.Errorf("record %v: %w", it.rec.Name, err)
		}
		b = p.Record
	}
	head := g.peers.body.head(8)
	binary.LittleEndian.PutUint64(head, uint64(len(b))) // and no operations with fresh content
	g.peers.body.parts = append(g.peers.body.parts, head, b)
	return len(head) + len(b), nil
}
