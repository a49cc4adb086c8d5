package store

import (
	"errors"
	"fmt"

	"github.com/cockroachdb/pebble/v2"

	"github.com/remora-storage/remora/cachefs/meta"
	"github.com/remora-storage/remora/cachefs/record"
	"github.com/remora-storage/remora/cachefs/seal"
)

// ErrForged: content of a peer is not what its seals say, or not of the place that it is sent for. It was refused.
var ErrForged = errors.New("content from a peer is not what its seals say")

// Filled is what Fill did with the blocks of a Content.
type Filled struct {
	Blocks int // were absent and are here now
	Healed int // were bad and are good now
	Newer  int // are of a record that is not applied here, and were refused: ask again when it is
}

// Fill takes in content of a peer: blocks that are absent, and bad blocks under the seals that they have here. Blocks that are here and
// good stay as they are. It can be read when Fill returns, and is durable after the next checkpoint: until then Pebble does not hear of it,
// because the arena, which has it, may lose it in a power cut, and no log would bring it back.
// ErrBehind: the blob has changed here since the content was sent. ErrForged: the peer is not to be trusted.
//
// Why a block is right: the sender's content is of the blob's last change here or a later one, so it has every change of the block that was
// applied here. The record that wrote the block is named in its seal, and is not later than the blob's last change here. So no record that
// is applied there and not here has changed the block.
func (s *Store) Fill(c Content) (Filled, error) {
	if err := s.verify(&c); err != nil {
		return Filled{}, err
	}
	s.applyMu.Lock()
	defer s.applyMu.Unlock()
	if err := s.failure(); err != nil {
		return Filled{}, err
	}
	if s.arena.replaying() {
		return Filled{}, errors.New("fill: the log is being replayed")
	}
	row, err := s.row(c.Ino, c.Chunk)
	if err != nil || row.Blob != c.Blob || c.Blob == 0 {
		return Filled{}, err // freed since it was asked for
	}
	if !before(row.Last, c.Last) {
		return Filled{}, fmt.Errorf("%w: content of %d/%d, the blob's last change here is %d/%d", ErrBehind, c.Last.Epoch, c.Last.Seq, row.Last.Epoch, row.Last.Seq)
	}
	return s.fill(&c, &row)
}

// verify checks and opens every block of content.
func (s *Store) verify(c *Content) error {
	if n := count(c.Blocks); len(c.Seals) != n || len(c.Data) != n*record.BlockSize {
		return fmt.Errorf("%w: %d blocks, %d seals and %d bytes", ErrMalformed, n, len(c.Seals), len(c.Data))
	}
	blocks := list(c.Blocks)
	return seal.InParts(len(blocks), func(from, to int) error {
		buf := make([]byte, record.BlockSize)
		for i := from; i < to; i++ {
			sl := &c.Seals[i]
			if sl.Origin != c.Blob || sl.Block != blocks[i] {
				return fmt.Errorf("%w: blob %d block %d has the seal of blob %d block %d", ErrForged, c.Blob, blocks[i], sl.Origin, sl.Block)
			}
			if _, known, err := s.epochOf(sl.Incarnation); err != nil || !known {
				if err != nil {
					return err
				}
				continue // later than anything here: fill refuses it
			}
			copy(buf, c.Data[i*record.BlockSize:])
			if err := s.cfg.Keys.OpenBlock(sl, buf); err != nil {
				return fmt.Errorf("%w: blob %d block %d: %w", ErrForged, c.Blob, blocks[i], err)
			}
		}
		return nil
	})
}

func list(m meta.Bitmap) []uint32 {
	l := make([]uint32, 0, count(m))
	for i := range uint32(record.ChunkBlocks) {
		if m.Has(i) {
			l = append(l, i)
		}
	}
	return l
}

// fill writes the blocks that are to be taken. applyMu is held.
func (s *Store) fill(c *Content, row *Want) (f Filled, err error) {
	b, err := s.pin(c.Blob)
	if err != nil {
		return f, err
	}
	defer func() { s.unpin(b) }()
	have, bad := meta.Bitmap{}, meta.Bitmap{}
	if b != nil {
		have = b.have()
		if bad, err = s.findBad(c.Blob, b, and(and(have, c.Blocks), row.Blocks)); err != nil {
			return f, err
		}
	}
	take := meta.Bitmap{}
	for i, block := range list(c.Blocks) {
		if !row.Blocks.Has(block) || have.Has(block) && !bad.Has(block) {
			continue
		}
		newer, err := s.newer(&c.Seals[i], row.Last)
		if err != nil {
			return f, err
		}
		if newer || bad.Has(block) && c.Seals[i] != *b.seal(block) {
			f.Newer++
			continue
		}
		take.Set(block)
	}
	if take.IsZero() {
		return f, nil
	}
	made, err := s.fillArena(c, row, b, take)
	if err != nil {
		return f, err
	}
	b = made
	s.fillBlob(c, b, take, bad)
	f.Healed = count(and(take, bad))
	f.Blocks = count(take) - f.Healed
	return f, nil
}

