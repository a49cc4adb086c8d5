package store

import (
	"fmt"
	"maps"
	"slices"

	"github.com/cockroachdb/pebble/v2"

	"github.com/remora-storage/remora/cachefs/meta"
	"github.com/remora-storage/remora/cachefs/record"
)

// Entry is a position of the log; Record is nil where the log has no payload.
type Entry struct {
	Index  record.Index
	Record *record.Record
	Placed []Placement // content that the arena has already
}

// Placement is the content of an operation that Place wrote.
type Placement struct {
	Op   int
	Slot uint32
}

func (e *Entry) slot(op int) (slot uint32, placed bool) {
	for _, p := range e.Placed {
		if p.Op == op {
			return p.Slot, true
		}
	}
	return 0, false
}

// Apply takes the next committed entries of the log, all durable in this replica's journal. After an error the store has stopped:
// what the entries changed is undefined until it is opened again and the log replayed.
func (s *Store) Apply(entries []Entry) error {
	s.applyMu.Lock()
	defer s.applyMu.Unlock()
	if err := s.failure(); err != nil {
		return err
	}
	batch := s.db.NewBatch()
	defer batch.Close()
	touched := map[record.BlobID]*blob{}
	newest := map[string]*newestOf{} // of each key: what the records of one batch set in turn, the store sees once
	for _, e := range entries {
		if e.Index != s.position.Index+1 {
			return s.fail(fmt.Errorf("apply: entry %d follows %d", e.Index, s.position.Index))
		}
		if err := s.applyOne(newest, e, touched); err != nil {
			return s.fail(fmt.Errorf("apply index %d: %w", e.Index, err))
		}
		s.position.Index = e.Index
	}
	s.noteFreed()
	err := mutate(batch, newest)
	if err == nil {
		err = s.finish(batch, touched)
	}
	if err != nil {
		return s.fail(fmt.Errorf("apply up to index %d: %w", s.position.Index, err))
	}
	return nil
}

// newestOf is what a batch does last to a key. It is changed in place: to put into a map what is there costs a copy of the key.
type newestOf struct{ m *record.Mutation }

