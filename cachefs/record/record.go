// Package record defines the unit of a volume's history: one change of a file system, with its name (epoch, incarnation, seq),
// as a value and as bytes. The byte format is in FORMAT.md and is held by golden files.
//
// The package promises that Decode accepts exactly what Encode wrote, that it never panics or allocates more than its input
// justifies, and that Acceptance is the one rule that decides which records count. It does not seal, store or send anything.
package record

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
)

// Sizes that reach the disk.
const (
	BlockSize   = 4096
	ChunkSize   = 1 << 20
	ChunkBlocks = ChunkSize / BlockSize
	SealSize    = 48
	headerSize  = 96
	mutHeader   = 8
	opHeader    = 16
	MaxSize     = ChunkSize + 512<<10 // of one encoded record
	version     = 1
)

var magic = [4]byte{'R', 'M', 'R', 'R'}

// Epoch counts the owners of a volume; 0 is no owner.
type Epoch uint64

// Incarnation counts the starts of owner processes of a volume and names the subkey that seals with it.
type Incarnation uint32

// Seq counts the records of an epoch from 1; 0 is the Owner record that opens it.
type Seq uint64

// Index is a position in the volume's log; 0 is before the first.
type Index uint64

// BlobID names the stored content of a chunk. Never reused.
type BlobID uint64

// Name identifies a record. A name is given once.
type Name struct {
	Epoch       Epoch
	Incarnation Incarnation
	Seq         Seq
}

func (n Name) String() string { return fmt.Sprintf("%d/%d/%d", n.Epoch, n.Incarnation, n.Seq) }

// Kind of a record.
type Kind uint8

// Kinds; the numbers reach the disk.
const (
	Change Kind = 1 // mutations and block operations
	Owner  Kind = 2 // opens an epoch; its mutations record the incarnation's salt
)

// Header is the fixed part of a record.
type Header struct {
	Kind    Kind
	Name    Name
	Session uint64 // FUSE session that asked for the change; 0 for the owner's own
	Unique  uint64 // the request, without bit 63; 0 for the owner's own
	Time    int64  // the owner's clock, unix ns: information only, apply never uses it
	SealN   uint16 // n of the nonce with which the record is sealed
}

// Mutation is one change of a key in the replicated state.
type Mutation struct {
	Key    []byte
	Value  []byte
	Delete bool
}

// OpKind is the kind of a block operation.
type OpKind uint8

// Block operations; the numbers reach the disk.
const (
	WriteBlocks OpKind = 1 // len(Seals) blocks from First, contents in Data
	PunchBlocks OpKind = 2 // Count blocks from First become holes
	FreeBlob    OpKind = 3 // the blob is gone
)

// BlockOp changes the content of one blob.
type BlockOp struct {
	Kind  OpKind
	Blob  BlobID
	First uint32 // block in the chunk
	Count uint32
	Seals []Seal // WriteBlocks: one a block
	Data  []byte // WriteBlocks: Count * BlockSize, as stored; nil where it is in the arena alone (DecodePlaced)
	// Fresh, of WriteBlocks: nothing was ever written to these blocks of the blob, by any record. Not encoded.
	Fresh bool
}

// Sealer seals and opens the part of a record behind its header (package seal). A nil one is for volumes without a key.
type Sealer interface {
	// Record seals body in place; the header is authenticated with it.
	Record(n Name, sealN uint16, header, body []byte) (tag [16]byte, err error)
	// OpenRecord appends the opened body to dst, which does not overlap the others.
	OpenRecord(dst []byte, n Name, sealN uint16, header, body, tag []byte) ([]byte, error)
}

// Record is one change. Slices are shared, not copied: a record is immutable once it was appended.
type Record struct {
	Header
	Answered []uint64 // requests whose answers were written to the kernel: they need no table entry any more
	Answer   []byte   // first answer of Unique, given again if the request is re-sent
	Muts     []Mutation
	Ops      []BlockOp
}

// DataBytes is the number of content bytes that the record carries.
func (r *Record) DataBytes() int {
	n := 0
	for i := range r.Ops {
		n += len(r.Ops[i].Data)
	}
	return n
}

// Seal is what the metadata remembers of one stored block: enough to check it, to open it, and to tell where it was born.
// Until sealing is switched on only CRC and the name of the write are set.
type Seal struct {
	Incarnation Incarnation
	Seq         Seq    // 48 bits on disk
	N           uint16 // which of the record's sealed units; with Incarnation and Seq the nonce
	Tag         [16]byte
	CRC         uint32 // CRC32C of the stored bytes
	Origin      BlobID // blob for which the block was sealed; copies keep it
	Block       uint32 // block number there
	Flags       uint32
}

// Sealed is the flag of a seal whose block is AES-256-GCM ciphertext with the seal's tag.
const Sealed = 1

// IsZero tells a block that was never written (a hole).
func (s *Seal) IsZero() bool { return s.Origin == 0 }

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// Checksum is the CRC32C of stored bytes.
func Checksum(b []byte) uint32 { return crc32.Checksum(b, castagnoli) }

// AppendSeal encodes s in SealSize bytes.
func AppendSeal(b []byte, s *Seal) []byte {
	le := binary.LittleEndian
	b = le.AppendUint32(b, uint32(s.Incarnation))
	b = append(b, byte(s.Seq), byte(s.Seq>>8), byte(s.Seq>>16), byte(s.Seq>>24), byte(s.Seq>>32), byte(s.Seq>>40))
	b = le.AppendUint16(b, s.N)
	b = append(b, s.Tag[:]...)
	b = le.AppendUint32(b, s.CRC)
	b = le.AppendUint64(b, uint64(s.Origin))
	b = le.AppendUint32(b, s.Block)
	return le.AppendUint32(b, s.Flags)
}

// DecodeSeal reads the first SealSize bytes of b, which must hold them.
func DecodeSeal(b []byte) Seal {
	le := binary.LittleEndian
	s := Seal{
		Incarnation: Incarnation(le.Uint32(b)),
		Seq:         Seq(uint64(le.Uint32(b[4:])) | uint64(le.Uint16(b[8:]))<<32),
		N:           le.Uint16(b[10:]),
		CRC:         le.Uint32(b[28:]),
		Origin:      BlobID(le.Uint64(b[32:])),
		Block:       le.Uint32(b[40:]),
		Flags:       le.Uint32(b[44:]),
	}
	copy(s.Tag[:], b[12:28])
	return s
}

// ErrMalformed is the cause of every error of Decode.
var ErrMalformed = errors.New("malformed record")

func malformed(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrMalformed, fmt.Sprintf(format, args...))
}
