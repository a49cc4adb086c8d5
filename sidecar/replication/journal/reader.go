package journal

import (
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/cockroachdb/pebble/v2/vfs"
)

const windowBytes = 256 << 10

// reader reads one file at a time through a window, so that a segment is never in memory as a whole.
type reader struct {
	f      vfs.File
	name   string
	window int
	buf    []byte // what the file holds from off on
	off    int64
}

func (r *reader) open(o *Options, name string, window int) error {
	f, err := o.FS.Open(o.path(name))
	if err != nil {
		return fmt.Errorf("journal: open %s: %w", name, err)
	}
	r.use(f, name, min(window, int(o.SegmentBytes)))
	return nil
}

func (r *reader) use(f vfs.File, name string, window int) {
	r.f, r.name, r.window, r.buf, r.off = f, name, window, r.buf[:0], 0
}

// close closes the file; the window stays for the next one. The file was only read, so the error means nothing.
func (r *reader) close() { _ = r.f.Close() }

// bytes returns n bytes at off, fewer where the file ends. They are valid until the next call.
func (r *reader) bytes(off int64, n int) ([]byte, error) {
	if off < r.off || off+int64(n) > r.off+int64(len(r.buf)) {
		size := max(n, r.window)
		r.buf = slices.Grow(r.buf[:0], size)[:size]
		r.off = off
		got, err := r.f.ReadAt(r.buf, off)
		if err != nil && !errors.Is(err, io.EOF) {
			r.buf = r.buf[:0]
			return nil, fmt.Errorf("journal: read %s at %d: %w", r.name, off, err)
		}
		r.buf = r.buf[:got]
	}
	b := r.buf[off-r.off:]
	return b[:min(n, len(b))], nil
}
