package journal

import (
	"bytes"
	"crypto/rand"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/stretchr/testify/require"
)

// TestRead: every frame is found again where AppendAll has said that it is, across segments, and by the next process.
func TestRead(t *testing.T) {
	fs := vfs.NewMem()
	open := func() *Journal {
		j, err := Open(Options{FS: fs, Dir: "j", SegmentBytes: minSegmentBytes, Rand: rand.Reader}, func(Frame) error { return nil })
		require.NoError(t, err)
		return j
	}
	j := open()
	at := map[LSN][]byte{}
	for n := range 200 {
		pieces := make([]Piece, 1+n%4)
		for i := range pieces {
			pieces[i] = Piece{Kind: KindPayload, Parts: [][]byte{Payload{Epoch: 1, Seq: uint64(n)}.AppendHeader(nil), bytes.Repeat([]byte{byte(n), byte(i)}, 1+n*37%5000)}}
		}
		_, err := j.AppendAll(7, 8, pieces)
		require.NoError(t, err)
		for _, p := range pieces {
			at[p.At] = bytes.Join(p.Parts, nil)
		}
	}
	check := func() {
		for lsn, body := range at {
			f, err := j.Read(lsn)
			require.NoError(t, err)
			require.Equal(t, body, f.Body)
			require.Equal(t, uint64(8), f.Replica)
		}
		_, err := j.Read(j.End())
		require.Error(t, err)
		for lsn := range at {
			_, err = j.Read(lsn + frameAlign)
			if _, other := at[lsn+frameAlign]; !other {
				require.Error(t, err, "in the middle of a frame")
			}
		}
	}
	check()
	require.NoError(t, j.Close())
	j = open()
	check()
	require.NoError(t, j.Close())
}
