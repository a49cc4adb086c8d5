package meta

import (
	"encoding/binary"
	"fmt"
)

// KeyKind is what a key is of. The numbers do not reach the disk.
type KeyKind uint8

// Kinds of keys.
const (
	KeyInode KeyKind = iota + 1
	KeyInline
	KeyDirent
	KeyCookie
	KeyChunk
	KeyOrphan
	KeyXattr
	KeyCounters
	KeySalt
)

// Key is a replicated key, taken apart.
type Key struct {
	Kind   KeyKind
	Ino    Ino    // whose key it is; of a dirent or cookie the directory
	Number uint64 // of a chunk, a cookie, an incarnation
	Name   string // of a dirent or an extended attribute
}

// ParseKey takes a key apart that one of the functions of this package made, and refuses all others.
func ParseKey(b []byte) (Key, error) {
	k := Key{}
	if len(b) == 0 {
		return k, fmt.Errorf("%w: empty key", ErrMalformed)
	}
	want := 9
	switch b[0] {
	case prefixInode:
		want = 10
	case prefixCookie, prefixChunk:
		want = 17
	case prefixSystem:
		want = 2
	case prefixSalt:
		want = 5
	case prefixDirent, prefixXattr:
		want = max(len(b), 10)
	case prefixOrphan:
	default:
		return k, fmt.Errorf("%w: key with unknown prefix %#x", ErrMalformed, b[0])
	}
	if len(b) != want {
		return k, fmt.Errorf("%w: key %s of %d bytes", ErrMalformed, Describe(b), len(b))
	}
	if want >= 9 {
		k.Ino = Ino(binary.BigEndian.Uint64(b[1:]))
	}
	return k.rest(b)
}

// rest reads what is behind the inode number of a key that has the right length.
func (k Key) rest(b []byte) (Key, error) {
	switch b[0] {
	case prefixInode:
		k.Kind = KeyInode + KeyKind(b[9])
		if b[9] > 1 {
			return k, fmt.Errorf("%w: inode key with suffix %d", ErrMalformed, b[9])
		}
	case prefixDirent:
		k.Kind, k.Name = KeyDirent, string(b[9:])
	case prefixCookie:
		k.Kind, k.Number = KeyCookie, binary.BigEndian.Uint64(b[9:])
	case prefixChunk:
		k.Kind, k.Number = KeyChunk, binary.BigEndian.Uint64(b[9:])
	case prefixOrphan:
		k.Kind = KeyOrphan
	case prefixXattr:
		k.Kind, k.Name = KeyXattr, string(b[9:])
	case prefixSystem:
		k.Kind = KeyCounters
		if b[1] != 0 {
			return k, fmt.Errorf("%w: system key %d", ErrMalformed, b[1])
		}
	case prefixSalt:
		k.Kind, k.Number = KeySalt, uint64(binary.BigEndian.Uint32(b[1:]))
	}
	return k, nil
}
