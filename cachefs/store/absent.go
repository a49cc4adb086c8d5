package store

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"

	"github.com/cockroachdb/pebble/v2"

	"github.com/remora-storage/remora/cachefs/meta"
	"github.com/remora-storage/remora/cachefs/record"
)

// What a replica has of a blob can be less than the blob: a new replica gets the metadata at once and the content later, and content that
// a returning one had at another change of the blob is dropped (Install). The rules:
//
//  1. The chunk's row (replicated) says which blocks have content. Residency (local) says which of them are here. A block of the row that
//     residency lacks is absent.
//  2. Residency's last change is the row's, always: Apply moves both. So everything that is here is the content at the applied index.
//  3. Apply writes and punches what the record names, whether the rest of the blob is here or not.
//  4. Fill puts absent blocks only, and, over a block whose content does not fit its seal, that block again under the same seal.

// Want names content that a store asks of a peer: blocks of a chunk, as they are at the blob's last change, or later.
type Want struct {
	Ino    meta.Ino
	Chunk  uint64
	Blob   record.BlobID // 0: nothing is wanted
	Last   meta.Change   // of the blob, in the requester's applied state
	Blocks meta.Bitmap
}

// IsZero tells whether nothing is wanted.
func (w *Want) IsZero() bool { return w.Blob == 0 || w.Blocks.IsZero() }

// Bytes is how much content is wanted.
func (w *Want) Bytes() int64 { return int64(count(w.Blocks)) * record.BlockSize }

// counts of a store since it was opened.
type counts struct{ scrubbed, bad, healed, filled atomic.Int64 }

// Counts is what a store met since it was opened.
type Counts struct {
	ScrubbedBytes int64 // read and compared by Scrub
	BadBlocks     int64 // whose content did not fit their seals, each counted once
	HealedBlocks  int64 // of these, written again with content from a peer
	FilledBytes   int64 // content that was absent and came from a peer
	Unhealed      int64 // bad blocks that are not healed, now
	UnsavedBytes  int64 // filled since the last checkpoint, which makes it durable
}

// Counts returns what the store met.
func (s *Store) Counts() Counts {
	c := Counts{ScrubbedBytes: s.counts.scrubbed.Load(), BadBlocks: s.counts.bad.Load(), HealedBlocks: s.counts.healed.Load(),
		FilledBytes: s.counts.filled.Load()}
	s.mu.RLock()
	defer s.mu.RUnlock()
	for _, m := range s.bad {
		c.Unhealed += int64(count(m))
	}
	c.UnsavedBytes = s.unsaved
	return c
}

// Complete tells whether every block is here, and was good when it came, or was verified. Blocks that go bad later are here: Scrub finds
// them.
func (s *Store) Complete() bool { return !s.incomplete.Load() }

// Cursor is a place between two chunks; nil is before the first.
type Cursor []byte

// Missing lists up to n chunks behind a cursor with blocks that are absent, and where to go on; a nil cursor: that was all.
func (s *Store) Missing(ctx context.Context, after Cursor, n int) (wants []Want, next Cursor, err error) {
	err = s.chunks(ctx, after, func(key []byte, w Want) error {
		absent, err := s.absent(&w)
		if err != nil || absent.IsZero() {
			return err
		}
		w.Blocks = absent
		wants = append(wants, w)
		if len(wants) == n {
			next = append(Cursor(nil), key...)
			return errEnough
		}
		return nil
	})
	if errors.Is(err, errEnough) {
		err = nil
	}
	return wants, next, err
}

// Progress is how much content there is and how much of it is absent.
type Progress struct {
	Chunks, Bytes             int64
	AbsentChunks, AbsentBytes int64
	UnverifiedChunks          int64 // stayed when a snapshot was installed, and Verify has not read them since
}

