package meta

import (
	"encoding/binary"
	"time"

	"github.com/remora-storage/remora/cachefs/record"
)

// Time is a file time: seconds and nanoseconds since 1970, before which seconds are negative.
type Time struct {
	Sec  int64
	Nsec uint32
}

// TimeOf converts from the standard library.
func TimeOf(t time.Time) Time { return Time{t.Unix(), uint32(t.Nanosecond())} }

// Inode flags; the numbers reach the disk.
const (
	FlagInline     = 1 << 0 // content is in InlineKey, not in chunks
	FlagAccessACL  = 1 << 1 // has the extended attribute XattrAccessACL
	FlagDefaultACL = 1 << 2 // has the extended attribute XattrDefaultACL
	FlagPlain      = 1 << 3 // never had an extended attribute: nobody needs to look for one
)

// Inode is what stat shows, and how the content is kept.
type Inode struct {
	Mode   uint32 // type and permissions, as st_mode
	UID    uint32
	GID    uint32
	Nlink  uint32
	Rdev   uint32
	Flags  uint32
	Size   uint64 // bytes; of a directory: entries
	Blocks uint64 // of 4 KiB that have content
	Parent Ino    // of a directory
	Atime  Time
	Mtime  Time
	Ctime  Time
	Btime  Time
}

const (
	inodeVersion = 1
	inodeSize    = 100
)

// Append encodes in.
func (in *Inode) Append(b []byte) []byte {
	le := binary.LittleEndian
	b = append(b, inodeVersion, 0, 0, 0)
	for _, v := range [...]uint32{in.Mode, in.UID, in.GID, in.Nlink, in.Rdev, in.Flags} {
		b = le.AppendUint32(b, v)
	}
	for _, v := range [...]uint64{in.Size, in.Blocks, uint64(in.Parent)} {
		b = le.AppendUint64(b, v)
	}
	for _, t := range [...]Time{in.Atime, in.Mtime, in.Ctime, in.Btime} {
		b = le.AppendUint64(b, uint64(t.Sec))
		b = le.AppendUint32(b, t.Nsec)
	}
	return b
}

// DecodeInode reads what Append wrote.
func DecodeInode(b []byte) (Inode, error) {
	if len(b) != inodeSize || b[0] != inodeVersion {
		return Inode{}, malformed("inode", b)
	}
	le := binary.LittleEndian
	t := func(off int) Time { return Time{int64(le.Uint64(b[off:])), le.Uint32(b[off+8:])} }
	return Inode{
		Mode: le.Uint32(b[4:]), UID: le.Uint32(b[8:]), GID: le.Uint32(b[12:]), Nlink: le.Uint32(b[16:]),
		Rdev: le.Uint32(b[20:]), Flags: le.Uint32(b[24:]),
		Size: le.Uint64(b[28:]), Blocks: le.Uint64(b[36:]), Parent: Ino(le.Uint64(b[44:])),
		Atime: t(52), Mtime: t(64), Ctime: t(76), Btime: t(88),
	}, nil
}

// Dirent is what a name leads to.
type Dirent struct {
	Ino    Ino
	Type   uint8 // DT_*, st_mode >> 12
	Cookie uint64
}

const direntSize = 17

// Append encodes d.
func (d Dirent) Append(b []byte) []byte {
	b = binary.LittleEndian.AppendUint64(b, uint64(d.Ino))
	b = append(b, d.Type)
	return binary.LittleEndian.AppendUint64(b, d.Cookie)
}

// DecodeDirent reads what Append wrote.
func DecodeDirent(b []byte) (Dirent, error) {
	if len(b) != direntSize {
		return Dirent{}, malformed("directory entry", b)
	}
	return Dirent{Ino(binary.LittleEndian.Uint64(b)), b[8], binary.LittleEndian.Uint64(b[9:])}, nil
}

// CookieEntry is a directory entry in the order in which readdir lists it.
type CookieEntry struct {
	Cookie uint64
	Ino    Ino
	Type   uint8
	Name   string
}

// AppendValue encodes all but the cookie, which is in the key.
func (e CookieEntry) AppendValue(b []byte) []byte {
	b = binary.LittleEndian.AppendUint64(b, uint64(e.Ino))
	b = append(b, e.Type)
	return append(b, e.Name...)
}

