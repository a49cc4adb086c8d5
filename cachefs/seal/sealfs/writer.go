package sealfs

import (
	"crypto/cipher"
	"encoding/binary"
	"io/fs"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// writer collects content into frames. Calls come one at a time, as for a vfs.File's Write and Sync.
type writer struct {
	vfs.File
	aead   cipher.AEAD
	frames int
	size   int64
	buf    []byte // content of the next frame
	out    []byte
}

func (w *writer) Write(p []byte) (int, error) {
	n := len(p)
	for len(p) > 0 {
		k := min(len(p), frameBytes-len(w.buf))
		w.buf, p = append(w.buf, p[:k]...), p[k:]
		if len(w.buf) == frameBytes {
			if err := w.flush(); err != nil {
				return 0, err
			}
		}
	}
	w.size += int64(n)
	return n, nil
}

// flush writes the next frame, if there is anything to write.
func (w *writer) flush() error {
	if len(w.buf) == 0 {
		return nil
	}
	w.out = binary.LittleEndian.AppendUint32(w.out[:0], uint32(len(w.buf)))
	nonce := frameNonce(w.frames)
	w.out = w.aead.Seal(w.out, nonce[:], w.buf, w.out[:frameHeader:frameHeader])
	w.frames++
	w.buf = w.buf[:0]
	_, err := w.File.Write(w.out)
	return err
}

func (w *writer) Sync() error {
	if err := w.flush(); err != nil {
		return err
	}
	return w.File.Sync()
}

func (w *writer) SyncData() error {
	if err := w.flush(); err != nil {
		return err
	}
	return w.File.SyncData()
}

// SyncTo does nothing: it is a hint.
func (w *writer) SyncTo(int64) (bool, error) { return false, nil }

func (w *writer) Close() error {
	err := w.flush()
	if closeErr := w.File.Close(); err == nil {
		err = closeErr
	}
	return err
}

// Stat tells the size of the content.
func (w *writer) Stat() (vfs.FileInfo, error) {
	info, err := w.File.Stat()
	return sized{info, w.size}, err
}

// Fd is not given out: what is behind it is sealed.
func (w *writer) Fd() uintptr { return vfs.InvalidFd }

// Preallocate does nothing: it is a hint.
func (w *writer) Preallocate(int64, int64) error { return nil }

// ReadAt is refused: a file is read when it is written.
func (w *writer) ReadAt([]byte, int64) (int, error) { return 0, fs.ErrPermission }

// WriteAt is refused: files are written from start to end.
func (w *writer) WriteAt([]byte, int64) (int, error) { return 0, fs.ErrPermission }
