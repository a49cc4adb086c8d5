package store

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"github.com/cockroachdb/pebble/v2"

	"github.com/remora-storage/remora/cachefs/meta"
	"github.com/remora-storage/remora/cachefs/record"
	"github.com/remora-storage/remora/disk"
)

// Scrub reads all content that is here, from the disk where it can, compares every block with its seal, and calls found for each chunk
// with bad blocks: they can be asked of a peer as they are. It goes on from a cursor (nil: from the start), reads at most rate bytes a
// second (0: as fast as it can), and returns the cursor at which it ended: nil at the end of the volume. found may end it with an error.
func (s *Store) Scrub(ctx context.Context, from Cursor, rate int64, found func(Want) error) (next Cursor, err error) {
	pace := pacer{rate: rate, start: time.Now()}
	for next = from; ; {
		page, err := s.page(ctx, next)
		if err != nil {
			return next, err
		}
		for i := range page {
			if err := s.scrub(ctx, &page[i], &pace, found); err != nil {
				return next, err
			}
			next = meta.ChunkKey(page[i].Ino, page[i].Chunk)
		}
		if len(page) < scrubPage {
			return nil, nil
		}
	}
}

// scrubPage chunks are listed at once: an iterator that is open for long keeps files that Pebble does not need.
const scrubPage = 256

func (s *Store) page(ctx context.Context, after Cursor) (page []Want, err error) {
	err = s.chunks(ctx, after, func(_ []byte, w Want) error {
		page = append(page, w)
		if len(page) == scrubPage {
			return errEnough
		}
		return nil
	})
	if errors.Is(err, errEnough) {
		err = nil
	}
	return page, err
}

func (s *Store) scrub(ctx context.Context, w *Want, pace *pacer, found func(Want) error) error {
	bytes, suspect, err := s.suspect(w)
	if err != nil {
		return err
	}
	if suspect {
		if err := s.scrubAgain(w, found); err != nil {
			return err
		}
	}
	s.counts.scrubbed.Add(bytes)
	return pace.wait(ctx, bytes)
}

// Verify is Scrub for what stayed when a snapshot was installed, once: nobody has looked at it since the replica was away. With an error of
// found the chunk is looked at again the next time.
func (s *Store) Verify(ctx context.Context, rate int64, found func(Want) error) error {
	pace := pacer{rate: rate, start: time.Now()}
	for {
		page, err := s.unverified()
		if err != nil || len(page) == 0 {
			return err
		}
		for _, w := range page {
			now, err := s.row(w.Ino, w.Chunk)
			if err == nil && now.Blob == w.Blob {
				err = s.scrub(ctx, &now, &pace, found)
			}
			if err == nil {
				err = s.db.Delete(keptKey(w.Blob), pebble.NoSync)
			}
			if err != nil {
				return err
			}
		}
	}
}

func (s *Store) unverified() (page []Want, err error) {
	err = s.Scan([]byte{keptPrefix}, []byte{keptPrefix + 1}, func(key, value []byte) error {
		if len(key) != 9 || len(value) != 16 {
			return fmt.Errorf("%w: local key %x with a value of %d bytes", ErrDamaged, key, len(value))
		}
		le := binary.LittleEndian
		page = append(page, Want{Blob: keyBlob(key), Ino: meta.Ino(le.Uint64(value)), Chunk: le.Uint64(value[8:])})
		if len(page) == scrubPage {
			return errEnough
		}
		return nil
	})
	if errors.Is(err, errEnough) {
		err = nil
	}
	return page, err
}

// suspect reads what is here of a chunk, and tells whether a block does not fit its seal: it is bad, or has just changed.
func (s *Store) suspect(w *Want) (bytes int64, suspect bool, err error) {
	s.mu.Lock()
	b, err := s.blob(w.Blob, 0, record.ChunkBlocks)
	if err != nil || b == nil {
		s.mu.Unlock()
		return 0, false, err
	}
	slot, blocks := b.slot, list(and(w.Blocks, b.have()))
	seals := make([]record.Seal, len(blocks))
	for i, block := range blocks {
		if sl := b.seal(block); sl != nil {
			seals[i] = *sl
		}
	}
	s.mu.Unlock()
	// What is in the page cache says nothing about the disk.
	if err := disk.DropCache(s.arena.direct, offset(slot, 0), record.ChunkSize); err != nil {
		return 0, false, err
	}
	buf := make([]byte, record.ChunkSize)
	for i := 0; i < len(blocks); {
		n := 1
		for i+n < len(blocks) && blocks[i+n] == blocks[i]+uint32(n) {
			n++
		}
		run := buf[:n*record.BlockSize]
		if s.arena.read(slot, blocks[i], run) != nil {
			suspect = true
		}
		for k := 0; k < n && !suspect; k++ {
			suspect = record.Checksum(run[k*record.BlockSize:(k+1)*record.BlockSize]) != seals[i+k].CRC
		}
		i += n
	}
	return int64(len(blocks)) * record.BlockSize, suspect, nil
}

// scrubAgain looks at a chunk while nothing is applied.
func (s *Store) scrubAgain(w *Want, found func(Want) error) error {
	s.applyMu.Lock()
	now, bad, err := s.badOf(w)
	s.applyMu.Unlock()
	if err != nil || bad.IsZero() {
		return err
	}
	now.Blocks = bad
	return found(now)
}

// badOf finds the bad blocks of a chunk. applyMu is held.
func (s *Store) badOf(w *Want) (now Want, bad meta.Bitmap, err error) {
	if now, err = s.row(w.Ino, w.Chunk); err != nil || now.Blob != w.Blob {
		return now, bad, err
	}
	s.mu.Lock()
	b, err := s.blob(w.Blob, 0, record.ChunkBlocks)
	have := meta.Bitmap{}
	if b != nil {
		have = b.have()
	}
	s.mu.Unlock()
	if err != nil || b == nil {
		return now, bad, err
	}
	bad, err = s.findBad(w.Blob, b, and(now.Blocks, have))
	return now, bad, err
}

// pacer holds a reader to a rate.
type pacer struct {
	rate  int64
	start time.Time
	bytes int64
}

func (p *pacer) wait(ctx context.Context, bytes int64) error {
	p.bytes += bytes
	if p.rate <= 0 {
		return ctx.Err()
	}
	due := p.start.Add(time.Duration(float64(p.bytes) / float64(p.rate) * float64(time.Second)))
	left := time.Until(due)
	if left <= 0 {
		return ctx.Err()
	}
	t := time.NewTimer(left)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}
