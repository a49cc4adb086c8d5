// Package holdertest is the smallest sidecar that a test of a holder needs: it answers INIT and shows an empty root directory.
package holdertest

import (
	"encoding/binary"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/remora-storage/remora/sidecar/session/holder"
)

// Operations, from the kernel's include/uapi/linux/fuse.h.
const (
	opForget      = 2
	opGetattr     = 3
	opReleasedir  = 29
	opInit        = 26
	opOpendir     = 27
	opReaddir     = 28
	opInterrupt   = 36
	opBatchForget = 42
)

const headerOut = 16

// Start brings a client to the point where it serves: on a Fresh mount it answers INIT, on a Ready one it asks the kernel to
// send again what a predecessor had read but not answered.
func Start(c *holder.Client) error {
	if c.State == holder.Ready {
		if err := c.Ready(); err != nil {
			return err
		}
		_, err := unix.Write(c.FD, notifyResend())
		return err
	}
	buf, err := buffer()
	if err != nil {
		return err
	}
	defer unix.Munmap(buf)
	n, err := unix.Read(c.FD, buf)
	if err != nil {
		return fmt.Errorf("read INIT: %w", err)
	}
	if op := binary.LittleEndian.Uint32(buf[4:]); op != opInit {
		return fmt.Errorf("first request is %d, want INIT", op)
	}
	reply := respond(buf[:n], 0, initOut())
	if err := c.StoreInit(buf[:n:n], reply); err != nil {
		return err
	}
	if _, err := unix.Write(c.FD, reply); err != nil {
		return fmt.Errorf("answer INIT: %w", err)
	}
	return c.Ready()
}

// Serve answers requests until the mount is gone.
func Serve(c *holder.Client) error {
	buf, err := buffer()
	if err != nil {
		return err
	}
	for {
		n, err := unix.Read(c.FD, buf)
		switch {
		case errors.Is(err, unix.ENODEV):
			return nil
		case errors.Is(err, unix.EINTR), errors.Is(err, unix.ENOENT):
			continue
		case err != nil:
			return err
		}
		out := answer(buf[:n])
		if out == nil {
			continue
		}
		if _, err := unix.Write(c.FD, out); err != nil && !errors.Is(err, unix.ENOENT) {
			return err
		}
	}
}

// buffer is for one request. Its pages are there from the start: when a sidecar is killed while the kernel copies a request to
// a page that must be faulted in first, the copy fails and the program gets EIO.
func buffer() ([]byte, error) {
	return unix.Mmap(-1, 0, 1<<20+4096, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS|unix.MAP_POPULATE)
}

func answer(in []byte) []byte {
	switch binary.LittleEndian.Uint32(in[4:]) {
	case opForget, opBatchForget, opInterrupt:
		return nil
	case opGetattr:
		return respond(in, 0, rootAttr())
	case opOpendir:
		return respond(in, 0, make([]byte, 16))
	case opReaddir, opReleasedir:
		return respond(in, 0, nil)
	default:
		return respond(in, -int32(unix.ENOSYS), nil)
	}
}

// respond builds struct fuse_out_header and a body.
func respond(in []byte, errno int32, body []byte) []byte {
	out := make([]byte, headerOut, headerOut+len(body))
	binary.LittleEndian.PutUint32(out, uint32(headerOut+len(body)))
	binary.LittleEndian.PutUint32(out[4:], uint32(errno))
	copy(out[8:], in[8:16]) // unique
	return append(out, body...)
}

// notifyResend is a fuse_out_header with unique 0 and the code FUSE_NOTIFY_RESEND (Linux 6.9).
func notifyResend() []byte {
	b := make([]byte, headerOut)
	binary.LittleEndian.PutUint32(b, headerOut)
	binary.LittleEndian.PutUint32(b[4:], 7)
	return b
}

// initOut is struct fuse_init_out, version 7.31, without any flag.
func initOut() []byte {
	b := make([]byte, 64)
	binary.LittleEndian.PutUint32(b, 7)
	binary.LittleEndian.PutUint32(b[4:], 31)
	binary.LittleEndian.PutUint32(b[20:], 1<<20) // max_write
	binary.LittleEndian.PutUint32(b[24:], 1)     // time_gran
	return b
}

// rootAttr is struct fuse_attr_out of an empty directory, not to be cached.
func rootAttr() []byte {
	b := make([]byte, 104)
	binary.LittleEndian.PutUint64(b[16:], 1)                     // ino
	binary.LittleEndian.PutUint32(b[16+60:], unix.S_IFDIR|0o755) // mode
	binary.LittleEndian.PutUint32(b[16+64:], 2)                  // nlink
	return b
}
