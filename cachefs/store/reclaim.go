package store

import (
	"errors"

	"github.com/remora-storage/remora/cachefs/record"
)

// Reclaim gives back what was freed at or below a checkpoint, which must be durable: slots to new blobs, blocks to the disk.
func (s *Store) Reclaim(at record.Index) error {
	s.applyMu.Lock()
	defer s.applyMu.Unlock()
	s.arena.endReplay()
	var errs error
	for _, f := range s.arena.take(at) {
		if f.blob != 0 {
			errs = errors.Join(errs, s.punchAbsent(f))
			continue
		}
		errs = errors.Join(errs, s.arena.punch(f.slot, 0, record.ChunkBlocks))
		s.arena.release(f.slot)
	}
	s.freed.Store(len(s.arena.freed) > 0)
	if errs != nil {
		return s.fail(errs)
	}
	return nil
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