// DecodeCookieEntry reads a key of CookieKey and its value.
func DecodeCookieEntry(key, b []byte) (CookieEntry, error) {
	if len(key) != 17 || len(b) < 10 {
		return CookieEntry{}, malformed("cookie entry", b)
	}
	return CookieEntry{binary.BigEndian.Uint64(key[9:]), Ino(binary.LittleEndian.Uint64(b)), b[8], string(b[9:])}, nil
}

// Change names the record that last changed something.
type Change struct {
	Epoch record.Epoch
	Seq   record.Seq
}

// Bitmap has a bit for each block of a chunk.
type Bitmap [record.ChunkBlocks / 64]uint64

// Has tells whether bit i is set.
func (m *Bitmap) Has(i uint32) bool { return m[i/64]&(1<<(i%64)) != 0 }

// Set sets bit i.
func (m *Bitmap) Set(i uint32) { m[i/64] |= 1 << (i % 64) }

// Clear clears bit i.
func (m *Bitmap) Clear(i uint32) { m[i/64] &^= 1 << (i % 64) }

// IsZero tells whether no bit is set.
func (m *Bitmap) IsZero() bool { return *m == Bitmap{} }

// Append encodes m.
func (m *Bitmap) Append(b []byte) []byte {
	for _, w := range m {
		b = binary.LittleEndian.AppendUint64(b, w)
	}
	return b
}

// DecodeBitmap reads the first 32 bytes of b, which must hold them.
func DecodeBitmap(b []byte) (m Bitmap) {
	for i := range m {
		m[i] = binary.LittleEndian.Uint64(b[8*i:])
	}
	return m
}

// Chunk tells which blob holds a chunk, and which of its blocks have content; the others are holes.
type Chunk struct {
	Blob   record.BlobID
	Birth  Change
	Last   Change
	Blocks Bitmap
}

const chunkSize = 8 + 16 + 16 + 32

// Append encodes c.
func (c *Chunk) Append(b []byte) []byte {
	for _, v := range [...]uint64{uint64(c.Blob), uint64(c.Birth.Epoch), uint64(c.Birth.Seq), uint64(c.Last.Epoch), uint64(c.Last.Seq)} {
		b = binary.LittleEndian.AppendUint64(b, v)
	}
	return c.Blocks.Append(b)
}

// DecodeChunk reads what Append wrote.
func DecodeChunk(b []byte) (Chunk, error) {
	if len(b) != chunkSize {
		return Chunk{}, malformed("chunk", b)
	}
	le := binary.LittleEndian
	return Chunk{
		Blob:   record.BlobID(le.Uint64(b)),
		Birth:  Change{record.Epoch(le.Uint64(b[8:])), record.Seq(le.Uint64(b[16:]))},
		Last:   Change{record.Epoch(le.Uint64(b[24:])), record.Seq(le.Uint64(b[32:]))},
		Blocks: DecodeBitmap(b[40:]),
	}, nil
}

// OrphanKind says what is left to do with an inode; the numbers reach the disk.
type OrphanKind uint8

// Orphan kinds.
const (
	OrphanUnlinked  OrphanKind = 1 // no name left: remove it when nobody has it open
	OrphanTruncated OrphanKind = 2 // chunks behind the end of the file are still to be freed
)

// Counters are the volume's: what is given out next, and how much there is.
type Counters struct {
	NextIno    uint64
	NextBlob   uint64
	NextCookie uint64
	Used       uint64 // bytes of blocks and of inline content
	Inodes     uint64
}

const countersSize = 40

// Append encodes c.
func (c *Counters) Append(b []byte) []byte {
	for _, v := range [...]uint64{c.NextIno, c.NextBlob, c.NextCookie, c.Used, c.Inodes} {
		b = binary.LittleEndian.AppendUint64(b, v)
	}
	return b
}

// DecodeCounters reads what Append wrote.
func DecodeCounters(b []byte) (Counters, error) {
	if len(b) != countersSize {
		return Counters{}, malformed("counters", b)
	}
	le := binary.LittleEndian
	return Counters{le.Uint64(b), le.Uint64(b[8:]), le.Uint64(b[16:]), le.Uint64(b[24:]), le.Uint64(b[32:])}, nil
}