// Progress counts what is absent, in one scan of all chunks. When nothing is, what was filled is durable, and what stayed was verified, the
// store is complete from then on.
func (s *Store) Progress(ctx context.Context) (Progress, error) {
	p := Progress{}
	err := s.chunks(ctx, nil, func(_ []byte, w Want) error {
		absent, err := s.absent(&w)
		p.Chunks++
		p.Bytes += w.Bytes()
		if n := count(absent); n > 0 {
			p.AbsentChunks++
			p.AbsentBytes += int64(n) * record.BlockSize
		}
		return err
	})
	if err == nil {
		err = s.Scan([]byte{keptPrefix}, []byte{keptPrefix + 1}, func(_, _ []byte) error {
			p.UnverifiedChunks++
			return ctx.Err()
		})
	}
	if err != nil || p.AbsentChunks+p.UnverifiedChunks > 0 || s.Complete() {
		return p, err
	}
	return p, s.complete()
}

// complete removes the mark of a store in which something is absent. Pebble keeps the order of batches, so that the mark is not gone
// before what was filled is there.
func (s *Store) complete() error {
	s.applyMu.Lock()
	defer s.applyMu.Unlock()
	if err := s.failure(); err != nil {
		return err
	}
	s.mu.RLock()
	unsaved := len(s.filled) > 0
	s.mu.RUnlock()
	if unsaved {
		return nil
	}
	err := s.db.DeleteRange([]byte{lackPrefix}, []byte{lackPrefix + 1}, pebble.NoSync)
	if err == nil {
		err = s.db.Delete(incompleteKey, pebble.NoSync)
	}
	if err != nil {
		return s.fail(fmt.Errorf("mark the replica as complete: %w", err))
	}
	s.incomplete.Store(false)
	return nil
}

var errEnough = errors.New("enough")

// chunks visits all chunks behind a cursor, with all their blocks in Want.
func (s *Store) chunks(ctx context.Context, after Cursor, visit func(key []byte, w Want) error) error {
	lower, upper := meta.ChunkRange()
	if after != nil {
		lower = append(append([]byte(nil), after...), 0)
	}
	return s.Scan(lower, upper, func(key, value []byte) error {
		if err := ctx.Err(); err != nil {
			return err
		}
		w, err := wantAll(key, value)
		if err != nil {
			return err
		}
		return visit(key, w)
	})
}

