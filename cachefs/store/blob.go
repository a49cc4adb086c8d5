package store

import (
	"encoding/binary"
	"fmt"
	"math/bits"

	"github.com/remora-storage/remora/cachefs/meta"
	"github.com/remora-storage/remora/cachefs/record"
)

// Local keys of a blob: where its content is on this disk, and the seals of its blocks, eight to a value.
const (
	residencyPrefix = meta.LocalPrefix + 1
	sealPrefix      = meta.LocalPrefix + 2
	sealGroup       = 8
	sealGroups      = record.ChunkBlocks / sealGroup
	residencySize   = 8 + 16 + 32
)

// blob is what this replica knows of a blob's content. Guarded by Store.mu.
type blob struct {
	residency
	filled meta.Bitmap                         // blocks that Fill put here since the last checkpoint: Pebble does not know of them
	seals  [sealGroups]*[sealGroup]record.Seal // nil: not loaded, or no block of the group is here
	loaded uint32                              // bit a group: seals[i] is what the store has
	dirty  uint32                              // bit a group: to be put into the batch
	gone   bool                                // freed
	pinned bool                                // part of the batch that is being applied
}

// residency is which blocks are here, and of which change.
type residency struct {
	slot uint32
	last meta.Change
	here meta.Bitmap
}

func residencyKey(id record.BlobID) []byte {
	return binary.BigEndian.AppendUint64([]byte{residencyPrefix}, uint64(id))
}

func sealKey(id record.BlobID, group int) []byte {
	return append(binary.BigEndian.AppendUint64([]byte{sealPrefix}, uint64(id)), byte(group))
}

func (r *residency) append(b []byte) []byte {
	b = binary.LittleEndian.AppendUint64(b, uint64(r.slot))
	b = binary.LittleEndian.AppendUint64(b, uint64(r.last.Epoch))
	b = binary.LittleEndian.AppendUint64(b, uint64(r.last.Seq))
	return r.here.Append(b)
}

func decodeResidency(b []byte) (residency, error) {
	if len(b) != residencySize {
		return residency{}, fmt.Errorf("%w: residency of %d bytes", ErrDamaged, len(b))
	}
	le := binary.LittleEndian
	return residency{
		slot: uint32(le.Uint64(b)),
		last: meta.Change{Epoch: record.Epoch(le.Uint64(b[8:])), Seq: record.Seq(le.Uint64(b[16:]))},
		here: meta.DecodeBitmap(b[24:]),
	}, nil
}

func (b *blob) seal(block uint32) *record.Seal {
	g := b.seals[block/sealGroup]
	if g == nil {
		return nil
	}
	if s := &g[block%sealGroup]; !s.IsZero() {
		return s
	}
	return nil
}

// have is which blocks can be read here.
func (b *blob) have() meta.Bitmap { return or(b.here, b.filled) }

func or(a, b meta.Bitmap) meta.Bitmap {
	for i := range a {
		a[i] |= b[i]
	}
	return a
}

func and(a, b meta.Bitmap) meta.Bitmap {
	for i := range a {
		a[i] &= b[i]
	}
	return a
}

func without(a, b meta.Bitmap) meta.Bitmap {
	for i := range a {
		a[i] &^= b[i]
	}
	return a
}

func count(m meta.Bitmap) (n int) {
	for _, w := range m {
		n += bits.OnesCount64(w)
	}
	return n
}

// appendSeals encodes a group of seals for Pebble, without those of blocks that are not durable.
func (b *blob) appendSeals(buf []byte, group int) []byte {
	for k := range b.seals[group] {
		s := &b.seals[group][k]
		if b.filled.Has(uint32(group*sealGroup + k)) {
			s = &record.Seal{}
		}
		buf = record.AppendSeal(buf, s)
	}
	return buf
}

func (b *blob) setSeal(block uint32, s record.Seal) {
	i := block / sealGroup
	if b.seals[i] == nil {
		b.seals[i] = new([sealGroup]record.Seal)
	}
	b.seals[i][block%sealGroup] = s
	b.loaded |= 1 << i
	b.dirty |= 1 << i
}

// blob returns what is known of id with the seals of blocks [first, first+count) loaded; nil if nothing of it is here. s.mu must
// be held for writing.
func (s *Store) blob(id record.BlobID, first, count uint32) (*blob, error) {
	b, ok := s.blobs[id]
	if !ok {
		v, found, err := s.Get(residencyKey(id))
		if err != nil || !found {
			return nil, err
		}
		r, err := decodeResidency(v)
		if err != nil {
			return nil, err
		}
		b = &blob{residency: r}
		s.remember(id, b)
	}
	if count == 0 {
		return b, nil
	}
	for i := first / sealGroup; i <= (first+count-1)/sealGroup; i++ {
		if b.loaded&(1<<i) != 0 {
			continue
		}
		if err := s.loadSeals(id, b, int(i)); err != nil {
			return nil, err
		}
	}
	return b, nil
}

func (s *Store) loadSeals(id record.BlobID, b *blob, group int) error {
	v, found, err := s.Get(sealKey(id, group))
	if err != nil {
		return err
	}
	if found {
		if len(v) != sealGroup*record.SealSize {
			return fmt.Errorf("%w: seals of blob %d: %d bytes", ErrDamaged, id, len(v))
		}
		b.seals[group] = new([sealGroup]record.Seal)
		for k := range b.seals[group] {
			b.seals[group][k] = record.DecodeSeal(v[k*record.SealSize:])
		}
	}
	b.loaded |= 1 << group
	return nil
}

// remember keeps b in memory and forgets another blob when there are too many. Blobs with changes that are not in
// Pebble yet stay.
func (s *Store) remember(id record.BlobID, b *blob) {
	if len(s.blobs) >= s.cfg.BlobCache {
		for other, o := range s.blobs {
			if !o.pinned {
				delete(s.blobs, other)
				break
			}
		}
	}
	s.blobs[id] = b
}
