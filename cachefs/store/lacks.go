package store

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/cockroachdb/pebble/v2"

	"github.com/remora-storage/remora/cachefs/meta"
	"github.com/remora-storage/remora/cachefs/record"
)

// A replica that lacks content can be the one whose state another takes in (Install), because the one with the content is away, or lost. What
// that other one has of it must not be dropped for being of an older change of the blob: it may be the last copy. So a replica that lacks blocks
// keeps, for each chunk of which it does, since when: the last change of the blob in the state that it took in then. A block that it still lacks
// was not changed since, or it would be here. Send tells that with the state, and Install keeps what is of that change of the blob or a later.

// lackPrefix, with the blob, is of content that was absent when a snapshot was installed: inode, chunk, and since when which blocks.
const lackPrefix = meta.LocalPrefix + 4

// lacks is what a replica lacks of a chunk.
type lacks struct {
	ino   meta.Ino
	chunk uint64
	parts []lack
}

// lack is blocks that were not changed since a change of their blob.
type lack struct {
	since  meta.Change
	blocks meta.Bitmap
}

const (
	lackHeader = 16
	lackSize   = 16 + 32
)

func lackKey(id record.BlobID) []byte {
	return binary.BigEndian.AppendUint64([]byte{lackPrefix}, uint64(id))
}

func (l *lacks) append(b []byte) []byte {
	le := binary.LittleEndian
	b = le.AppendUint64(le.AppendUint64(b, uint64(l.ino)), l.chunk)
	for i := range l.parts {
		b = le.AppendUint64(le.AppendUint64(b, uint64(l.parts[i].since.Epoch)), uint64(l.parts[i].since.Seq))
		b = l.parts[i].blocks.Append(b)
	}
	return b
}

func decodeLacks(b []byte) (l lacks, err error) {
	if len(b) <= lackHeader || (len(b)-lackHeader)%lackSize != 0 || len(b) > lackHeader+record.ChunkBlocks*lackSize {
		return l, fmt.Errorf("%w: absent blocks in %d bytes", ErrMalformed, len(b))
	}
	le := binary.LittleEndian
	l.ino, l.chunk = meta.Ino(le.Uint64(b)), le.Uint64(b[8:])
	for b = b[lackHeader:]; len(b) > 0; b = b[lackSize:] {
		since := meta.Change{Epoch: record.Epoch(le.Uint64(b)), Seq: record.Seq(le.Uint64(b[8:]))}
		l.parts = append(l.parts, lack{since, meta.DecodeBitmap(b[16:])})
	}
	return l, nil
}

// within is what is left of l among some blocks.
func (l *lacks) within(blocks meta.Bitmap) lacks {
	left := lacks{ino: l.ino, chunk: l.chunk}
	for _, p := range l.parts {
		if p.blocks = and(p.blocks, blocks); !p.blocks.IsZero() {
			left.parts = append(left.parts, p)
			blocks = without(blocks, p.blocks)
		}
	}
	return left
}

// add says that blocks are not changed since a change, where nothing is said yet.
func (l *lacks) add(since meta.Change, blocks meta.Bitmap) {
	for _, p := range l.parts {
		blocks = without(blocks, p.blocks)
	}
	if !blocks.IsZero() {
		l.parts = append(l.parts, lack{since, blocks})
	}
}

// absences visits what is absent in a snapshot of an incomplete store, and since when, in the order of blobs.
func (n *Snapshot) absences(visit func(key, value []byte) error) error {
	return n.scan([]byte{lackPrefix}, []byte{lackPrefix + 1}, func(key, value []byte) error {
		all, err := decodeLacks(value)
		if err != nil {
			return fmt.Errorf("%w: %w", ErrDamaged, err)
		}
		id, rowKey := keyBlob(key), meta.ChunkKey(all.ino, all.chunk)
		row, ok, err := n.get(rowKey)
		if err != nil || !ok {
			return err
		}
		w, err := wantAll(rowKey, row)
		if err != nil || w.Blob != id {
			return err // freed since
		}
		v, ok, err := n.get(residencyKey(id))
		if err != nil {
			return err
		}
		if ok {
			r, err := decodeResidency(v)
			if err != nil {
				return err
			}
			w.Blocks = without(w.Blocks, r.here)
		}
		left := all.within(w.Blocks)
		if len(left.parts) == 0 {
			return nil
		}
		return visit(key, left.append(nil))
	})
}