// wantAll is a chunk as its row has it.
func wantAll(key, value []byte) (Want, error) {
	k, err := meta.ParseKey(key)
	if err != nil {
		return Want{}, fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	row, err := meta.DecodeChunk(value)
	if err != nil {
		return Want{}, fmt.Errorf("%w: %s: %w", ErrDamaged, meta.Describe(key), err)
	}
	return Want{Ino: k.Ino, Chunk: k.Number, Blob: row.Blob, Last: row.Last, Blocks: row.Blocks}, nil
}

// absent is which of the wanted blocks are not here.
func (s *Store) absent(w *Want) (meta.Bitmap, error) {
	s.mu.RLock()
	b, ok := s.blobs[w.Blob]
	if ok {
		defer s.mu.RUnlock()
		return without(w.Blocks, b.have()), nil
	}
	s.mu.RUnlock()
	// Not through the cache: a scan of everything would throw out what is in use.
	v, ok, err := s.Get(residencyKey(w.Blob))
	if err != nil || !ok {
		return w.Blocks, err
	}
	r, err := decodeResidency(v)
	return without(w.Blocks, r.here), err
}

// row is a chunk in the applied state; Blob is 0 if there is none. applyMu must be held, or the row may be of any applied index.
func (s *Store) row(ino meta.Ino, chunk uint64) (Want, error) {
	key := meta.ChunkKey(ino, chunk)
	v, ok, err := s.Get(key)
	if err != nil || !ok {
		return Want{Ino: ino, Chunk: chunk}, err
	}
	return wantAll(key, v)
}

// Want is what is to be fetched so that blocks [first, first+count) of a chunk can be read: all that is absent of the chunk, if one of
// them is, and those of them that are bad. It is zero when nothing is wrong with them.
func (s *Store) Want(ino meta.Ino, chunk uint64, first, n uint32) (Want, error) {
	s.applyMu.Lock()
	defer s.applyMu.Unlock()
	w, err := s.row(ino, chunk)
	if err != nil || w.Blob == 0 {
		return Want{}, err
	}
	asked := meta.Bitmap{}
	for i := first; i < min(first+n, record.ChunkBlocks); i++ {
		asked.Set(i)
	}
	s.mu.Lock()
	b, err := s.blob(w.Blob, 0, record.ChunkBlocks)
	have := meta.Bitmap{}
	if b != nil {
		have = b.have()
	}
	s.mu.Unlock()
	if err != nil {
		return Want{}, err
	}
	absent := without(w.Blocks, have)
	want := meta.Bitmap{}
	if x := and(absent, asked); !x.IsZero() {
		want = absent
	}
	if b != nil {
		bad, err := s.findBad(w.Blob, b, and(and(have, asked), w.Blocks))
		if err != nil {
			return Want{}, err
		}
		want = or(want, bad)
	}
	w.Blocks = want
	if w.Blocks.IsZero() {
		return Want{}, nil
	}
	return w, nil
}

// overwritten forgets that blocks were bad. s.mu is held.
func (s *Store) overwritten(o *record.BlockOp) {
	if len(s.bad) == 0 {
		return
	}
	m, ok := s.bad[o.Blob]
	if !ok {
		return
	}
	for i := o.First; i < o.First+o.Count; i++ {
		m.Clear(i)
	}
	s.setBad(o.Blob, m)
}

// setBad notes which blocks of a blob are bad. s.mu is held.
func (s *Store) setBad(id record.BlobID, m meta.Bitmap) {
	if m.IsZero() {
		delete(s.bad, id)
		return
	}
	s.bad[id] = m
}

// findBad reads blocks and notes and returns those whose content does not fit their seals. applyMu is held: nothing changes meanwhile.
func (s *Store) findBad(id record.BlobID, b *blob, blocks meta.Bitmap) (bad meta.Bitmap, err error) {
	buf := make([]byte, record.BlockSize)
	for i := range uint32(record.ChunkBlocks) {
		if !blocks.Has(i) {
			continue
		}
		s.mu.RLock()
		seal := b.seal(i)
		s.mu.RUnlock()
		if seal == nil {
			return bad, fmt.Errorf("%w: blob %d block %d is here and has no seal", ErrDamaged, id, i)
		}
		// Whatever the disk says, a block that cannot be read is one to be written anew.
		if s.arena.read(b.slot, i, buf) != nil || record.Checksum(buf) != seal.CRC {
			bad.Set(i)
		}
	}
	if bad.IsZero() {
		return bad, nil
	}
	s.mu.Lock()
	known := s.bad[id]
	s.setBad(id, or(known, bad))
	s.mu.Unlock()
	found := without(bad, known)
	s.counts.bad.Add(int64(count(found)))
	if !found.IsZero() {
		s.cfg.Logger.Error("content does not fit its seal: the disk has changed it, or lost it", "blob", uint64(id), "slot", b.slot, "blocks", count(found))
	}
	return bad, nil
}

// epochOf is the epoch of an incarnation; ok is false where its Owner record is not applied here.
func (s *Store) epochOf(i record.Incarnation) (epoch record.Epoch, ok bool, err error) {
	if e, ok := s.epochs.Load(i); ok {
		return e.(record.Epoch), true, nil
	}
	b, ok, err := s.Get(meta.SaltKey(uint32(i)))
	if err != nil || !ok {
		return 0, false, err
	}
	epoch, err = meta.SaltEpoch(b)
	if err == nil {
		s.epochs.Store(i, epoch)
	}
	return epoch, err == nil, err
}

// before tells whether change a is b or earlier.
func before(a, b meta.Change) bool {
	return a.Epoch < b.Epoch || a.Epoch == b.Epoch && a.Seq <= b.Seq
}

// applied is the newest change of an acceptance state.
func applied(a record.Acceptance) meta.Change { return meta.Change{Epoch: a.Epoch, Seq: a.Last} }
