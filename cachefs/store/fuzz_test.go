package store

import (
	"bytes"
	"errors"
	"io"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/remora-storage/remora/cachefs/meta"
	"github.com/remora-storage/remora/cachefs/record"
)

func FuzzDecodeLocal(f *testing.F) {
	seals := make([]byte, 0, sealGroup*record.SealSize)
	for i := range sealGroup {
		seals = record.AppendSeal(seals, &record.Seal{Incarnation: 1, Seq: 2, N: uint16(i), CRC: 3, Origin: 4, Block: 5})
	}
	r := residency{slot: 7, last: meta.Change{Epoch: 1, Seq: 2}, here: meta.Bitmap{1, 2, 3, 4}}
	f.Add(appliedKey, encodeApplied(nil, Checkpoint{9, record.Acceptance{Epoch: 1, Incarnation: 2, Last: 3}}))
	f.Add(answersKey, (&answers{session: 5, first: map[uint64][]byte{2: []byte("a"), 9: {}}}).append(nil))
	f.Add(residencyKey(42), r.append(nil))
	f.Add(sealKey(42, 3), seals)
	f.Fuzz(func(t *testing.T, key, value []byte) {
		l, err := DecodeLocal(key, value)
		if err != nil {
			require.ErrorIs(t, err, ErrDamaged)
			return
		}
		switch {
		case l.Applied != nil:
			require.Equal(t, value, encodeApplied(nil, *l.Applied))
		case l.Residency != nil:
			require.Equal(t, key, residencyKey(l.Residency.Blob))
			again, err := decodeResidency((&residency{l.Residency.Slot, l.Residency.Last, l.Residency.Here}).append(nil))
			require.NoError(t, err)
			require.Equal(t, l.Residency.Here, again.here)
		case l.Seals != nil:
			require.Equal(t, key, sealKey(l.Seals.Blob, int(l.Seals.First/sealGroup)))
			var b []byte
			for i := range l.Seals.Seals {
				b = record.AppendSeal(b, &l.Seals.Seals[i])
			}
			require.Equal(t, value, b)
		}
	})
}

func FuzzDecodeAnswers(f *testing.F) {
	f.Add((&answers{session: 5, first: map[uint64][]byte{2: []byte("a"), 9: {}}}).append(nil))
	f.Fuzz(func(t *testing.T, b []byte) {
		a, err := decodeAnswers(b)
		if err != nil {
			require.ErrorIs(t, err, ErrDamaged)
			return
		}
		again, err := decodeAnswers(a.append(nil))
		require.NoError(t, err)
		require.Equal(t, a, again)
	})
}

func FuzzDecodeApplied(f *testing.F) {
	f.Add(encodeApplied(nil, Checkpoint{9, record.Acceptance{Epoch: 1, Incarnation: 2, Last: 3}}))
	f.Fuzz(func(t *testing.T, b []byte) {
		if index, a, err := decodeApplied(b); err == nil {
			require.Equal(t, b, encodeApplied(nil, Checkpoint{index, a}))
		}
	})
}

func FuzzDecodeContent(f *testing.F) {
	w := Want{Ino: 1, Chunk: 2, Blob: 3, Last: meta.Change{Epoch: 4, Seq: 5}, Blocks: meta.Bitmap{5}}
	c := Content{Ino: 1, Chunk: 2, Blob: 3, Last: w.Last, Blocks: w.Blocks, Seals: make([]record.Seal, 2), Data: make([]byte, 2*record.BlockSize)}
	f.Add(w.Append(nil))
	f.Add(c.Append(nil))
	f.Fuzz(func(t *testing.T, b []byte) {
		if w, err := DecodeWant(b); err == nil {
			require.Equal(t, b, w.Append(nil))
		} else {
			require.ErrorIs(t, err, ErrMalformed)
		}
		if c, err := DecodeContent(b); err == nil {
			require.Equal(t, b, c.Append(nil))
		} else {
			require.ErrorIs(t, err, ErrMalformed)
		}
	})
}

func FuzzReadSnapshot(f *testing.F) {
	position := encodeApplied(nil, Checkpoint{9, record.Acceptance{Epoch: 1, Incarnation: 2, Last: 3}})
	b := append(append(append([]byte(nil), snapshotMagic[:]...), byte(len(position))), position...)
	b = append(b, 2, 0, 0, 0, 1, 0, 0, 0, 'k', 'y', 'v', 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0)
	f.Add(b)
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := ReadSnapshot(bytes.NewReader(b))
		for keys := 0; err == nil; keys++ {
			require.LessOrEqual(t, keys, len(b))
			var k, v []byte
			k, v, err = s.Next()
			require.LessOrEqual(t, len(k)+len(v), len(b))
		}
		if !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
			require.ErrorIs(t, err, ErrMalformed)
		}
	})
}