// pin keeps a blob in memory, if something of it is here.
func (s *Store) pin(id record.BlobID) (*blob, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	b, err := s.blob(id, 0, record.ChunkBlocks)
	if b != nil {
		b.pinned = true
	}
	return b, err
}

func (s *Store) unpin(b *blob) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if b != nil {
		b.pinned = !b.filled.IsZero()
	}
}

// newer tells whether a block was written by a record that is later than the blob's last change here.
func (s *Store) newer(sl *record.Seal, last meta.Change) (bool, error) {
	epoch, known, err := s.epochOf(sl.Incarnation)
	return !known || !before(meta.Change{Epoch: epoch, Seq: sl.Seq}, last), err
}

// fillArena writes blocks into the blob's slot, a new one if it has none, and does not wait for space.
func (s *Store) fillArena(c *Content, row *Want, b *blob, take meta.Bitmap) (*blob, error) {
	made := b == nil
	if made {
		s.mu.Lock()
		slot, reserved := s.reserved[c.Blob]
		if !reserved {
			slot = s.arena.allocate(count(take) == record.ChunkBlocks)
			s.reserved[c.Blob] = slot
		}
		s.mu.Unlock()
		b = &blob{residency: residency{slot: slot, last: row.Last}, loaded: ^uint32(0), pinned: true}
	}
	blocks := list(c.Blocks)
	for i := 0; i < len(blocks); {
		n := 0
		for i+n < len(blocks) && blocks[i+n] == blocks[i]+uint32(n) && take.Has(blocks[i+n]) {
			n++
		}
		if n > 0 {
			if err := s.arena.place(b.slot, blocks[i], c.Data[i*record.BlockSize:(i+n)*record.BlockSize]); err != nil {
				if !isNoSpace(err) {
					err = s.fail(err)
				}
				return nil, err // a slot stays reserved, for whoever comes next
			}
		}
		i += max(n, 1)
	}
	if made {
		s.mu.Lock()
		delete(s.reserved, c.Blob)
		s.remember(c.Blob, b)
		s.mu.Unlock()
	}
	return b, nil
}

// fillBlob makes readable what is in the arena.
func (s *Store) fillBlob(c *Content, b *blob, take, bad meta.Bitmap) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i, block := range list(c.Blocks) {
		if take.Has(block) && !bad.Has(block) {
			b.setSeal(block, c.Seals[i])
			b.filled.Set(block)
		}
	}
	s.setBad(c.Blob, without(s.bad[c.Blob], take))
	healed := count(and(take, bad))
	bytes := int64(count(take)-healed) * record.BlockSize
	if bytes > 0 {
		b.pinned = true
		s.filled[c.Blob] = b
		s.unsaved += bytes
		s.counts.filled.Add(bytes)
	}
	s.counts.healed.Add(int64(healed))
	if healed > 0 {
		s.cfg.Logger.Info("content was healed from a peer", "blob", uint64(c.Blob), "blocks", healed)
	}
}

// saveFilled tells Pebble of what was filled. The arena was synced since. applyMu is held.
func (s *Store) saveFilled() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.filled) == 0 {
		return nil
	}
	batch := s.db.NewBatch()
	defer batch.Close()
	var buf []byte
	for id, b := range s.filled {
		groups := uint32(0)
		for _, block := range list(b.filled) {
			groups |= 1 << (block / sealGroup)
		}
		b.here, b.filled = b.have(), meta.Bitmap{}
		buf = b.append(buf[:0])
		if err := batch.Set(residencyKey(id), buf, nil); err != nil {
			return err
		}
		for g := range b.seals {
			if (groups|b.dirty)&(1<<g) == 0 {
				continue
			}
			buf = b.appendSeals(buf[:0], g)
			if err := batch.Set(sealKey(id, g), buf, nil); err != nil {
				return err
			}
		}
	}
	if err := batch.Commit(pebble.NoSync); err != nil {
		return err
	}
	for _, b := range s.filled {
		b.dirty, b.pinned = 0, false
	}
	clear(s.filled)
	s.unsaved = 0
	return nil
}
