package store

import (
	"errors"
	"fmt"
	"io"

	"github.com/remora-storage/remora/cachefs/record"
	"github.com/remora-storage/remora/cachefs/seal"
)

// Extent is a run of blocks of a blob, where they are, and what they must be.
type Extent struct {
	Blob  record.BlobID
	First uint32
	Seals []record.Seal
	slot  uint32
}

// AbsentError: a block of a blob is not here. A replica that is being filled fetches it from a peer; for one that is complete it is
// damage.
type AbsentError struct {
	Blob  record.BlobID
	Block uint32
}

func (e *AbsentError) Error() string {
	return fmt.Sprintf("blob %d block %d is not here", e.Blob, e.Block)
}

// Is makes it damage to whoever cannot fetch.
func (e *AbsentError) Is(target error) bool { return target == ErrDamaged }

// Locate looks up blocks [first, first+count) of a blob. An AbsentError names the first that is not here.
func (s *Store) Locate(id record.BlobID, first, count uint32) (Extent, error) {
	e := Extent{Blob: id, First: first, Seals: make([]record.Seal, count)}
	s.mu.RLock()
	b, ok := s.blobs[id]
	if ok && b.has(first, count) {
		defer s.mu.RUnlock()
		return e, e.fill(b)
	}
	s.mu.RUnlock()
	s.mu.Lock()
	defer s.mu.Unlock()
	b, err := s.blob(id, first, count)
	if err != nil {
		return e, err
	}
	if b == nil {
		return e, &AbsentError{id, first}
	}
	return e, e.fill(b)
}

// has tells whether the seals of the blocks are loaded.
func (b *blob) has(first, count uint32) bool {
	for i := first / sealGroup; i <= (first+count-1)/sealGroup; i++ {
		if b.loaded&(1<<i) == 0 {
			return false
		}
	}
	return true
}

func (e *Extent) fill(b *blob) error {
	e.slot = b.slot
	for i := range e.Seals {
		seal := b.seal(e.First + uint32(i))
		if seal == nil {
			return &AbsentError{e.Blob, e.First + uint32(i)}
		}
		e.Seals[i] = *seal
	}
	return nil
}

// Read reads the blocks of e into dst, which must be as long, checks every one against its seal and opens it. ErrStale: a block is not what
// the seal says; it has changed meanwhile, or it is damaged. Whoever gets it for the same seals twice knows which.
func (s *Store) Read(e Extent, dst []byte) error {
	if err := s.arena.read(e.slot, e.First, dst); errors.Is(err, io.EOF) {
		return fmt.Errorf("%w: the arena ends before slot %d block %d", ErrDamaged, e.slot, e.First)
	} else if err != nil {
		return err
	}
	return seal.InParts(len(e.Seals), func(from, to int) error {
		for i := from; i < to; i++ {
			err := s.cfg.Keys.OpenBlock(&e.Seals[i], dst[i*record.BlockSize:(i+1)*record.BlockSize])
			switch {
			case errors.Is(err, seal.ErrDamaged):
				return fmt.Errorf("%w: blob %d block %d", ErrStale, e.Blob, e.First+uint32(i))
			case err != nil:
				return fmt.Errorf("%w: blob %d block %d: %w", ErrDamaged, e.Blob, e.First+uint32(i), err)
			}
		}
		return nil
	})
}
