package floor

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"syscall"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// The numbers of sidecar/session.
const (
	maxRequest   = 1 << 20
	maxWorkers   = 8
	outHeader    = 16
	opInterrupt  = 36
	capabilities = fuse.CAP_HANDLE_KILLPRIV_V2 | fuse.CAP_HAS_RESEND | fuse.CAP_NO_OPENDIR_SUPPORT | fuse.CAP_DIRECT_IO_ALLOW_MMAP
)

// server is the read loop of sidecar/session without what makes it survive.
type server struct {
	fd   int
	fs   *fileSystem
	opts fuse.MountOptions
	init []byte

	waiting, workers atomic.Int32
	once             sync.Once
	ended            chan error
}

// Serve mounts an empty file system of memory at dir, with its journal in a new file of that size (in whole MiB, and more than what
// is written between two syncs), and calls ready. It ends with the context, or when somebody unmounts.
func Serve(ctx context.Context, dir, journalFile string, size int64, ready func()) (err error) {
	j, err := openJournal(journalFile, size)
	if err != nil {
		return fmt.Errorf("journal: %w", err)
	}
	fd, err := unix.Open("/dev/fuse", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open /dev/fuse: %w", err)
	}
	options := fmt.Sprintf("fd=%d,rootmode=40000,user_id=0,group_id=0,default_permissions,max_read=%d,allow_other", fd, maxRequest)
	if err := unix.Mount("floor", dir, "fuse.floor", unix.MS_NODEV, options); err != nil {
		return fmt.Errorf("mount %s: %w", dir, err)
	}
	defer func() { err = errors.Join(err, unmount(dir)) }()
	s := &server{fd: fd, fs: newFileSystem(j), ended: make(chan error, 1)}
	s.opts = fuse.MountOptions{
		MaxWrite: maxRequest, MaxReadAhead: maxRequest, MaxBackground: 64, ExplicitDataCacheControl: true,
		ExtraCapabilities: capabilities, EnableSymlinkCaching: true,
	}
	if err := s.negotiate(); err != nil {
		return err
	}
	ready()
	select {
	case <-ctx.Done():
		return nil
	case err := <-s.ended:
		return err
	}
}

// unmount is fine with a mount that is gone.
func unmount(dir string) error {
	if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil && !errors.Is(err, unix.EINVAL) {
		return fmt.Errorf("unmount %s: %w", dir, err)
	}
	return nil
}

func (s *server) negotiate() error {
	buf, err := newBuffer()
	if err != nil {
		return err
	}
	n, err := s.read(buf)
	if err != nil {
		return fmt.Errorf("read INIT: %w", err)
	}
	s.init = buf[:n]
	w, reply, err := s.newWorker()
	if err != nil {
		return err
	}
	if _, err := syscall.Write(s.fd, reply); err != nil {
		return fmt.Errorf("answer INIT: %w", err)
	}
	s.workers.Add(1)
	s.waiting.Add(1)
	go w.loop()
	s.spawn()
	return nil
}

type worker struct {
	s        *server
	protocol *fuse.ProtocolServer
	in, out  []byte
}

func newBuffer() ([]byte, error) {
	return unix.Mmap(-1, 0, maxRequest+4096, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS|unix.MAP_POPULATE)
}

func (s *server) newWorker() (w *worker, reply []byte, err error) {
	w = &worker{s: s, protocol: fuse.NewProtocolServer(s.fs, &s.opts)}
	if w.in, err = newBuffer(); err != nil {
		return nil, nil, err
	}
	if w.out, err = newBuffer(); err != nil {
		return nil, nil, err
	}
	n, status := w.protocol.HandleRequest([][]byte{s.init}, [][]byte{w.out})
	if !status.Ok() || n < outHeader {
		return nil, nil, fmt.Errorf("INIT: %w", syscall.Errno(status))
	}
	return w, append([]byte(nil), w.out[:n]...), nil
}

func (s *server) spawn() {
	if s.workers.Add(1) > maxWorkers {
		s.workers.Add(-1)
		return
	}
	w, _, err := s.newWorker()
	if err != nil {
		s.workers.Add(-1)
		return
	}
	s.waiting.Add(1)
	go w.loop()
}

// loop ends with the connection, which only the kernel ends.
func (w *worker) loop() {
	s := w.s
	for {
		n, err := s.read(w.in)
		if left := s.waiting.Add(-1); left == 0 && err == nil {
			s.spawn()
		}
		if err == nil {
			err = w.serve(w.in[:n])
		}
		if errors.Is(err, syscall.ENODEV) {
			err = nil
			n = 0
		}
		if err != nil || n == 0 {
			s.once.Do(func() { s.ended <- err })
			return
		}
		s.waiting.Add(1)
	}
}

func (w *worker) serve(in []byte) error {
	le := binary.LittleEndian
	n, status := 0, fuse.ENOSYS
	if le.Uint32(in[4:]) != opInterrupt {
		n, status = w.protocol.HandleRequest([][]byte{in}, [][]byte{w.out})
	}
	if !status.Ok() {
		n = outHeader
		le.PutUint32(w.out, outHeader)
		le.PutUint32(w.out[4:], uint32(-int32(status)))
		le.PutUint64(w.out[8:], le.Uint64(in[8:]))
	}
	if n == 0 { // FORGET
		return nil
	}
	if _, err := syscall.Write(w.s.fd, w.out[:n]); err != nil && !errors.Is(err, syscall.ENOENT) {
		return err
	}
	return nil
}

func (s *server) read(buf []byte) (int, error) {
	for {
		n, err := syscall.Read(s.fd, buf)
		if err == nil || !(errors.Is(err, syscall.EINTR) || errors.Is(err, syscall.EAGAIN) || errors.Is(err, syscall.ENOENT)) {
			return n, err
		}
	}
}
