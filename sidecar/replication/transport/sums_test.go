package transport

import (
	"hash/crc32"
	"math/rand/v2"
	"testing"
	"time"
	"unsafe"

	"github.com/stretchr/testify/require"
)

// TestSums: a frame has the same bytes whether the checksums of its parts are known or not.
func TestSums(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	r := rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8), byte(seed >> 16), byte(seed >> 24)})
	noise := func(n int) []byte {
		b := make([]byte, n)
		_, _ = r.Read(b)
		return b
	}
	for range 50 {
		blocks := 8 + int(r.Uint64()%300)
		content := noise(blocks * sumBlock)
		sum := func(i int) uint32 { return crc32.Checksum(content[i*sumBlock:][:sumBlock], castagnoli) }
		require.Equal(t, crc32.Checksum(content, castagnoli), extend(0, sum, blocks))
		parts := [][]byte{noise(10), noise(int(r.Uint64() % 20000)), content, noise(int(r.Uint64() % 100)), content}
		frame := func(sums []Sum) (all []byte) {
			q := newQueue(64<<20, time.Now())
			require.Equal(t, dropNone, q.push(time.Now(), Header{Kind: 1, Group: 2, From: 3, To: 4, Sums: sums}, true, parts...))
			f := q.take(nil)[0]
			require.Nil(t, f.h.Sums)
			all = append(all, f.b...)
			for _, b := range f.more {
				all = append(all, b...)
			}
			return all
		}
		require.Equal(t, frame(nil), frame([]Sum{nil, nil, sum, nil, sum}))
		require.Equal(t, frame(nil), frame([]Sum{nil, nil, sum}), "the rest is not known")
	}
}

// TestRoom: what a large frame ends with can be written past the page cache as it is.
func TestRoom(t *testing.T) {
	for _, n := range []int{0, 1, 100, chunkBytes, chunkBytes + 1, 1<<20 + 12345, 4 << 20} {
		b := room(n)
		require.Len(t, b, n)
		if n >= chunkBytes {
			require.Zero(t, (uintptr(unsafe.Pointer(&b[0]))+uintptr(n))%page, "%d bytes", n)
		}
	}
}
