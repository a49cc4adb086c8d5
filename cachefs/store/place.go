package store

import (
	"errors"
	"fmt"

	"github.com/remora-storage/remora/cachefs/record"
)

// Place writes the content of an operation into the arena before its record is in the journal, which then only names the slot: large
// content is written once (DESIGN 6). The operation is Fresh, so nothing durable refers to these blocks. The caller syncs the arena
// before it calls the record durable, and applies it with the placement. An error that is ENOSPC has changed nothing; any other
// stops the store.
func (s *Store) Place(o *record.BlockOp) (uint32, error) {
	slot, err := s.slotOf(o.Blob, o.Count == record.ChunkBlocks)
	if err == nil {
		err = s.arena.place(slot, o.First, o.Data)
	}
	if err != nil && !isNoSpace(err) {
		err = s.fail(err)
	}
	return slot, err
}

// slotOf returns the slot of a blob, or reserves one for it.
func (s *Store) slotOf(id record.BlobID, whole bool) (uint32, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if slot, ok := s.reserved[id]; ok {
		return slot, nil
	}
	b, err := s.blob(id, 0, 0)
	if err != nil {
		return 0, err
	}
	if b != nil {
		return b.slot, nil
	}
	slot := s.arena.allocate(whole)
	s.reserved[id] = slot
	return slot, nil
}

// Adopt takes in what an earlier process placed, before its records are applied: entries of the log, and payloads behind it (index 0).
// Of what the metadata has already there is nothing to take in.
func (s *Store) Adopt(entries []Entry) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	slots := map[uint32]bool{}
	for _, e := range entries {
		for _, p := range e.Placed {
			if e.Index != 0 && e.Index <= s.opened {
				continue
			}
			id := e.Record.Ops[p.Op].Blob
			b, err := s.blob(id, 0, 0)
			if err != nil {
				return err
			}
			if have, ok := s.reserved[id]; ok && have != p.Slot || b != nil && b.slot != p.Slot {
				return fmt.Errorf("%w: blob %d has content in slot %d and in another", ErrDamaged, id, p.Slot)
			}
			slots[p.Slot] = true
			if b == nil {
				s.reserved[id] = p.Slot
			}
		}
	}
	s.arena.adopt(slots)
	return nil
}

// SyncPlaced makes everything durable that Place wrote before the call.
func (s *Store) SyncPlaced() error {
	if err := s.failure(); err != nil {
		return err
	}
	if err := s.arena.sync(); err != nil {
		return s.fail(errors.Join(errors.New("sync placed content"), err))
	}
	return nil
}

// Placed reads content that Place wrote, and checks that nobody has changed it since.
func (s *Store) Placed(slot uint32, o *record.BlockOp) ([]byte, error) {
	b := make([]byte, int(o.Count)*record.BlockSize)
	if err := s.arena.read(slot, o.First, b); err != nil {
		return nil, err
	}
	for i := range o.Seals {
		if record.Checksum(b[i*record.BlockSize:(i+1)*record.BlockSize]) != o.Seals[i].CRC {
			return nil, fmt.Errorf("slot %d has changed since blob %d was placed there", slot, o.Blob)
		}
	}
	return b, nil
}

// Opened is the index up to which the metadata had applied the log when it was opened.
func (s *Store) Opened() record.Index { return s.opened }
