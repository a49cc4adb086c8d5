package journal

import (
	"encoding/binary"
	"hash/crc32"
)

// The layout of a frame; FORMAT.md is the table.
const (
	frameAlign       = 64
	frameHeaderBytes = 64
	frameMagic       = 0x464A4D52 // "RMJF"
	frameVersion     = 1
)

// MaxBodyBytes is the longest body of a frame: a record of 1 MiB with its header, and room to grow.
const MaxBodyBytes = 2 << 20

// LSN is a position in the log: segment number * SegmentBytes + offset in the segment's file.
type LSN uint64

// Frame is one frame of the log.
type Frame struct {
	LSN       LSN
	End       LSN // where a next frame of the same segment would start
	Kind      Kind
	Group     uint64
	Replica   uint64
	SyncedEnd LSN    // everything below was known to be synced when this frame was written
	Body      []byte // belongs to the reader: valid only during visit
}

type frameHeader struct {
	bodyBytes uint32
	bodyCRC   uint32
	kind      Kind
	flags     uint8
	version   uint16
	group     uint64
	replica   uint64
	syncedEnd LSN
	reserved  bool // found: a reserved byte is not zero
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// frameBytes is what a frame of n body bytes occupies.
func frameBytes(n int) int64 {
	return (frameHeaderBytes + int64(n) + frameAlign - 1) &^ (frameAlign - 1)
}

// seed is the CRC-32C of a and b. The table is walked by hand: crc32.Update would move the 16 bytes to the heap.
func seed(a, b uint64) uint32 {
	crc := ^uint32(0)
	for range 8 {
		crc = castagnoli[byte(crc)^byte(a)] ^ crc>>8
		a >>= 8
	}
	for range 8 {
		crc = castagnoli[byte(crc)^byte(b)] ^ crc>>8
		b >>= 8
	}
	return ^crc
}

// headerSeed and bodySeed name the same position in different orders: CRCs are linear, so with one order a pair of
// generations that collides for the header would collide for the body too.
func headerSeed(generation uint64, at LSN) uint32 { return seed(generation, uint64(at)) }
func bodySeed(generation uint64, at LSN) uint32   { return seed(uint64(at), generation) }

// encode fills dst[:frameHeaderBytes] for a frame at the given position.
func (h frameHeader) encode(dst []byte, generation uint64, at LSN) {
	le := binary.LittleEndian
	clear(dst[:frameHeaderBytes])
	le.PutUint32(dst[0:], frameMagic)
	le.PutUint32(dst[8:], h.bodyBytes)
	le.PutUint32(dst[12:], h.bodyCRC)
	dst[16] = byte(h.kind)
	dst[17] = h.flags
	le.PutUint16(dst[18:], h.version)
	le.PutUint64(dst[24:], h.group)
	le.PutUint64(dst[32:], h.replica)
	le.PutUint64(dst[40:], uint64(h.syncedEnd))
	le.PutUint32(dst[4:], crc32.Update(headerSeed(generation, at), castagnoli, dst[8:frameHeaderBytes]))
}

// parseFrameHeader reads the fields without verifying them; false if b does not start with a frame's magic.
func parseFrameHeader(b []byte) (frameHeader, bool) {
	le := binary.LittleEndian
	if len(b) < frameHeaderBytes || le.Uint32(b) != frameMagic {
		return frameHeader{}, false
	}
	return frameHeader{
		bodyBytes: le.Uint32(b[8:]),
		bodyCRC:   le.Uint32(b[12:]),
		kind:      Kind(b[16]),
		flags:     b[17],
		version:   le.Uint16(b[18:]),
		group:     le.Uint64(b[24:]),
		replica:   le.Uint64(b[32:]),
		syncedEnd: LSN(le.Uint64(b[40:])),
		reserved:  le.Uint32(b[20:]) != 0 || le.Uint64(b[48:]) != 0 || le.Uint64(b[56:]) != 0,
	}, true
}

// verifyFrameHeader reports whether b's header was written at this position in this generation.
func verifyFrameHeader(b []byte, generation uint64, at LSN) bool {
	crc := crc32.Update(headerSeed(generation, at), castagnoli, b[8:frameHeaderBytes])
	return binary.LittleEndian.Uint32(b[4:]) == crc
}
