package transport

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
)

// headerBytes of a frame; FORMAT.md is the layout.
const headerBytes = 48

const frameMagic = 0x46544D52 // "RMTF"

// Kinds from firstOwnKind on are the transport's. Numbers are never used again.
const (
	firstOwnKind uint8 = 240

	kindFailed uint8 = 249 // bulk: the end of an answer that failed: code u32, text
	kindEnd    uint8 = 250 // bulk: the end of an answer: bytes u64, CRC of them u32, reserved u32
	kindData   uint8 = 251 // bulk: a part of an answer; an empty one is a sign of life
	kindBye    uint8 = 252 // the reason for which the sender of it closes: text
	kindPong   uint8 = 253
	kindPing   uint8 = 254
	kindHello  uint8 = 255 // what an accepted connection begins with: both ends know and accept each other
)

const maxText = 1024 // of kindBye and kindFailed

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// garbage is why bytes are no frame. The connection cannot go on.
type garbage struct {
	reason string // of the counter: one of a few
	text   string
}

func (g *garbage) Error() string { return g.text }

var (
	errMagic     = &garbage{"magic", "these bytes are no frame of Remora: something else talks to this port, or a peer of another version"}
	errHeaderCRC = &garbage{"header_checksum", "the header's checksum is wrong"}
	errReserved  = &garbage{"reserved", "reserved bytes are not zero: the peer is of a newer version"}
	errBodyCRC   = &garbage{"body_checksum", "the body's checksum is wrong"}
	errTruncated = &garbage{"truncated", "the connection ended inside a frame"}
	errKind      = &garbage{"kind", "a frame of this kind is not expected here"}
)

// appendHeader appends the header of a frame with such a body.
func appendHeader(dst []byte, h Header, bodyBytes int, bodyCRC uint32) []byte {
	le := binary.LittleEndian
	at := len(dst)
	dst = le.AppendUint32(dst, frameMagic)
	dst = le.AppendUint32(dst, 0)
	dst = append(dst, h.Kind, 0, 0, 0)
	dst = le.AppendUint32(dst, uint32(bodyBytes))
	dst = le.AppendUint64(dst, h.Group)
	dst = le.AppendUint64(dst, h.From)
	dst = le.AppendUint64(dst, h.To)
	dst = le.AppendUint32(dst, bodyCRC)
	dst = le.AppendUint32(dst, 0)
	le.PutUint32(dst[at+4:], crc32.Checksum(dst[at+8:], castagnoli))
	return dst
}

// appendFrame appends a frame whose body is the parts.
func appendFrame(dst []byte, h Header, parts ...[]byte) []byte {
	size, crc := 0, uint32(0)
	for _, p := range parts {
		size += len(p)
		crc = crc32.Update(crc, castagnoli, p)
	}
	dst = appendHeader(dst, h, size, crc)
	for _, p := range parts {
		dst = append(dst, p...)
	}
	return dst
}

// decodeHeader reads a header; the body may be as long as maxBody.
func decodeHeader(b []byte, maxBody int) (h Header, bodyBytes int, bodyCRC uint32, err error) {
	le := binary.LittleEndian
	if le.Uint32(b) != frameMagic {
		return Header{}, 0, 0, errMagic
	}
	if le.Uint32(b[4:]) != crc32.Checksum(b[8:headerBytes], castagnoli) {
		return Header{}, 0, 0, errHeaderCRC
	}
	if b[9]|b[10]|b[11] != 0 || le.Uint32(b[44:]) != 0 {
		return Header{}, 0, 0, errReserved
	}
	if b[8] == 0 {
		return Header{}, 0, 0, errKind
	}
	if n := le.Uint32(b[12:]); uint64(n) > uint64(maxBody) {
		return Header{}, 0, 0, &garbage{"too_long", fmt.Sprintf("a frame of %d bytes; allowed: %d", n, maxBody)}
	}
	h = Header{Kind: b[8], Group: le.Uint64(b[16:]), From: le.Uint64(b[24:]), To: le.Uint64(b[32:])}
	return h, int(le.Uint32(b[12:])), le.Uint32(b[40:]), nil
}

// frameReader reads frames: a header, and when the caller has looked at it, the body.
type frameReader struct {
	r       io.Reader
	maxBody int
	header  [headerBytes]byte
	left    int // of the body
	crc     uint32
}

// next reads a header. io.EOF is the end between two frames.
func (r *frameReader) next() (Header, error) {
	n, err := io.ReadFull(r.r, r.header[:])
	if errors.Is(err, io.EOF) && n == 0 {
		return Header{}, io.EOF
	}
	if err != nil {
		return Header{}, truncated(err)
	}
	var h Header
	h, r.left, r.crc, err = decodeHeader(r.header[:], r.maxBody)
	return h, err
}

// body reads the body into buf if it has room, or into memory of its own.
func (r *frameReader) body(buf []byte) ([]byte, error) {
	if r.left == 0 && r.crc == 0 {
		return buf[:0], nil
	}
	if cap(buf) < r.left {
		buf = room(r.left)
	}
	buf = buf[:r.left]
	if _, err := io.ReadFull(r.r, buf); err != nil {
		return nil, truncated(err)
	}
	if crc32.Checksum(buf, castagnoli) != r.crc {
		return nil, errBodyCRC
	}
	return buf, nil
}

// page is what Go aligns large memory to, at least.
const page = 4 << 10

// room is memory for n bytes. Where they are many, it ends with a page: whole blocks at the end of a frame are aligned then, as a disk needs
// them that is written past the page cache.
func room(n int) []byte {
	if n < chunkBytes {
		return make([]byte, n)
	}
	whole := (n + page - 1) / page * page
	return make([]byte, whole)[whole-n:]
}

// text reads a body that is text for people, of a peer that may write anything.
func (r *frameReader) text() (string, error) {
	if r.left > maxText {
		return "", &garbage{"too_long", fmt.Sprintf("a message of %d bytes; allowed: %d", r.left, maxText)}
	}
	b, err := r.body(nil)
	return printable(b), err
}

// truncated is what an end of the connection is inside a frame.
func truncated(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return errTruncated
	}
	return err
}

// printable is text without control characters, for logs.
func printable(b []byte) string {
	runes := []rune(string(b))
	for i, r := range runes {
		if r < ' ' || r == 0x7f {
			runes[i] = ' '
		}
	}
	return string(runes)
}

// clip is a text that fits kindBye and kindFailed.
func clip(text string) string { return text[:min(len(text), maxText-8)] }
