package store

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/remora-storage/remora/cachefs/meta"
	"github.com/remora-storage/remora/cachefs/record"
)

// Content is blocks of a blob as they are stored, with their seals: what a peer sends for a Want. Its bytes are in FORMAT.md.
type Content struct {
	Ino    meta.Ino
	Chunk  uint64
	Blob   record.BlobID
	Last   meta.Change   // of the blob, in the sender's applied state
	Blocks meta.Bitmap   // which of the wanted blocks the sender has, and found to be good
	Seals  []record.Seal // of these, in their order
	Data   []byte        // likewise
}

// MaxContent is the most bytes that an encoded Content has.
const MaxContent = contentHeader + record.ChunkBlocks*(record.SealSize+record.BlockSize)

// WantSize is how many bytes an encoded Want has.
const WantSize = 4 + 8 + 8 + 8 + 16 + 32

const contentHeader = WantSize

var (
	wantMagic    = [4]byte{'R', 'M', 'W', '1'}
	contentMagic = [4]byte{'R', 'M', 'C', '1'}
)

// ErrMalformed is the cause of every error of DecodeWant, DecodeContent and the reader of a snapshot.
var ErrMalformed = errors.New("malformed content")

// Append encodes w in WantSize bytes.
func (w *Want) Append(b []byte) []byte { return w.append(b, wantMagic) }

func (w *Want) append(b []byte, magic [4]byte) []byte {
	le := binary.LittleEndian
	b = append(b, magic[:]...)
	for _, v := range [...]uint64{uint64(w.Ino), w.Chunk, uint64(w.Blob), uint64(w.Last.Epoch), uint64(w.Last.Seq)} {
		b = le.AppendUint64(b, v)
	}
	return w.Blocks.Append(b)
}

// DecodeWant reads what Append wrote.
func DecodeWant(b []byte) (Want, error) {
	if len(b) != WantSize {
		return Want{}, fmt.Errorf("%w: want of %d bytes", ErrMalformed, len(b))
	}
	return decodeWant(b, wantMagic)
}

func decodeWant(b []byte, magic [4]byte) (Want, error) {
	if [4]byte(b) != magic {
		return Want{}, fmt.Errorf("%w: magic %x", ErrMalformed, b[:4])
	}
	le := binary.LittleEndian
	return Want{
		Ino: meta.Ino(le.Uint64(b[4:])), Chunk: le.Uint64(b[12:]), Blob: record.BlobID(le.Uint64(b[20:])),
		Last:   meta.Change{Epoch: record.Epoch(le.Uint64(b[28:])), Seq: record.Seq(le.Uint64(b[36:]))},
		Blocks: meta.DecodeBitmap(b[44:]),
	}, nil
}

// Append encodes c. The transport's checksum covers it on its way; its blocks are checked against their seals by Fill.
func (c *Content) Append(b []byte) []byte {
	w := Want{c.Ino, c.Chunk, c.Blob, c.Last, c.Blocks}
	b = w.append(b, contentMagic)
	for i := range c.Seals {
		b = record.AppendSeal(b, &c.Seals[i])
	}
	return append(b, c.Data...)
}

// DecodeContent reads what Append wrote. Data shares b.
func DecodeContent(b []byte) (Content, error) {
	if len(b) < contentHeader {
		return Content{}, fmt.Errorf("%w: content of %d bytes", ErrMalformed, len(b))
	}
	w, err := decodeWant(b[:contentHeader], contentMagic)
	if err != nil {
		return Content{}, err
	}
	n := count(w.Blocks)
	rest := b[contentHeader:]
	if len(rest) != n*(record.SealSize+record.BlockSize) {
		return Content{}, fmt.Errorf("%w: content of %d blocks in %d bytes", ErrMalformed, n, len(b))
	}
	c := Content{Ino: w.Ino, Chunk: w.Chunk, Blob: w.Blob, Last: w.Last, Blocks: w.Blocks, Seals: make([]record.Seal, n), Data: rest[n*record.SealSize:]}
	for i := range c.Seals {
		c.Seals[i] = record.DecodeSeal(rest[i*record.SealSize:])
	}
	return c, nil
}
