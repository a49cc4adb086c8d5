package journal

import (
	"encoding/hex"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/stretchr/testify/require"
)

// TestGoldenSegment holds FORMAT.md: a reader that knows nothing but it must find these bytes.
func TestGoldenSegment(t *testing.T) {
	fs := vfs.NewMem()
	o := testOptions(fs)
	o.Rand = chacha(1)
	j, _ := mustOpen(t, o)
	_, err := j.AppendPayload(0x0102, 0x0304, Payload{Epoch: 5, Incarnation: 6, Seq: 7, Record: []byte("the record")})
	require.NoError(t, err)
	mustSync(t, j)
	_, err = j.AppendHardState(0x0102, 0x0304, HardState{Term: 8, Vote: 9, Commit: 10})
	require.NoError(t, err)
	require.NoError(t, j.Close())

	b := fileBytes(t, fs, 1)
	require.Len(t, b, minSegmentBytes)
	require.Equal(t, goldenHeader, hex.EncodeToString(b[:72]))
	require.Equal(t, make([]byte, 4020), b[72:4092])
	require.Equal(t, goldenHeaderCRC, hex.EncodeToString(b[4092:4096]))
	require.Equal(t, b[:4096], b[len(b)-4096:])
	require.Equal(t, goldenPayload, hex.EncodeToString(b[4096:4096+128]))
	require.Equal(t, goldenHardState, hex.EncodeToString(b[4096+128:4096+256]))
	require.Equal(t, make([]byte, minSegmentBytes-4096-4096-256), b[4096+256:len(b)-4096])

	h, ok := parseSegmentHeader(b)
	require.True(t, ok)
	require.Equal(t, b[:4096], h.page())
}

// Checked once against a reader written in Python from FORMAT.md alone.
const (
	goldenHeader = "524d524a53454731010000000000000000000100000000000100000000000000" +
		"6ae6783f4fbde91bd15c00000000000000000000000000010000000000000000" +
		"0000000000000000"
	goldenHeaderCRC = "40891685"
	goldenPayload   = "524d4a46705af9ff22000000293b89ca01000100000000000201000000000000" +
		"0403000000000000001001000000000000000000000000000000000000000000" +
		"050000000000000006000000000000000700000000000000746865207265636f" +
		"7264000000000000000000000000000000000000000000000000000000000000"
	goldenHardState = "524d4a467128bfab1800000066404a8503000100000000000201000000000000" +
		"0403000000000000801001000000000000000000000000000000000000000000" +
		"080000000000000009000000000000000a000000000000000000000000000000" +
		"0000000000000000000000000000000000000000000000000000000000000000"
)

func TestGoldenBodies(t *testing.T) {
	p := Payload{Epoch: 0x0102030405060708, Incarnation: 0x090a0b0c, Seq: 0x0d0e0f1011121314, Record: []byte("rec")}
	golden(t, p.AppendTo(nil), "0807060504030201"+"0c0b0a09"+"00000000"+"14131211100f0e0d"+"726563")
	require.Equal(t, p.AppendTo(nil), append(p.AppendHeader(nil), p.Record...))
	gotP, err := DecodePayload(p.AppendTo(nil))
	require.NoError(t, err)
	require.Equal(t, p, gotP)

	pl := Payload{Epoch: 1, Incarnation: 2, Seq: 3, Placed: []Placement{{Slot: 4, First: 5, Count: 6, Op: 7, Sum: 8}}, Record: []byte("rec")}
	golden(t, pl.AppendTo(nil), "0100000000000000"+"02000000"+"01000000"+"0300000000000000"+
		"0400000000000000"+"05000000"+"06000000"+"07000000"+"08000000"+"726563")
	require.Equal(t, KindPlaced, pl.Kind())
	gotPl, err := DecodePlaced(pl.AppendTo(nil))
	require.NoError(t, err)
	require.Equal(t, pl, gotPl)

	b := Binding{Index: 1, Term: 2, Epoch: 3, Seq: 4, Count: 5}
	golden(t, b.AppendTo(nil), "0100000000000000"+"0200000000000000"+"0300000000000000"+"0400000000000000"+"05000000"+"00000000")
	gotB, err := DecodeBinding(b.AppendTo(nil))
	require.NoError(t, err)
	require.Equal(t, b, gotB)

	h := HardState{Term: 1, Vote: 2, Commit: 3}
	golden(t, h.AppendTo(nil), "0100000000000000"+"0200000000000000"+"0300000000000000")
	gotH, err := DecodeHardState(h.AppendTo(nil))
	require.NoError(t, err)
	require.Equal(t, h, gotH)

	e := Entry{Index: 1, Term: 2, Type: 3, Data: []byte("data")}
	golden(t, e.AppendTo(nil), "0100000000000000"+"0200000000000000"+"03000000"+"00000000"+"64617461")
	gotE, err := DecodeEntry(e.AppendTo(nil))
	require.NoError(t, err)
	require.Equal(t, e, gotE)
}

func golden(t *testing.T, got []byte, want string) {
	t.Helper()
	require.Equal(t, want, hex.EncodeToString(got))
}

func TestBadBodies(t *testing.T) {
	binding := Binding{Index: 1, Term: 2, Epoch: 3, Seq: 4, Count: 5}
	for name, decode := range map[string]func() error{
		"short payload":    func() error { _, err := DecodePayload(make([]byte, 23)); return err },
		"payload reserved": func() error { _, err := DecodePayload(set(make([]byte, 24), 12)); return err },
		"short binding":    func() error { _, err := DecodeBinding(make([]byte, 39)); return err },
		"long binding":     func() error { _, err := DecodeBinding(make([]byte, 41)); return err },
		"binding reserved": func() error { _, err := DecodeBinding(set(binding.AppendTo(nil), 39)); return err },
		"binding wraps": func() error {
			_, err := DecodeBinding(Binding{Index: ^uint64(0), Count: 1}.AppendTo(nil))
			return err
		},
		"short hardstate": func() error { _, err := DecodeHardState(make([]byte, 23)); return err },
		"long hardstate":  func() error { _, err := DecodeHardState(make([]byte, 25)); return err },
		"short entry":     func() error { _, err := DecodeEntry(make([]byte, 23)); return err },
		"entry reserved":  func() error { _, err := DecodeEntry(set(make([]byte, 24), 23)); return err },
	} {
		var bad *BodyError
		require.ErrorAs(t, decode(), &bad, name)
	}
}

func set(b []byte, i int) []byte {
	b[i] = 1
	return b
}
