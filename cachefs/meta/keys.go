// Package meta defines the keys and values of a volume's replicated metadata (FORMAT.md, golden files). Keys sort so that
// everything of one inode, and everything of one directory, is one scan. Keys from 0xf0 on belong to a replica (package store).
package meta

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/remora-storage/remora/cachefs/record"
)

// Ino is an inode number. Never reused; 1 is the root.
type Ino uint64

// Root is the inode of the volume's root directory.
const Root Ino = 1

// Key prefixes; the numbers reach the disk and are never reused.
const (
	prefixInode  = 0x01 // ino, 0: Inode; ino, 1: inline content or symlink target
	prefixDirent = 0x02 // parent, name: Dirent
	prefixCookie = 0x03 // parent, cookie: CookieEntry
	prefixChunk  = 0x04 // ino, chunk: Chunk
	prefixOrphan = 0x06 // ino: OrphanKind
	prefixXattr  = 0x07 // ino, name: value
	prefixSystem = 0x08 // 0: Counters
	prefixSalt   = 0x09 // incarnation: epoch, salt
	// LocalPrefix starts the keys that are a replica's own and never in a record.
	LocalPrefix = 0xf0
)

func inoKey(prefix byte, ino Ino, extra int) []byte {
	b := make([]byte, 9, 9+extra)
	b[0] = prefix
	binary.BigEndian.PutUint64(b[1:], uint64(ino))
	return b
}

// InodeKey is the key of the inode itself.
func InodeKey(ino Ino) []byte { return AppendInodeKey(make([]byte, 0, InodeKeySize), ino) }

// InodeKeySize is the length of an InodeKey.
const InodeKeySize = 10

// AppendInodeKey appends it to b.
func AppendInodeKey(b []byte, ino Ino) []byte {
	return append(binary.BigEndian.AppendUint64(append(b, prefixInode), uint64(ino)), 0)
}

// InlineKey is the key of a small file's content and of a symlink's target: it sorts behind its inode.
func InlineKey(ino Ino) []byte { return append(inoKey(prefixInode, ino, 1), 1) }

// DirentKey is the key of a name in a directory.
func DirentKey(parent Ino, name string) []byte {
	return append(inoKey(prefixDirent, parent, len(name)), name...)
}

// CookieKey is the key by which readdir finds its place again.
func CookieKey(parent Ino, cookie uint64) []byte {
	return binary.BigEndian.AppendUint64(inoKey(prefixCookie, parent, 8), cookie)
}

// ChunkKey is the key of a chunk of a file.
func ChunkKey(ino Ino, chunk uint64) []byte {
	return AppendChunkKey(make([]byte, 0, ChunkKeySize), ino, chunk)
}

// ChunkKeySize is the length of a ChunkKey.
const ChunkKeySize = 17

// AppendChunkKey appends it to b.
func AppendChunkKey(b []byte, ino Ino, chunk uint64) []byte {
	b = binary.BigEndian.AppendUint64(append(b, prefixChunk), uint64(ino))
	return binary.BigEndian.AppendUint64(b, chunk)
}

// ChunkRange spans the chunks of all files.
func ChunkRange() (lower, upper []byte) { return []byte{prefixChunk}, []byte{prefixChunk + 1} }

// ChunkIndex is the chunk number in a chunk's key.
func ChunkIndex(key []byte) uint64 { return binary.BigEndian.Uint64(key[9:]) }

// OrphanKey marks an inode whose removal or truncation is not finished.
func OrphanKey(ino Ino) []byte { return inoKey(prefixOrphan, ino, 0) }

// OrphanRange spans all orphans.
func OrphanRange() (lower, upper []byte) { return []byte{prefixOrphan}, []byte{prefixOrphan + 1} }

// OrphanIno is the inode in an orphan's key.
func OrphanIno(key []byte) Ino { return Ino(binary.BigEndian.Uint64(key[1:])) }

// XattrKey is the key of an extended attribute.
func XattrKey(ino Ino, name string) []byte {
	return append(inoKey(prefixXattr, ino, len(name)), name...)
}

// XattrRange spans the extended attributes of an inode.
func XattrRange(ino Ino) (lower, upper []byte) {
	return inoKey(prefixXattr, ino, 0), inoKey(prefixXattr, ino+1, 0)
}

// XattrName is the attribute's name in its key.
func XattrName(key []byte) string { return string(key[9:]) }

// CountersKey is the key of the volume's counters.
func CountersKey() []byte { return []byte{prefixSystem, 0} }

// SaltKey is the key of what an incarnation seals with.
func SaltKey(incarnation uint32) []byte {
	return binary.BigEndian.AppendUint32([]byte{prefixSalt}, incarnation)
}

// ErrMalformed is the cause of every error of the decoders.
var ErrMalformed = errors.New("malformed metadata")

func malformed(what string, b []byte) error {
	return fmt.Errorf("%w: %s of %d bytes", ErrMalformed, what, len(b))
}

// Describe prints a key for `remora dump`, without the names that users gave.
func Describe(key []byte) string {
	names := map[byte]string{prefixInode: "inode", prefixDirent: "dirent", prefixCookie: "cookie", prefixChunk: "chunk",
		prefixOrphan: "orphan", prefixXattr: "xattr", prefixSystem: "counters", prefixSalt: "salt"}
	if len(key) == 0 {
		return "empty"
	}
	name, ok := names[key[0]]
	if !ok || len(key) < 9 {
		return fmt.Sprintf("%s(%x)", name, key)
	}
	ino := binary.BigEndian.Uint64(key[1:])
	switch key[0] {
	case prefixCookie, prefixChunk:
		if len(key) == 17 {
			return fmt.Sprintf("%s(%d, %d)", name, ino, binary.BigEndian.Uint64(key[9:]))
		}
	case prefixInode:
		if len(key) == 10 && key[9] == 1 {
			return fmt.Sprintf("inline(%d)", ino)
		}
	}
	return fmt.Sprintf("%s(%d)", name, ino)
}

// PutEpoch writes the epoch at the start of a salt's value.
func PutEpoch(b []byte, epoch record.Epoch) { binary.LittleEndian.PutUint64(b, uint64(epoch)) }

// SaltEpoch reads the epoch at the start of a salt's value.
func SaltEpoch(b []byte) (record.Epoch, error) {
	if len(b) < 8 {
		return 0, malformed("salt", b)
	}
	return record.Epoch(binary.LittleEndian.Uint64(b)), nil
}