func (n *Snapshot) get(key []byte) ([]byte, bool, error) {
	v, closer, err := n.db.Get(key)
	if errors.Is(err, pebble.ErrNotFound) {
		return nil, false, nil
	}
	if err != nil {
		return nil, false, fmt.Errorf("read a snapshot: %w", damage(err))
	}
	return bytes.Clone(v), true, closer.Close()
}

// lack takes in what the sender of a snapshot lacks of a chunk: what is here of that, and not older, stays. All rows came before.
func (in *install) lack(key, value []byte) error {
	if len(key) != 9 {
		return fmt.Errorf("%w: snapshot with the key %x", ErrMalformed, key)
	}
	theirs, err := decodeLacks(value)
	if err != nil {
		return err
	}
	if in.revised == nil {
		in.revised = map[record.BlobID]residency{}
		if err := in.commit(); err != nil { // rows, and what keep has noted, are looked up
			return err
		}
	}
	id := keyBlob(key)
	w, err := in.s.row(theirs.ino, theirs.chunk)
	if err != nil || w.Blob != id {
		return err
	}
	r, here, err := in.holds(&w, &theirs)
	if err != nil {
		return err
	}
	left := theirs.within(without(w.Blocks, here))
	left.add(w.Last, without(w.Blocks, here))
	if len(left.parts) == 0 {
		err = in.batch.Delete(lackKey(id), nil)
	} else {
		err = in.set(lackKey(id), left.append(nil))
	}
	if err != nil || r == nil || here.IsZero() {
		return err
	}
	return in.reduce(&w, *r, here)
}

// holds is which blocks of a chunk stay here; r is what is to be changed for it, nil where keep has seen to it.
func (in *install) holds(w *Want, theirs *lacks) (r *residency, here meta.Bitmap, err error) {
	v, ok, err := in.s.Get(residencyKey(w.Blob))
	if err != nil || !ok {
		return nil, here, err
	}
	have, err := decodeResidency(v)
	if err != nil {
		return nil, here, err
	}
	_, stays, err := in.s.Get(keptKey(w.Blob))
	if err != nil || stays {
		return nil, and(have.here, w.Blocks), err
	}
	if !before(have.last, applied(in.s.cfg.Checkpoint.Acceptance)) {
		return nil, here, nil
	}
	for _, p := range theirs.parts {
		if before(p.since, have.last) {
			here = or(here, and(and(have.here, p.blocks), w.Blocks))
		}
	}
	return &have, here, nil
}

// reduce leaves of a blob the blocks that stay. That they are of the new state is said when all of it is here (finish): until then they are what
// they were, so that an Install that is cut short and done again finds them.
func (in *install) reduce(w *Want, r residency, here meta.Bitmap) error {
	for g := range sealGroups {
		key := sealKey(w.Blob, g)
		v, ok, err := in.s.Get(key)
		if err != nil {
			return err
		}
		if !ok || len(v) != sealGroup*record.SealSize {
			continue
		}
		for k := range sealGroup {
			if !here.Has(uint32(g*sealGroup + k)) {
				clear(v[k*record.SealSize : (k+1)*record.SealSize])
			}
		}
		if err := in.batch.Set(key, v, nil); err != nil {
			return err
		}
	}
	r.here = here
	if err := in.batch.Set(residencyKey(w.Blob), r.append(nil), nil); err != nil {
		return err
	}
	r.last = w.Last
	in.revised[w.Blob] = r
	in.saved++
	in.absent -= int64(count(here)) * record.BlockSize
	return in.set(keptKey(w.Blob), chunkOf(w))
}
