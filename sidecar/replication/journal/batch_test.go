package journal

import (
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/stretchr/testify/require"
)

// randomPieces are frames of which most are small.
func randomPieces(rng *rand.Rand) (pieces []Piece, want []string) {
	for range 1 + rng.IntN(12) {
		n := rng.IntN(300)
		switch rng.IntN(12) {
		case 0:
			n = rng.IntN(8 << 10)
		case 1:
			n = BatchBytes - 100 + rng.IntN(200)
		case 2:
			n = 0
		}
		body := strings.Repeat(string(rune('a'+rng.IntN(26))), n)
		cut := rng.IntN(n + 1)
		pieces = append(pieces, Piece{Kind: KindEntry, Parts: [][]byte{[]byte(body[:cut]), nil, []byte(body[cut:])}})
		want = append(want, body)
	}
	return pieces, want
}

// TestAppendAllIsAppend: the same log comes out, over ends of segments and segments that are used again, whoever else appends between.
func TestAppendAllIsAppend(t *testing.T) {
	for seed := range uint64(20) {
		rng := rand.New(rand.NewPCG(seed, 3))
		a, b := testOptions(vfs.NewMem()), testOptions(vfs.NewMem())
		a.Rand, b.Rand = chacha(seed), chacha(seed)
		one, _ := mustOpen(t, a)
		all, _ := mustOpen(t, b)
		var want []string
		for range 60 {
			pieces, bodies := randomPieces(rng)
			want = append(want, bodies...)
			var end LSN
			for _, p := range pieces {
				var err error
				end, err = one.Append(p.Kind, 7, 8, p.Parts...)
				require.NoError(t, err, "seed %d", seed)
			}
			got, err := all.AppendAll(7, 8, pieces)
			require.NoError(t, err, "seed %d", seed)
			if rng.IntN(4) == 0 {
				require.Equal(t, got, all.End(), "seed %d", seed)
				require.Equal(t, got, mustSync(t, all), "seed %d", seed)
				require.Equal(t, mustAppend(t, one, "between")-end, mustAppend(t, all, "between")-got, "seed %d", seed)
				want = append(want, "between")
				mustSync(t, one)
				mustSync(t, all)
			}
		}
		require.NoError(t, one.Close())
		require.NoError(t, all.Close())
		_, first := mustOpen(t, a)
		_, second := mustOpen(t, b)
		require.Equal(t, want, bodies(first), "seed %d", seed)
		require.Equal(t, want, bodies(second), "seed %d", seed)
	}
}

// TestAppendAllWritesOnce: small frames are one call.
func TestAppendAllWritesOnce(t *testing.T) {
	writes := 0
	fs := &faultFS{vfs.NewMem(), func(op, _ string, _ int) (int, error) {
		if op == "write" {
			writes++
		}
		return 0, nil
	}}
	j, _ := mustOpen(t, testOptions(fs))
	writes = 0
	_, err := j.AppendAll(1, 2, []Piece{{Kind: KindPayload, Parts: [][]byte{make([]byte, 4300)}}, {Kind: KindBinding, Parts: [][]byte{make([]byte, 40)}}, {Kind: KindHardState, Parts: [][]byte{make([]byte, 24)}}})
	require.NoError(t, err)
	require.Equal(t, 1, writes)
	end := j.End()
	_, err = j.AppendAll(1, 2, nil)
	require.NoError(t, err)
	var bad *BodyError
	_, err = j.AppendAll(1, 2, []Piece{{Kind: KindBinding}, {Kind: Kind(99)}})
	require.ErrorAs(t, err, &bad)
	require.Equal(t, end+64, j.End(), "the frames before it are there")
}

// TestTornBatch: a write that a failure cuts off leaves the first frames, whole, or none.
func TestTornBatch(t *testing.T) {
	full := func(n int) [][]byte { return [][]byte{[]byte(strings.Repeat("x", n))} } // what is not written is zero here
	pieces := []Piece{{Kind: KindPayload, Parts: full(200)}, {Kind: KindBinding, Parts: full(40)}, {Kind: KindHardState, Parts: full(24)}}
	ends := []int{264, 320 + 104, 448 + 88} // of the bodies: frames begin at multiples of 64, and a header has 64 bytes
	for cut := 0; cut < 576; cut += 8 {
		armed := false
		mem := vfs.NewMem()
		fs := &faultFS{mem, func(op, _ string, size int) (int, error) {
			if armed && op == "write" {
				return min(cut, size), errInjected
			}
			return 0, nil
		}}
		j, _ := mustOpen(t, testOptions(fs))
		mustAppend(t, j, "before")
		mustSync(t, j)
		armed = true
		_, err := j.AppendAll(7, 8, pieces)
		require.ErrorIs(t, err, errInjected)
		_, err = j.Append(KindPayload, 7, 8)
		require.ErrorIs(t, err, errInjected, "a journal that has failed takes nothing more")
		_, frames := mustOpen(t, testOptions(mem))
		whole := 1
		for _, end := range ends {
			if cut >= end {
				whole++
			}
		}
		require.Len(t, frames, whole, "cut at %d", cut)
	}
}
