package store

import (
	"errors"

	"github.com/remora-storage/remora/cachefs/record"
)

// Reclaim gives back what was freed at or below a checkpoint, which must be durable: slots to new blobs, blocks to the disk. A few slots
// keep their blocks for new content, unless all are to be given back.
func (s *Store) Reclaim(at record.Index, all bool) error {
	s.applyMu.Lock()
	defer s.applyMu.Unlock()
	s.arena.endReplay()
	var errs error
	if s.trim {
		errs = s.arena.trim()
		s.trim = false
	}
	for _, f := range s.arena.take(at) {
		if f.blob != 0 {
			errs = errors.Join(errs, s.punchAbsent(f))
			continue
		}
		if all || !s.arena.keep(f.slot) {
			errs = errors.Join(errs, s.giveBack(f.slot))
		}
	}
	for all {
		slot, ok := s.arena.cool()
		if !ok {
			break
		}
		errs = errors.Join(errs, s.giveBack(slot))
	}
	s.freed.Store(len(s.arena.freed) > 0 || s.arena.hasWarm())
	if errs != nil {
		return s.fail(errs)
	}
	return nil
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
