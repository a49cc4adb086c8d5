package store

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"io"

	"github.com/cockroachdb/pebble/v2"

	"github.com/remora-storage/remora/cachefs/meta"
	"github.com/remora-storage/remora/cachefs/record"
)

// Snapshot is the replicated part of a store at one index: all keys below meta.LocalPrefix, and the table of first answers. It costs the
// store little while it is open, but files that were compacted since stay.
type Snapshot struct {
	s  *Store
	db *pebble.Snapshot
	at Checkpoint
}

// Snapshot returns the state at the applied index. Close gives it back.
func (s *Store) Snapshot() (*Snapshot, error) {
	s.applyMu.Lock()
	defer s.applyMu.Unlock()
	if err := s.failure(); err != nil {
		return nil, err
	}
	if s.position.Index < s.opened {
		return nil, errors.New("snapshot: the log is being replayed")
	}
	return &Snapshot{s, s.db.NewSnapshot(), s.position}, nil
}

// Position is the index of the snapshot, and the acceptance state there.
func (n *Snapshot) Position() Checkpoint { return n.at }

// Close lets the snapshot go.
func (n *Snapshot) Close() error { return n.db.Close() }

// Each calls visit for every key, in order, until it returns an error. Key and value are valid only until visit returns.
func (n *Snapshot) Each(visit func(key, value []byte) error) error {
	if err := n.scan(nil, []byte{meta.LocalPrefix}, visit); err != nil {
		return err
	}
	return n.scan(answersKey, append(append([]byte(nil), answersKey...), 0), visit)
}

func (n *Snapshot) scan(lower, upper []byte, visit func(key, value []byte) error) error {
	it, err := n.db.NewIter(&pebble.IterOptions{LowerBound: lower, UpperBound: upper})
	if err != nil {
		return fmt.Errorf("scan a snapshot: %w", n.s.found(err))
	}
	for ok := it.First(); ok; ok = it.Next() {
		if err := visit(it.Key(), it.Value()); err != nil {
			return errors.Join(err, it.Close())
		}
	}
	if err := it.Error(); err != nil {
		return errors.Join(fmt.Errorf("scan a snapshot: %w", n.s.found(err)), it.Close())
	}
	return it.Close()
}

// The stream of a snapshot (FORMAT.md): a header with the position, keys with their values, an empty key, and the number of keys.
var snapshotMagic = [4]byte{'R', 'M', 'S', '1'}

const (
	maxKey   = 4 << 10
	maxValue = 1 << 20
)

// Send writes the snapshot as a stream that ReadSnapshot reads. It has no checksum: that is the transport's.
func (n *Snapshot) Send(ctx context.Context, w io.Writer) error {
	out := bufio.NewWriterSize(w, 256<<10)
	le := binary.LittleEndian
	position := encodeApplied(nil, n.at)
	head := append(append([]byte(nil), snapshotMagic[:]...), byte(len(position)))
	_, _ = out.Write(append(head, position...)) // a bufio.Writer remembers its error
	keys := uint64(0)
	send := func(key, value []byte) error {
		if keys++; keys%1024 == 0 && ctx.Err() != nil {
			return ctx.Err()
		}
		var lengths [8]byte
		le.PutUint32(lengths[:], uint32(len(key)))
		le.PutUint32(lengths[4:], uint32(len(value)))
		_, _ = out.Write(lengths[:])
		_, _ = out.Write(key)
		_, err := out.Write(value)
		return err
	}
	err := n.Each(send)
	if _, incomplete, e := n.get(incompleteKey); err == nil && incomplete {
		err = n.absences(send)
	} else {
		err = errors.Join(err, e)
	}
	if err != nil {
		return err
	}
	_, _ = out.Write(le.AppendUint64(make([]byte, 8), keys))
	return out.Flush()
}

// SnapshotReader reads what Send wrote.
type SnapshotReader struct {
	in   *bufio.Reader
	at   Checkpoint
	keys uint64
	buf  []byte
	done bool
}

// ReadSnapshot reads the header of a stream.
func ReadSnapshot(r io.Reader) (*SnapshotReader, error) {
	s := &SnapshotReader{in: bufio.NewReaderSize(r, 256<<10)}
	head := make([]byte, 5)
	if err := s.read(head); err != nil {
		return nil, err
	}
	if [4]byte(head) != snapshotMagic {
		return nil, fmt.Errorf("%w: snapshot with magic %x", ErrMalformed, head[:4])
	}
	position := make([]byte, head[4])
	if err := s.read(position); err != nil {
		return nil, err
	}
	var err error
	if s.at.Index, s.at.Acceptance, err = decodeApplied(position); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	return s, nil
}

// Position is the snapshot's.
func (s *SnapshotReader) Position() Checkpoint { return s.at }

