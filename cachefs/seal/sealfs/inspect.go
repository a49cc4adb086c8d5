package sealfs

import (
	"encoding/binary"
	"errors"
	"io"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// Sealed tells whether a file on the FS below is a sealed one, by its first bytes.
func Sealed(fs vfs.FS, name string) (bool, error) {
	f, err := fs.Open(name)
	if err != nil {
		return false, err
	}
	defer f.Close()
	var b [8]byte
	_, err = f.ReadAt(b[:], 0)
	if errors.Is(err, io.EOF) {
		return false, nil
	}
	return b == magic, err
}

// maxLost bounds how many frames may be missing before one that Torn still finds.
const maxLost = 64

// Torn looks at a sealed file whose end a power cut may tear. It returns where its last good frame ends, and whether a frame behind that
// opens: then the file was changed after it was written, and is not torn.
func (f *FS) Torn(name string) (end int64, changed bool, err error) {
	file, err := f.FS.Open(name)
	if err != nil {
		return 0, false, err
	}
	defer file.Close()
	r, err := f.reader(file, name) // of a MANIFEST: ends before its first bad frame
	if err != nil {
		return 0, false, err
	}
	info, err := file.Stat()
	if err != nil || r.aead == nil {
		return 0, false, err
	}
	end = headerSize
	if n := len(r.frames); n > 0 {
		end = r.frames[n-1].at + frameHeader + int64(r.frames[n-1].size) + tagSize
	}
	rest := make([]byte, info.Size()-end)
	if _, err := file.ReadAt(rest, end); err != nil && !errors.Is(err, io.EOF) {
		return end, false, err
	}
	return end, r.opensBehind(rest), nil
}

// opensBehind tells whether a later frame than the first missing one starts anywhere in b.
func (r *reader) opensBehind(b []byte) bool {
	for at := 1; at+frameHeader+tagSize < len(b); at++ {
		n := int(binary.LittleEndian.Uint32(b[at:]))
		if n == 0 || n > maxFrame || at+frameHeader+n+tagSize > len(b) {
			continue
		}
		sealed := b[at+frameHeader : at+frameHeader+n+tagSize]
		for i := 1; i <= maxLost; i++ {
			nonce := frameNonce(len(r.frames) + i)
			if _, err := r.aead.Open(nil, nonce[:], sealed, b[at:at+frameHeader]); err == nil {
				return true
			}
		}
	}
	return false
}
