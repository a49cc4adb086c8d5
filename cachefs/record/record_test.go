package record

import (
	"bytes"
	"encoding/hex"
	"flag"
	"os"
	"testing"

	"github.com/stretchr/testify/require"
)

var update = flag.Bool("update", false, "rewrite golden files")

func sample() *Record {
	data := bytes.Repeat([]byte{0xab}, 2*BlockSize)
	seals := make([]Seal, 2)
	for i := range seals {
		seals[i] = Seal{Incarnation: 7, Seq: 0x0000_8123_4567_89ab, N: uint16(i + 1), CRC: Checksum(data[:BlockSize]), Origin: 42, Block: uint32(3 + i)}
	}
	return &Record{
		Header:   Header{Kind: Change, Name: Name{5, 7, 0x81234567}, Session: 0x1122334455667788, Unique: 1234, Time: 1_700_000_000_000_000_000},
		Answered: []uint64{2, 4, 6},
		Answer:   []byte("answer"),
		Muts:     []Mutation{{Key: []byte("k1"), Value: []byte("v1")}, {Key: []byte("gone"), Value: []byte{}, Delete: true}},
		Ops: []BlockOp{
			{Kind: WriteBlocks, Blob: 42, First: 3, Count: 2, Seals: seals, Data: data},
			{Kind: PunchBlocks, Blob: 42, First: 9, Count: 4},
			{Kind: FreeBlob, Blob: 41},
		},
	}
}

func encode(t testing.TB, r *Record) []byte {
	b, err := r.Encode(nil)
	require.NoError(t, err)
	return b
}

func TestGolden(t *testing.T) {
	got, err := sample().Encode(nil)
	require.NoError(t, err)
	meta := got[:len(got)-2*BlockSize]
	const file = "testdata/change.hex"
	if *update {
		require.NoError(t, os.MkdirAll("testdata", 0o755))
		require.NoError(t, os.WriteFile(file, []byte(hex.Dump(meta)), 0o644))
	}
	want, err := os.ReadFile(file)
	require.NoError(t, err)
	require.Equal(t, string(want), hex.Dump(meta))
}

func TestRoundTrip(t *testing.T) {
	r := sample()
	b := encode(t, r)
	require.Len(t, b, r.EncodedSize()-tagSize)
	got, err := Decode(b, nil)
	require.NoError(t, err)
	require.Equal(t, r, got)

	o := &Record{Header: Header{Kind: Owner, Name: Name{Epoch: 1, Incarnation: 1}}}
	got, err = Decode(encode(t, o), nil)
	require.NoError(t, err)
	require.Equal(t, o, got)
}

func TestDecodeRefusesEveryTruncation(t *testing.T) {
	b := encode(t, sample())
	for n := range len(b) {
		_, err := Decode(b[:n], nil)
		require.ErrorIs(t, err, ErrMalformed, "%d bytes", n)
	}
	_, err := Decode(append(b, 0), nil)
	require.ErrorIs(t, err, ErrMalformed)
}

// TestDecodeRefusesNewerVersions: what a later version may put into a header is not passed over.
func TestDecodeRefusesNewerVersions(t *testing.T) {
	good := encode(t, &Record{Header: Header{Kind: Owner, Name: Name{Epoch: 1, Incarnation: 1}}})
	for at, value := range map[int]byte{4: 2, 5: 3, 6: 2, 7: 1, 22: 1, 23: 1, 84: 1, 91: 1, 92: 1, 95: 1} {
		b := append([]byte(nil), good...)
		b[at] = value
		_, err := Decode(b, nil)
		require.ErrorIs(t, err, ErrMalformed, "byte %d", at)
	}
}

func FuzzDecode(f *testing.F) {
	f.Add(encode(f, sample()))
	f.Add(encode(f, &Record{Header: Header{Kind: Owner, Name: Name{Epoch: 1}}}))
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := Decode(b, nil)
		if err != nil {
			return
		}
		again, err := Decode(encode(t, r), nil)
		require.NoError(t, err)
		require.Equal(t, r, again)
	})
}

func TestAcceptance(t *testing.T) {
	var a Acceptance
	require.False(t, a.Step(Change, Name{0, 0, 2}), "no epoch yet, gap")
	require.True(t, a.Step(Owner, Name{1, 1, 0}))
	require.False(t, a.Step(Owner, Name{1, 2, 0}), "same epoch again")
	require.True(t, a.Step(Change, Name{1, 1, 1}))
	require.False(t, a.Step(Change, Name{1, 1, 1}), "duplicate")
	require.False(t, a.Step(Change, Name{1, 1, 3}), "gap")
	require.False(t, a.Step(Change, Name{1, 2, 2}), "other incarnation")
	require.True(t, a.Step(Change, Name{1, 1, 2}))
	require.True(t, a.Step(Owner, Name{3, 4, 0}))
	require.False(t, a.Step(Change, Name{1, 1, 3}), "fenced")
	require.False(t, a.Step(Owner, Name{2, 3, 0}), "older epoch")
	got, err := DecodeAcceptance(a.Append(nil))
	require.NoError(t, err)
	require.Equal(t, a, got)
	_, err = DecodeAcceptance(nil)
	require.ErrorIs(t, err, ErrMalformed)
}
