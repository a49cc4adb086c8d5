package journal

import (
	"bytes"
	"errors"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/stretchr/testify/require"
)

// A body that decodes must encode to the same bytes: there is one encoding of each value.

func FuzzDecodePayload(f *testing.F) {
	f.Add(Payload{Epoch: 1, Incarnation: 2, Seq: 3, Record: []byte("record")}.AppendTo(nil))
	f.Fuzz(func(t *testing.T, b []byte) {
		if p, err := DecodePayload(b); err == nil {
			require.Equal(t, b, p.AppendTo(nil))
		}
	})
}

func FuzzDecodePlaced(f *testing.F) {
	f.Add(Payload{Epoch: 1, Incarnation: 2, Seq: 3, Placed: []Placement{{Slot: 4, First: 5, Count: 6}}, Record: []byte("record")}.AppendTo(nil))
	f.Fuzz(func(t *testing.T, b []byte) {
		if p, err := DecodePlaced(b); err == nil {
			require.Equal(t, b, p.AppendTo(nil))
		}
	})
}

func FuzzDecodeBinding(f *testing.F) {
	f.Add(Binding{Index: 1, Term: 2, Epoch: 3, Seq: 4, Count: 5}.AppendTo(nil))
	f.Fuzz(func(t *testing.T, b []byte) {
		if v, err := DecodeBinding(b); err == nil {
			require.Equal(t, b, v.AppendTo(nil))
		}
	})
}

func FuzzDecodeHardState(f *testing.F) {
	f.Add(HardState{Term: 1, Vote: 2, Commit: 3}.AppendTo(nil))
	f.Fuzz(func(t *testing.T, b []byte) {
		if v, err := DecodeHardState(b); err == nil {
			require.Equal(t, b, v.AppendTo(nil))
		}
	})
}

func FuzzDecodeEntry(f *testing.F) {
	f.Add(Entry{Index: 1, Term: 2, Type: 3, Data: []byte("data")}.AppendTo(nil))
	f.Fuzz(func(t *testing.T, b []byte) {
		if v, err := DecodeEntry(b); err == nil {
			require.Equal(t, b, v.AppendTo(nil))
		}
	})
}

func FuzzParseSegmentHeader(f *testing.F) {
	f.Add(segmentHeader{version: 1, segmentBytes: 16 << 20, seq: 2, generation: 3, diskID: testDisk, prevEnd: 4, syncedEnd: 5}.page())
	f.Fuzz(func(t *testing.T, b []byte) {
		if h, ok := parseSegmentHeader(b); ok {
			again, ok := parseSegmentHeader(h.page())
			require.True(t, ok)
			require.Equal(t, h, again)
		}
	})
}

// FuzzScan overwrites a part of a journal: what is visited stays a prefix of what was written.
func FuzzScan(f *testing.F) {
	f.Add(uint32(0), []byte("xx"))
	f.Add(uint32(4096), []byte{1})
	f.Add(uint32(minSegmentBytes+4096), make([]byte, 5000))
	fs, frames := twoSegments(f)
	f.Fuzz(func(t *testing.T, off uint32, b []byte) {
		seq := uint64(1 + off/minSegmentBytes%2)
		file := fileBytes(t, fs, seq)
		was := bytes.Clone(file)
		defer copy(file, was)
		copy(file[off%minSegmentBytes:], b)
		var got []seen
		_, err := Scan(testOptions(fs), collect(&got))
		var damage *DamageError
		if err != nil && !errors.As(err, &damage) {
			t.Fatal(err)
		}
		require.LessOrEqual(t, len(got), len(frames))
		require.Equal(t, frames[:len(got)], append([]seen{}, got...))
	})
}

// FuzzFrame puts arbitrary bytes where a frame should be: nothing verifies that was not written there.
func FuzzFrame(f *testing.F) {
	h := frameHeader{version: frameVersion, kind: KindHardState, bodyBytes: 3}
	valid := make([]byte, frameHeaderBytes)
	h.encode(valid, 1, 2)
	f.Add(append(valid, "abc"...))
	f.Fuzz(func(t *testing.T, b []byte) {
		fs := vfs.NewMem()
		j, _ := mustOpen(t, testOptions(fs))
		require.NoError(t, j.Close())
		copy(fileBytes(t, fs, 1)[headerPageBytes:], b[:min(len(b), 50<<10)])
		sum, err := Scan(testOptions(fs), func(fr Frame) error { return nil })
		require.NoError(t, err)
		require.Zero(t, sum.Frames)
	})
}
