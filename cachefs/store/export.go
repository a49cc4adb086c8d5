package store

import (
	"errors"
	"fmt"

	"github.com/remora-storage/remora/cachefs/meta"
	"github.com/remora-storage/remora/cachefs/record"
)

// ErrBehind: this store has not applied what the other has: ask again when it has applied more.
var ErrBehind = errors.New("behind the change that was asked for")

// ErrGone: this store has applied the end of the blob. So will the one that asks.
var ErrGone = errors.New("the blob is gone")

// Export is what a peer that wants content is sent. Every block is compared with its seal first; those that are not here, or bad, are left
// out. ErrBehind: the blob here is of an earlier change than the peer's. ErrGone: it is not there any more.
func (s *Store) Export(w Want) (Content, error) {
	s.applyMu.Lock()
	row, seals, slot, blocks, err := s.exportable(&w)
	s.applyMu.Unlock()
	if err != nil {
		return Content{}, err
	}
	c := Content{Ino: w.Ino, Chunk: w.Chunk, Blob: w.Blob, Last: row.Last}
	good := true
	for i := range uint32(record.ChunkBlocks) {
		if blocks.Has(i) && !s.export(&c, slot, i, &seals[i]) {
			good = false
		}
	}
	if good {
		return c, nil
	}
	return s.exportAgain(w)
}

// exportAgain is Export while nothing is applied: what does not fit its seal now is bad, and had not just changed.
func (s *Store) exportAgain(w Want) (Content, error) {
	s.applyMu.Lock()
	defer s.applyMu.Unlock()
	row, seals, slot, blocks, err := s.exportable(&w)
	if err != nil {
		return Content{}, err
	}
	s.mu.Lock()
	b, err := s.blob(w.Blob, 0, record.ChunkBlocks)
	s.mu.Unlock()
	if err != nil || b == nil {
		return Content{}, err
	}
	bad, err := s.findBad(w.Blob, b, blocks)
	if err != nil {
		return Content{}, err
	}
	c := Content{Ino: w.Ino, Chunk: w.Chunk, Blob: w.Blob, Last: row.Last}
	for i := range uint32(record.ChunkBlocks) {
		if blocks.Has(i) && !bad.Has(i) {
			s.export(&c, slot, i, &seals[i])
		}
	}
	return c, nil
}

// exportable looks up which of the wanted blocks are here, where, and under which seals. applyMu is held.
func (s *Store) exportable(w *Want) (row Want, seals [record.ChunkBlocks]record.Seal, slot uint32, blocks meta.Bitmap, err error) {
	if err := s.failure(); err != nil {
		return row, seals, 0, blocks, err
	}
	if s.arena.replaying() {
		return row, seals, 0, blocks, fmt.Errorf("%w: the log is being replayed", ErrBehind)
	}
	row, err = s.row(w.Ino, w.Chunk)
	at := applied(s.position.Acceptance)
	switch {
	case err != nil:
		return row, seals, 0, blocks, err
	case row.Blob != w.Blob && before(w.Last, at):
		return row, seals, 0, blocks, ErrGone
	case row.Blob != w.Blob || !before(w.Last, row.Last):
		return row, seals, 0, blocks, fmt.Errorf("%w: %d/%d, the content here is of %d/%d", ErrBehind, w.Last.Epoch, w.Last.Seq, row.Last.Epoch, row.Last.Seq)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	b, err := s.blob(w.Blob, 0, record.ChunkBlocks)
	if err != nil || b == nil {
		return row, seals, 0, blocks, err
	}
	blocks = and(and(row.Blocks, b.have()), w.Blocks)
	for i := range uint32(record.ChunkBlocks) {
		if blocks.Has(i) {
			seal := b.seal(i)
			if seal == nil {
				return row, seals, 0, blocks, fmt.Errorf("%w: blob %d block %d is here and has no seal", ErrDamaged, w.Blob, i)
			}
			seals[i] = *seal
		}
	}
	return row, seals, b.slot, blocks, nil
}

// export adds a block if it is what its seal says.
func (s *Store) export(c *Content, slot, block uint32, seal *record.Seal) bool {
	n := len(c.Data)
	c.Data = append(c.Data, make([]byte, record.BlockSize)...)
	if s.arena.read(slot, block, c.Data[n:]) != nil || record.Checksum(c.Data[n:]) != seal.CRC {
		c.Data = c.Data[:n]
		return false
	}
	c.Blocks.Set(block)
	c.Seals = append(c.Seals, *seal)
	return true
}
