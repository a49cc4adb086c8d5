package session

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// newBuffer makes a buffer for one request or reply whose pages are all there. The kernel copies requests into it and replies out
// of it: if it had to fault a page in while this process is being killed, it would give the request up, and the application would see
// EIO instead of a pause (tried: 1 in some hundred kills with a buffer of the heap, none in 2,000 with this).
func newBuffer() ([]byte, error) {
	b, err := unix.Mmap(-1, 0, maxRequest+4096, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS|unix.MAP_POPULATE)
	if err != nil {
		return nil, fmt.Errorf("buffer for requests: %w", err)
	}
	return b, nil
}

func freeBuffer(b []byte) { _ = unix.Munmap(b) } // fails only for what Mmap did not give
