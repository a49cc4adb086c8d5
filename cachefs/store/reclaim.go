package store

import (
	"github.com/remora-storage/remora/cachefs/record"
)

// Reclaim gives slots to new blobs that were freed at or below a checkpoint, which must be durable. Their blocks go back to the disk one by
// one (GiveBack), or at once, if all are to: where the disk discards what is punched, a punch takes up to tens of milliseconds.
func (s *Store) Reclaim(at record.Index, all bool) error {
	s.applyMu.Lock()
	defer s.applyMu.Unlock()
	s.arena.endReplay()
	for _, f := range s.arena.take(at) {
		if f.blob != 0 {
			s.arena.due = append(s.arena.due, f)
		} else {
			s.arena.keep(f.slot)
		}
	}
	for more := all; more; {
		var err error
		if more, err = s.giveBackOne(0); err != nil {
			return s.fail(err)
		}
	}
	s.noteFreed()
	return nil
}

// GiveBack gives blocks of one slot back to the disk, if there is one that nobody will soon write to again (Surplus). It may be called after
// the first Reclaim.
func (s *Store) GiveBack() error {
	s.applyMu.Lock()
	defer s.applyMu.Unlock()
	if _, err := s.giveBackOne(maxWarm); err != nil {
		return s.fail(err)
	}
	s.noteFreed()
	return nil
}

// noteFreed notes for others what there is to give back. applyMu is held.
func (s *Store) noteFreed() {
	due := len(s.arena.due)
	s.surplus.Store(!s.arena.replaying() && (due > 0 || s.arena.idle(maxWarm) > 0))
	s.freed.Store(len(s.arena.freed)+due > 0 || s.arena.idle(0) > 0)
}

// Surplus tells whether GiveBack has something to do.
func (s *Store) Surplus() bool { return s.surplus.Load() }

// giveBackOne takes the next blocks that are to go back to the disk, and leaves so many slots warm. applyMu is held.
func (s *Store) giveBackOne(warm int) (more bool, err error) {
	if len(s.arena.due) > 0 {
		f := s.arena.due[0]
		s.arena.due = s.arena.due[1:]
		err = s.punchAbsent(f)
	} else if slot, ok := s.arena.cool(warm); ok {
		err = s.giveBack(slot)
	}
	return len(s.arena.due) > 0 || s.arena.idle(warm) > 0, err
}

func (s *Store) giveBack(slot uint32) error {
	err := s.arena.punch(slot, 0, record.ChunkBlocks)
	s.arena.release(slot)
	return err
}

// punchAbsent punches the blocks of a punched range that nobody has written since. A blob that is gone has freed its whole slot.
func (s *Store) punchAbsent(f freed) error {
	s.mu.Lock()
	b, err := s.blob(f.blob, 0, 0)
	s.mu.Unlock()
	if err != nil || b == nil || b.gone {
		return err
	}
	for i := f.first; i < f.first+f.count; {
		n := uint32(0)
		for i+n < f.first+f.count && !b.here.Has(i+n) {
			n++
		}
		if n > 0 {
			if err := s.arena.punch(b.slot, i, n); err != nil {
				return err
			}
		}
		i += max(n, 1)
	}
	return nil
}
