package transport

import (
	"hash/crc32"
	"sync"
)

// Sum tells the CRC32C of each block of 4 KiB of a part that is nothing else: to look at each 1 MiB again, for each peer, takes a fifth of its
// encryption. nil: it is not known.
type Sum = func(block int) uint32

// extend is the CRC32C of what has crc, and so many blocks behind it.
func extend(crc uint32, s Sum, blocks int) uint32 {
	t := shift4K()
	for i := range blocks {
		crc = t.shift(crc) ^ s(i)
	}
	return crc
}

const sumBlock = 4 << 10

// shifts says what a CRC becomes when zeros follow, without the inversions at both ends: that is linear, so each byte of it adds its own part.
// (CRC(AB) is then that of A, shifted by the length of B, and the CRC of B: zlib's crc32_combine has the proof.)
type shifts [4][256]uint32

func (t *shifts) shift(crc uint32) uint32 {
	return t[0][byte(crc)] ^ t[1][byte(crc>>8)] ^ t[2][byte(crc>>16)] ^ t[3][crc>>24]
}

var shift4K = sync.OnceValue(func() *shifts {
	t, zeros := &shifts{}, make([]byte, sumBlock)
	for bit := range 32 {
		one := ^crc32.Update(^(uint32(1) << bit), castagnoli, zeros)
		for b := range 256 {
			if b>>(bit%8)&1 == 1 {
				t[bit/8][b] ^= one
			}
		}
	}
	return t
})
