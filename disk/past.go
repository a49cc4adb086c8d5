package disk

import (
	"errors"
	"fmt"
	"os"
	"sync"
	"unsafe"

	"github.com/cockroachdb/pebble/v2/vfs"
	"golang.org/x/sys/unix"
)

// alignment of memory, offset and length that every disk takes for a write past the page cache.
const alignment = 4096

// Past writes to an open file past the page cache (O_DIRECT): for large content that nobody reads soon, the copy into the cache and its pages
// cost more than the rest of the write. It promises what WriteAt does, and nothing is durable before a sync of the file. The range must not be
// in use by others meanwhile: a page of it that somebody makes dirty makes the next sync of the file fail. A nil *Past writes nothing.
type Past struct {
	file  *os.File
	spare sync.Pool // of aligned buffers
}

// OpenPast opens it beside f; nil where f has no descriptor, or its file system cannot.
func OpenPast(f File) *Past {
	fd := f.Fd()
	if fd == vfs.InvalidFd {
		return nil
	}
	file, err := os.OpenFile(fmt.Sprintf("/proc/self/fd/%d", fd), os.O_WRONLY|unix.O_DIRECT, 0)
	if err != nil {
		return nil
	}
	return &Past{file: file}
}

// WriteAt writes as much from the beginning of b as can be written past the cache, and returns how much that was: the caller writes the rest as
// usual. An error is one that WriteAt would have had.
func (p *Past) WriteAt(b []byte, off int64) (int, error) {
	n := len(b) / alignment * alignment
	if p == nil || n == 0 || off%alignment != 0 {
		return 0, nil
	}
	if from := b[:n]; aligned(from) {
		b = from
	} else {
		buffer, _ := p.spare.Get().(*[]byte)
		if buffer == nil || len(*buffer) < n {
			made := make([]byte, n+alignment)
			made = made[-uintptr(unsafe.Pointer(&made[0]))%alignment:][:n]
			buffer = &made
		}
		defer p.spare.Put(buffer)
		b = (*buffer)[:copy(*buffer, from)]
	}
	n, err := p.file.WriteAt(b, off)
	if errors.Is(err, unix.EINVAL) { // it must be aligned otherwise
		err = nil
	}
	return n / alignment * alignment, err
}

// Close closes the descriptor; the file stays open.
func (p *Past) Close() error {
	if p == nil {
		return nil
	}
	return p.file.Close()
}

func aligned(b []byte) bool { return uintptr(unsafe.Pointer(&b[0]))%alignment == 0 }