// Next returns the next key and its value, valid until the next call, or io.EOF behind the last, when the stream is known to be whole.
func (s *SnapshotReader) Next() (key, value []byte, err error) {
	if s.done {
		return nil, nil, io.EOF
	}
	var lengths [8]byte
	if err := s.read(lengths[:]); err != nil {
		return nil, nil, err
	}
	k, v := binary.LittleEndian.Uint32(lengths[:]), binary.LittleEndian.Uint32(lengths[4:])
	if k == 0 && v == 0 {
		return nil, nil, s.end()
	}
	if k == 0 || k > maxKey || v > maxValue {
		return nil, nil, fmt.Errorf("%w: snapshot with a key of %d bytes and a value of %d", ErrMalformed, k, v)
	}
	if cap(s.buf) < int(k+v) {
		s.buf = make([]byte, k+v)
	}
	s.buf = s.buf[:k+v]
	if err := s.read(s.buf); err != nil {
		return nil, nil, err
	}
	s.keys++
	return s.buf[:k:k], s.buf[k:], nil
}

func (s *SnapshotReader) end() error {
	var n [8]byte
	if err := s.read(n[:]); err != nil {
		return err
	}
	if got := binary.LittleEndian.Uint64(n[:]); got != s.keys {
		return fmt.Errorf("%w: snapshot of %d keys, and %d came", ErrMalformed, got, s.keys)
	}
	s.done = true
	return io.EOF
}

func (s *SnapshotReader) read(b []byte) error {
	_, err := io.ReadFull(s.in, b)
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF // only the end of the stream is its end
	}
	if err != nil {
		return fmt.Errorf("read a snapshot: %w", err)
	}
	return nil
}

// ErrIncomplete: something is absent here, so that there is no digest.
var ErrIncomplete = errors.New("the replica has not all content")

// Digest of the logical content: two replicas at the same index have the same, however they came there.
type Digest struct {
	At  Checkpoint
	Sum [sha256.Size]byte
}

// Digest computes the digest of the state at the applied index: of all replicated keys, of the first answers, and of all content as its
// seals name it. That the arena has what the seals say is Scrub's to find out. ErrIncomplete: a block is absent, or filled and not yet
// part of a checkpoint.
func (s *Store) Digest(ctx context.Context) (Digest, error) {
	n, err := s.Snapshot()
	if err != nil {
		return Digest{}, err
	}
	d, err := n.Digest(ctx)
	return d, errors.Join(err, n.Close())
}

// Digest is Store.Digest of the snapshot.
func (n *Snapshot) Digest(ctx context.Context) (Digest, error) {
	d := Digest{At: n.at}
	h := sha256.New()
	feed(h, encodeApplied(nil, n.at), nil)
	seals, err := n.db.NewIter(&pebble.IterOptions{LowerBound: []byte{residencyPrefix}, UpperBound: []byte{sealPrefix + 1}})
	if err != nil {
		return d, fmt.Errorf("digest: %w", n.s.found(err))
	}
	keys := 0
	err = n.Each(func(key, value []byte) error {
		if keys++; keys%1024 == 0 && ctx.Err() != nil {
			return ctx.Err()
		}
		feed(h, key, value)
		if lower, _ := meta.ChunkRange(); key[0] != lower[0] {
			return nil
		}
		w, err := wantAll(key, value)
		if err != nil {
			return err
		}
		return feedSeals(h, seals, &w)
	})
	if err = errors.Join(err, seals.Close()); err != nil {
		return d, err
	}
	h.Sum(d.Sum[:0])
	return d, nil
}

func feed(h hash.Hash, key, value []byte) {
	var lengths [8]byte
	binary.LittleEndian.PutUint32(lengths[:], uint32(len(key)))
	binary.LittleEndian.PutUint32(lengths[4:], uint32(len(value)))
	h.Write(lengths[:])
	h.Write(key)
	h.Write(value)
}

// feedSeals adds the seals of all blocks of a chunk.
func feedSeals(h hash.Hash, it *pebble.Iterator, w *Want) error {
	incomplete := func() error {
		return errors.Join(it.Error(), fmt.Errorf("%w: of blob %d", ErrIncomplete, w.Blob))
	}
	key := residencyKey(w.Blob)
	if !it.SeekGE(key) || string(it.Key()) != string(key) {
		return incomplete()
	}
	r, err := decodeResidency(it.Value())
	if err != nil {
		return err
	}
	if x := without(w.Blocks, r.here); !x.IsZero() || r.last != w.Last {
		return incomplete()
	}
	for g := range sealGroups {
		key, loaded := sealKey(w.Blob, g), false
		for k := range uint32(sealGroup) {
			if !w.Blocks.Has(uint32(g)*sealGroup + k) {
				continue
			}
			if !loaded && (!it.SeekGE(key) || string(it.Key()) != string(key) || len(it.Value()) != sealGroup*record.SealSize) {
				return errors.Join(it.Error(), fmt.Errorf("%w: blob %d has no seals from block %d on", ErrDamaged, w.Blob, g*sealGroup))
			}
			loaded = true
			h.Write(it.Value()[k*record.SealSize : (k+1)*record.SealSize])
		}
	}
	return nil
}
