// Package sealfs seals the files of the metadata store: a vfs.FS whose files are frames of AES-256-GCM, written from start to end
// (FORMAT.md). Whoever has the disk and not the key learns names of files and sizes. A frame that does not open reads as an error, and
// as the end of the file in a MANIFEST, whose unsynced end a power cut may tear.
package sealfs

import (
	"crypto/cipher"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path/filepath"
	"strings"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/remora-storage/remora/cachefs/seal"
)

const (
	headerSize  = 48
	frameHeader = 4
	tagSize     = 16
	// frameBytes of content fill a frame; a sync ends one early. Pebble reads blocks of about that size, at random.
	frameBytes = 4 << 10
	maxFrame   = 16 << 10 // what is accepted; version 1 wrote such frames at first
)

var magic = [8]byte{'R', 'M', 'R', 'F', 'I', 'L', 'E', '1'}

// ErrDamaged: a frame does not open with the volume's key.
var ErrDamaged = errors.New("sealed file is damaged, or of another volume")

// FS seals files on an FS below.
type FS struct {
	vfs.FS
	keys   *seal.Keys
	random io.Reader
}

// New seals what is written through it with the keys of a volume.
func New(below vfs.FS, keys *seal.Keys, random io.Reader) *FS { return &FS{below, keys, random} }

// Unwrap is the FS below.
func (f *FS) Unwrap() vfs.FS { return f.FS }

// Create makes a file and writes its header.
func (f *FS) Create(name string, category vfs.DiskWriteCategory) (vfs.File, error) {
	file, err := f.FS.Create(name, category)
	if err != nil {
		return nil, err
	}
	head := make([]byte, headerSize)
	copy(head, magic[:])
	head[8] = 1 // version
	if _, err := io.ReadFull(f.random, head[16:]); err != nil {
		return nil, errors.Join(fmt.Errorf("draw a salt: %w", err), file.Close())
	}
	aead, err := f.keys.File(head[16:])
	if err == nil {
		_, err = file.Write(head)
	}
	if err != nil {
		return nil, errors.Join(err, file.Close())
	}
	return &writer{File: file, aead: aead}, nil
}

// ReuseForWrite makes a new file: what is sealed is never written over.
func (f *FS) ReuseForWrite(old, name string, category vfs.DiskWriteCategory) (vfs.File, error) {
	if err := f.FS.Remove(old); err != nil {
		return nil, err
	}
	return f.Create(name, category)
}

// OpenReadWrite is refused: files are written from start to end.
func (f *FS) OpenReadWrite(name string, _ vfs.DiskWriteCategory, _ ...vfs.OpenOption) (vfs.File, error) {
	return nil, fmt.Errorf("open %s for reading and writing: a sealed file is written from start to end", name)
}

// Open opens a file for reading.
func (f *FS) Open(name string, opts ...vfs.OpenOption) (vfs.File, error) {
	file, err := f.FS.Open(name, opts...)
	if err != nil {
		return nil, err
	}
	r, err := f.reader(file, name)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("%s: %w", name, err), file.Close())
	}
	return r, nil
}

// Stat tells the size of the content.
func (f *FS) Stat(name string) (vfs.FileInfo, error) {
	info, err := f.FS.Stat(name)
	if err != nil || info.IsDir() {
		return info, err
	}
	file, err := f.Open(name)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	return file.Stat()
}

// frame is where a frame of a file is.
type frame struct {
	at    int64 // of its header, in the file below
	start int64 // of its content
	size  int
}

// reader reads a sealed file. Its methods may be called from several goroutines, as a vfs.File's; Read from one.
type reader struct {
	vfs.File
	aead   cipher.AEAD
	frames []frame
	size   int64
	pos    int64
}