func mutate(batch *pebble.Batch, newest map[string]*newestOf) error {
	for _, key := range slices.Sorted(maps.Keys(newest)) { // in order: the same batch at every replica, in every run
		m := newest[key].m
		var err error
		if m.Delete {
			err = batch.Delete(m.Key, nil)
		} else {
			err = batch.Set(m.Key, m.Value, nil)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (s *Store) applyOne(newest map[string]*newestOf, e Entry, touched map[record.BlobID]*blob) error {
	r := e.Record
	if r == nil || !s.position.Acceptance.Step(r.Kind, r.Name) {
		return nil
	}
	redo := e.Index <= s.opened
	if !redo {
		for i := range r.Muts {
			m := &r.Muts[i]
			if m.Key[0] >= meta.LocalPrefix {
				return fmt.Errorf("%w: record %v changes a local key", ErrDamaged, r.Name)
			}
			if n := newest[string(m.Key)]; n != nil {
				n.m = m
			} else {
				newest[string(m.Key)] = &newestOf{m}
			}
		}
		s.answers.step(r)
	}
	for i := range r.Ops {
		var err error
		slot, placed := e.slot(i)
		switch {
		case !redo:
			err = s.applyOp(e.Index, r.Name, &r.Ops[i], touched, slot, placed)
		case !placed:
			err = s.redoOp(&r.Ops[i])
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// applyOp changes a blob. The arena is written before the seals change, so that a reader that saw the old seal finds either the
// old block, or one that does not fit its seal and makes it look again.
func (s *Store) applyOp(at record.Index, n record.Name, o *record.BlockOp, touched map[record.BlobID]*blob, slot uint32, placed bool) error {
	b, err := s.blobForChange(o, touched)
	if err != nil || b == nil {
		return err
	}
	if placed && b.slot != slot {
		return fmt.Errorf("%w: content of blob %d was written to slot %d, and the blob is in slot %d", ErrDamaged, o.Blob, slot, b.slot)
	}
	if o.Kind == record.WriteBlocks && !placed {
		if err := s.arena.write(b.slot, o.First, o.Data); err != nil {
			return err
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	b.last = meta.Change{Epoch: n.Epoch, Seq: n.Seq}
	switch o.Kind {
	case record.WriteBlocks:
		for i := range o.Seals {
			b.setSeal(o.First+uint32(i), o.Seals[i])
			b.here.Set(o.First + uint32(i))
			b.filled.Clear(o.First + uint32(i))
		}
		s.overwritten(o)
	case record.PunchBlocks:
		for i := o.First; i < o.First+o.Count; i++ {
			if b.here.Has(i) || b.filled.Has(i) {
				b.setSeal(i, record.Seal{})
				b.here.Clear(i)
				b.filled.Clear(i)
			}
		}
		s.overwritten(o)
		s.arena.freed = append(s.arena.freed, freed{at: at, slot: b.slot, blob: o.Blob, first: o.First, count: o.Count})
	case record.FreeBlob:
		b.gone = true
		b.filled = meta.Bitmap{}
		delete(s.bad, o.Blob)
		s.arena.freed = append(s.arena.freed, freed{at: at, slot: b.slot, count: record.ChunkBlocks})
	}
	return nil
}

// blobForChange finds the blob of o, or gives a new one its slot; nil if there is nothing to change.
func (s *Store) blobForChange(o *record.BlockOp, touched map[record.BlobID]*blob) (*blob, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	b, err := s.blob(o.Blob, o.First, o.Count)
	if err != nil {
		return nil, err
	}
	if b == nil {
		if o.Kind != record.WriteBlocks {
			return nil, nil
		}
		slot, ok := s.reserved[o.Blob]
		if !ok {
			slot = s.arena.allocate(o.Count == record.ChunkBlocks)
		}
		delete(s.reserved, o.Blob)
		b = &blob{residency: residency{slot: slot}, loaded: ^uint32(0), pinned: true}
		s.remember(o.Blob, b)
	}
	if b.gone {
		return nil, fmt.Errorf("%w: blob %d was freed before", ErrDamaged, o.Blob)
	}
	b.pinned = true
	touched[o.Blob] = b
	return b, nil
}

// redoOp writes blocks again that the arena may have lost, where the store still has them under the record's own seal.
func (s *Store) redoOp(o *record.BlockOp) error {
	if o.Kind != record.WriteBlocks {
		return nil
	}
	s.mu.Lock()
	b, err := s.blob(o.Blob, o.First, o.Count)
	s.mu.Unlock()
	if err != nil || b == nil {
		return err
	}
	for i := range o.Seals {
		block := o.First + uint32(i)
		if have := b.seal(block); have == nil || *have != o.Seals[i] {
			continue
		}
		if err := s.arena.write(b.slot, block, o.Data[i*record.BlockSize:(i+1)*record.BlockSize]); err != nil {
			return err
		}
	}
	return nil
}

// finish puts residency, seals and position into the batch and commits it.
func (s *Store) finish(batch *pebble.Batch, touched map[record.BlobID]*blob) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	var buf []byte
	for _, id := range slices.Sorted(maps.Keys(touched)) {
		b := touched[id]
		if b.gone {
			if err := s.drop(batch, id, b); err != nil {
				return err
			}
			continue
		}
		buf = b.append(buf[:0])
		if err := batch.Set(residencyKey(id), buf, nil); err != nil {
			return err
		}
		for g := range b.seals {
			if b.dirty&(1<<g) == 0 {
				continue
			}
			buf = b.appendSeals(buf[:0], g)
			if err := batch.Set(sealKey(id, g), buf, nil); err != nil {
				return err
			}
		}
	}
	if s.position.Index > s.opened {
		if err := batch.Set(appliedKey, encodeApplied(nil, s.position), nil); err != nil {
			return err
		}
		if s.answers.changed {
			if err := batch.Set(answersKey, s.answers.append(nil), nil); err != nil {
				return err
			}
			s.answers.changed = false
		}
	}
	if err := batch.Commit(pebble.NoSync); err != nil {
		return err
	}
	for id, b := range touched {
		b.dirty, b.pinned = 0, !b.filled.IsZero()
		if b.gone {
			delete(s.blobs, id)
			delete(s.filled, id)
		}
	}
	return nil
}

func (s *Store) drop(batch *pebble.Batch, id record.BlobID, b *blob) error {
	if err := batch.Delete(residencyKey(id), nil); err != nil {
		return err
	}
	for g := range sealGroups {
		// A group whose seals are not loaded may be in the store.
		if b.loaded&(1<<g) != 0 && b.seals[g] == nil {
			continue
		}
		if err := batch.Delete(sealKey(id, g), nil); err != nil {
			return err
		}
	}
	return nil
}

// EndReplay is called when the log was applied to its end: the store must have come at least as far as it was before.
func (s *Store) EndReplay() (Checkpoint, error) {
	if at := s.Position().Index; at < s.opened {
		return Checkpoint{}, s.fail(fmt.Errorf("%w: metadata is at index %d, the log ends at %d", ErrDamaged, s.opened, at))
	}
	return s.Checkpoint()
}

// Checkpoint makes everything applied durable and returns the position. The caller makes the position durable and then calls
// Reclaim.
func (s *Store) Checkpoint() (Checkpoint, error) {
	s.applyMu.Lock()
	defer s.applyMu.Unlock()
	if err := s.failure(); err != nil {
		return Checkpoint{}, err
	}
	if err := s.arena.sync(); err != nil {
		return Checkpoint{}, s.fail(fmt.Errorf("checkpoint: %w", err))
	}
	if err := s.saveFilled(); err != nil {
		return Checkpoint{}, s.fail(fmt.Errorf("checkpoint: %w", err))
	}
	if err := s.flush(); err != nil {
		return Checkpoint{}, err
	}
	return s.position, nil
}

// flush makes durable what Pebble has.
func (s *Store) flush() error {
	flushed, err := s.db.AsyncFlush()
	if err != nil {
		return s.fail(fmt.Errorf("checkpoint: %w", err))
	}
	select {
	case <-flushed:
	case <-s.stopped: // a flush that failed is tried again, for ever
	}
	return s.failure()
}
