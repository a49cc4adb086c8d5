package seal_test

import (
	"bytes"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/remora-storage/remora/cachefs/record"
	"github.com/remora-storage/remora/cachefs/seal"
)

// A block is sealed to the same bytes with and without room behind it, and opens; the bytes behind the room stay.
func TestBlockWithRoomBehindIt(t *testing.T) {
	keys, err := seal.New(bytes.Repeat([]byte{1}, seal.KeySize), "tenant")
	require.NoError(t, err)
	require.NoError(t, keys.Learn(1, bytes.Repeat([]byte{2}, seal.SaltSize)))
	block := bytes.Repeat([]byte("four"), record.BlockSize/4)
	for _, k := range []*seal.Keys{keys, nil} {
		of := record.Seal{Incarnation: 1, Seq: 2, N: 3, Origin: 4, Block: 5}
		tight, roomy := of, of
		exact, more := make([]byte, record.BlockSize), bytes.Repeat([]byte{9}, record.BlockSize+seal.Spare+1)
		require.NoError(t, k.Block(&tight, exact, block))
		require.NoError(t, k.Block(&roomy, more, block))
		require.Equal(t, tight, roomy)
		require.True(t, bytes.Equal(exact, more[:record.BlockSize]))
		require.Equal(t, byte(9), more[len(more)-1])
		require.NoError(t, k.OpenBlock(&tight, exact))
		require.True(t, bytes.Equal(block, exact))
		require.Equal(t, bytes.Repeat([]byte("four"), record.BlockSize/4), block, "the block itself")
	}
}

// What is sealed for an incarnation opens with the salt that was learnt for it last, whichever incarnation was asked for before.
func TestSaltThatWasLearntLast(t *testing.T) {
	keys, err := seal.New(bytes.Repeat([]byte{1}, seal.KeySize), "tenant")
	require.NoError(t, err)
	sealed := func(i record.Incarnation) (record.Seal, []byte) {
		s, b := record.Seal{Incarnation: i, Seq: 2, N: 3, Origin: 4, Block: 5}, make([]byte, record.BlockSize)
		require.NoError(t, keys.Block(&s, b, bytes.Repeat([]byte("four"), record.BlockSize/4)))
		return s, b
	}
	opens := func(s record.Seal, b []byte) error { return keys.OpenBlock(&s, bytes.Clone(b)) }
	require.NoError(t, keys.Learn(1, bytes.Repeat([]byte{2}, seal.SaltSize)))
	require.NoError(t, keys.Learn(2, bytes.Repeat([]byte{3}, seal.SaltSize)))
	first, a := sealed(1)
	second, b := sealed(2)
	require.NotEqual(t, a, b)
	require.NoError(t, opens(first, a))
	require.NoError(t, opens(second, b))
	require.NoError(t, keys.Learn(2, bytes.Repeat([]byte{4}, seal.SaltSize)))
	require.ErrorIs(t, opens(second, b), seal.ErrWrongKey)
	require.NoError(t, opens(first, a))
}