// reader finds the frames of a file; one that is cut off ends it.
func (f *FS) reader(file vfs.File, name string) (*reader, error) {
	info, err := file.Stat()
	if err != nil {
		return nil, err
	}
	head := make([]byte, headerSize)
	if n, err := file.ReadAt(head, 0); n < headerSize {
		if info.Size() == 0 || errors.Is(err, io.EOF) {
			return &reader{File: file}, nil // made, and not written before a power cut
		}
		return nil, err
	}
	if [headerSize]byte(head) == [headerSize]byte{} && strings.HasSuffix(name, ".log") {
		// The store keeps no WAL, but Pebble makes its file, and never syncs it: a power cut may leave the size and not the header.
		return &reader{File: file}, nil
	}
	if [8]byte(head[:8]) != magic || binary.LittleEndian.Uint64(head[8:]) != 1 { // version 1, and zeros
		return nil, fmt.Errorf("%w: header %x", ErrDamaged, head[:16])
	}
	r := &reader{File: file}
	if r.aead, err = f.keys.File(head[16:]); err != nil {
		return nil, err
	}
	if err := r.index(info.Size()); err != nil {
		return nil, err
	}
	if strings.HasPrefix(filepath.Base(name), "MANIFEST") {
		r.cutAtDamage()
	}
	return r, nil
}

func (r *reader) index(size int64) error {
	var b [frameHeader]byte
	for at := int64(headerSize); at+frameHeader+tagSize < size; {
		if _, err := r.File.ReadAt(b[:], at); err != nil {
			return err
		}
		n := int64(binary.LittleEndian.Uint32(b[:]))
		if n == 0 || n > maxFrame || at+frameHeader+n+tagSize > size {
			break
		}
		r.frames = append(r.frames, frame{at: at, start: r.size, size: int(n)})
		r.size += n
		at += frameHeader + n + tagSize
	}
	return nil
}

// cutAtDamage ends the file before its first frame that does not open.
func (r *reader) cutAtDamage() {
	for i := range r.frames {
		if _, err := r.open(i); err != nil {
			r.size, r.frames = r.frames[i].start, r.frames[:i]
			return
		}
	}
}

// open returns the content of a frame.
func (r *reader) open(i int) ([]byte, error) {
	fr := r.frames[i]
	b := make([]byte, frameHeader+fr.size+tagSize)
	if _, err := r.File.ReadAt(b, fr.at); err != nil {
		return nil, err
	}
	nonce := frameNonce(i)
	plain, err := r.aead.Open(b[frameHeader:frameHeader], nonce[:], b[frameHeader:], b[:frameHeader])
	if err != nil {
		return nil, fmt.Errorf("%w: frame %d at %d", ErrDamaged, i, fr.at)
	}
	return plain, nil
}

func frameNonce(i int) (b [12]byte) {
	binary.LittleEndian.PutUint64(b[:], uint64(i))
	return b
}

// ReadAt reads content.
func (r *reader) ReadAt(p []byte, off int64) (int, error) {
	done := 0
	for done < len(p) {
		i := r.find(off + int64(done))
		if i < 0 {
			return done, io.EOF
		}
		plain, err := r.open(i)
		if err != nil {
			return done, err
		}
		done += copy(p[done:], plain[off+int64(done)-r.frames[i].start:])
	}
	return done, nil
}

// find is the frame with the byte at off; -1 behind the end.
func (r *reader) find(off int64) int {
	if off < 0 || off >= r.size {
		return -1
	}
	lo, hi := 0, len(r.frames)-1
	for lo < hi {
		mid := (lo + hi + 1) / 2
		if r.frames[mid].start <= off {
			lo = mid
		} else {
			hi = mid - 1
		}
	}
	return lo
}

func (r *reader) Read(p []byte) (int, error) {
	n, err := r.ReadAt(p, r.pos)
	r.pos += int64(n)
	if n > 0 {
		err = nil
	}
	return n, err
}

// Stat tells the size of the content.
func (r *reader) Stat() (vfs.FileInfo, error) {
	info, err := r.File.Stat()
	return sized{info, r.size}, err
}

// Fd is not given out: what is behind it is sealed.
func (r *reader) Fd() uintptr { return vfs.InvalidFd }

// Prefetch does nothing: offsets of content are not those of the file.
func (r *reader) Prefetch(int64, int64) error { return nil }

// Write is refused.
func (r *reader) Write([]byte) (int, error) { return 0, fs.ErrPermission }

// sized is a FileInfo with another size.
type sized struct {
	vfs.FileInfo
	size int64
}

// Size of the content.
func (s sized) Size() int64 { return s.size }
