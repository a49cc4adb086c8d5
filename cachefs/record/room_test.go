package record

import (
	"bytes"
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"
)

// Records that are decoded into one room are those that are decoded alone, and none has room to grow into another one.
func TestRoom(t *testing.T) {
	var all [][]byte
	var want []*Record
	for seq := range Seq(200) {
		r := &Record{Header: Header{Kind: Change, Name: Name{1, 2, seq}}}
		for i := range int(seq % 5) {
			r.Muts = append(r.Muts, Mutation{Key: fmt.Append(nil, "key", seq, i), Value: bytes.Repeat([]byte{byte(seq)}, i*100)})
		}
		for i := range uint32(seq % 3) {
			r.Ops = append(r.Ops, BlockOp{Kind: WriteBlocks, Blob: BlobID(seq + 1), First: 2 * i, Count: i + 1, Seals: make([]Seal, i+1),
				Data: bytes.Repeat([]byte{byte(seq)}, int(i+1)*BlockSize)})
			r.Ops[i].Seals[i].N = uint16(seq)
		}
		b, err := r.Encode(nil)
		require.NoError(t, err)
		alone, err := Decode(b, nil)
		require.NoError(t, err)
		all, want = append(all, b), append(want, alone)
	}
	for _, expected := range []int{0, 1, 7, 200, 1 << 30} {
		room := NewRoom(expected)
		var got []*Record
		for _, b := range all {
			r, err := room.Decode(b, nil)
			require.NoError(t, err)
			require.Equal(t, len(r.Muts), cap(r.Muts))
			require.Equal(t, len(r.Ops), cap(r.Ops))
			got = append(got, r)
		}
		for i, r := range got {
			require.Empty(t, r.Muts[len(r.Muts):])
			require.Equal(t, want[i].Header, r.Header)
			require.Equal(t, len(want[i].Muts), len(r.Muts))
			for k := range r.Muts {
				require.Equal(t, want[i].Muts[k], r.Muts[k])
			}
			require.Equal(t, len(want[i].Ops), len(r.Ops))
			for k := range r.Ops {
				require.Equal(t, len(r.Ops[k].Seals), cap(r.Ops[k].Seals))
				require.Equal(t, want[i].Ops[k], r.Ops[k])
			}
		}
	}
	few := testing.AllocsPerRun(10, func() {
		room := NewRoom(len(all))
		for _, b := range all {
			_, _ = room.Decode(b, nil)
		}
	})
	require.Less(t, few, float64(len(all)/2))
}
