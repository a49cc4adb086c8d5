package check

import (
	"errors"
	"io"
	"io/fs"
	"sync"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
)

const pageBytes = 4096

type page [pageBytes]byte

// copied is a file whose changed pages are in memory.
type copied struct {
	name string

	mu    sync.Mutex
	base  vfs.File // what it was; nil: it was made here
	size  int64
	pages map[int64]*page
}

func copyOf(f vfs.File, name string) (*copied, error) {
	st, err := f.Stat()
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return &copied{name: name, base: f, size: st.Size(), pages: map[int64]*page{}}, nil
}

func (c *copied) close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.base == nil {
		return nil
	}
	err := c.base.Close()
	c.base = nil
	return err
}

func (c *copied) info() vfs.FileInfo {
	c.mu.Lock()
	defer c.mu.Unlock()
	return info{name: c.name, size: c.size, mode: 0o600}
}

func (c *copied) readAt(b []byte, off int64) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if off >= c.size {
		return 0, io.EOF
	}
	short := int64(len(b)) > c.size-off
	if short {
		b = b[:c.size-off]
	}
	clear(b)
	if c.base != nil {
		if _, err := c.base.ReadAt(b, off); err != nil && !errors.Is(err, io.EOF) {
			return 0, err
		}
	}
	for at := off - off%pageBytes; at < off+int64(len(b)); at += pageBytes {
		p := c.pages[at]
		switch {
		case p == nil:
		case at < off:
			copy(b, p[off-at:])
		default:
			copy(b[at-off:], p[:])
		}
	}
	if short {
		return len(b), io.EOF
	}
	return len(b), nil
}

func (c *copied) writeAt(b []byte, off int64) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for n := 0; n < len(b); {
		at := off + int64(n)
		in := at % pageBytes
		p, err := c.page(at - in)
		if err != nil {
			return n, err
		}
		n += copy(p[in:], b[n:])
	}
	c.size = max(c.size, off+int64(len(b)))
	return len(b), nil
}

// page returns the copy of the page at the given offset. c.mu is held.
func (c *copied) page(at int64) (*page, error) {
	if p := c.pages[at]; p != nil {
		return p, nil
	}
	p := new(page)
	if c.base != nil {
		if _, err := c.base.ReadAt(p[:], at); err != nil && !errors.Is(err, io.EOF) {
			return nil, err
		}
	}
	c.pages[at] = p
	return p, nil
}

// handle is an open copied file.
type handle struct {
	*copied
	mu  sync.Mutex
	pos int64
}

// Close implements vfs.File.
func (h *handle) Close() error { return nil }

// Read implements vfs.File.
func (h *handle) Read(b []byte) (int, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	n, err := h.readAt(b, h.pos)
	h.pos += int64(n)
	if n > 0 {
		err = nil
	}
	return n, err
}

// ReadAt implements vfs.File.
func (h *handle) ReadAt(b []byte, off int64) (int, error) { return h.readAt(b, off) }

// Write implements vfs.File.
func (h *handle) Write(b []byte) (int, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	n, err := h.writeAt(b, h.pos)
	h.pos += int64(n)
	return n, err
}

// WriteAt implements vfs.File.
func (h *handle) WriteAt(b []byte, off int64) (int, error) { return h.writeAt(b, off) }

// Stat implements vfs.File.
func (h *handle) Stat() (vfs.FileInfo, error) { return h.info(), nil }

// Preallocate implements vfs.File.
func (h *handle) Preallocate(int64, int64) error { return nil }

// Sync implements vfs.File.
func (h *handle) Sync() error { return nil }

// SyncTo implements vfs.File.
func (h *handle) SyncTo(int64) (bool, error) { return false, nil }

// SyncData implements vfs.File.
func (h *handle) SyncData() error { return nil }

// Prefetch implements vfs.File.
func (h *handle) Prefetch(int64, int64) error { return nil }

// Fd implements vfs.File.
func (h *handle) Fd() uintptr { return vfs.InvalidFd }

// info describes a file that is in memory.
type info struct {
	name string
	size int64
	mode fs.FileMode
}

func (i info) Name() string           { return i.name }
func (i info) Size() int64            { return i.size }
func (i info) Mode() fs.FileMode      { return i.mode }
func (i info) ModTime() time.Time     { return time.Time{} }
func (i info) IsDir() bool            { return i.mode.IsDir() }
func (i info) Sys() any               { return nil }
func (i info) DeviceID() vfs.DeviceID { return vfs.DeviceID{} }
