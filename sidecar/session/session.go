package session

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log"
	"log/slog"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"

	"github.com/remora-storage/remora/cachefs"
	"github.com/remora-storage/remora/cachefs/meta"
	"github.com/remora-storage/remora/telemetry"
)

// maxRequest is the content of the largest READ and WRITE.
const maxRequest = 1 << 20

// FUSE protocol numbers that go-fuse does not export (linux/fuse.h).
const (
	opRead       = 15
	opFsync      = 20
	opInit       = 26
	opFsyncdir   = 30
	opInterrupt  = 36
	notifyInval  = 2 // FUSE_NOTIFY_INVAL_INODE
	notifyResend = 7
	resendBit    = 1 << 63
	inHeaderSize = 40
	outHeader    = 16
)

// capabilities that we ask for beyond go-fuse's own.
const capabilities = fuse.CAP_HANDLE_KILLPRIV_V2 | fuse.CAP_HAS_RESEND | fuse.CAP_NO_OPENDIR_SUPPORT | fuse.CAP_DIRECT_IO_ALLOW_MMAP |
	fuse.CAP_POSIX_ACL | fuse.CAP_DONT_MASK | fuse.CAP_SETXATTR_EXT

// Connection is what the holder gives.
type Connection interface {
	// StoreInit must have returned before the reply is written to the kernel.
	StoreInit(init, reply []byte) error
	// Ready says that this process serves.
	Ready() error
	// Lost says that the connection has ended although nobody stopped this process: it cannot be served again.
	Lost() error
}

// Config of a session.
type Config struct {
	FD          int // of /dev/fuse, blocking
	Connection  Connection
	Init, Reply []byte // of an earlier process; nil if the kernel waits for its first answer
	NoResend    bool   // do not ask for HAS_RESEND: as on a kernel before 6.9
	Volume      string
	Trace       *telemetry.VolumeRecorder
	Logger      *slog.Logger
}

// Session serves one FUSE connection.
type Session struct {
	cfg  Config
	fs   *cachefs.FS
	opts fuse.MountOptions
	init []byte
	// flags of the reply to INIT, for the connection's whole life: a successor adopts them. Set before the first request is served.
	flags uint64

	crew     crew
	stopping atomic.Bool
	inFlight sync.RWMutex // held for reading while a request is served
	done     chan struct{}
	doneOnce sync.Once
	err      error
}

// CanTakeOver tells whether a connection whose INIT was answered like that can be served by a successor. Without HAS_RESEND, the
// requests that the predecessor had read would never be answered: the mount must be made anew.
func CanTakeOver(reply []byte) bool { return replyFlags(reply)&fuse.CAP_HAS_RESEND != 0 }

// ErrOtherFlags: the connection was negotiated by a program that asked for other things. It cannot be taken over, only made anew.
var ErrOtherFlags = errors.New("the FUSE connection was negotiated by another version of the program: restart the pod to mount anew")

// Start negotiates or takes over the connection and begins to serve it. Call Stop to end it.
func Start(cfg Config, fs *cachefs.FS) (*Session, error) {
	s := &Session{cfg: cfg, fs: fs, init: cfg.Init, done: make(chan struct{})}
	s.opts = fuse.MountOptions{
		MaxWrite: maxRequest, MaxReadAhead: maxRequest, MaxBackground: 64, ExplicitDataCacheControl: true,
		ExtraCapabilities: capabilities, EnableSymlinkCaching: true,
		Logger: log.New(logWriter{cfg.Logger}, "", 0),
	}
	if cfg.NoResend {
		s.opts.ExtraCapabilities &^= fuse.CAP_HAS_RESEND
	}
	var first *worker
	var err error
	if cfg.Init == nil {
		first, err = s.negotiate()
	} else {
		first, err = s.takeOver()
	}
	if err != nil {
		return nil, err
	}
	s.crew.base, s.crew.timer = baseWorkers(), time.AfterFunc(time.Hour, s.look)
	second, _, err := s.newWorker()
	if err != nil {
		return nil, err
	}
	s.join(first)
	s.join(second)
	return s, nil
}

// negotiate answers the kernel's INIT. It is stored first: nobody can tell later whether the kernel has got the answer.
func (s *Session) negotiate() (*worker, error) {
	buf, err := newBuffer()
	if err != nil {
		return nil, err
	}
	defer freeBuffer(buf)
	n, err := s.read(buf)
	if err != nil {
		return nil, fmt.Errorf("read INIT: %w", err)
	}
	if binary.LittleEndian.Uint32(buf[4:]) != opInit {
		return nil, fmt.Errorf("first request is opcode %d, want INIT", binary.LittleEndian.Uint32(buf[4:]))
	}
	s.init = bytes.Clone(buf[:n])
	w, reply, err := s.newWorker()
	if err != nil {
		return nil, err
	}
	s.flags = replyFlags(reply)
	s.checkFlags()
	if err := s.cfg.Connection.StoreInit(s.init, reply); err != nil {
		return nil, fmt.Errorf("store INIT: %w", err)
	}
	s.fs.AskKernel(s.known)
	if err := s.write(reply); err != nil {
		return nil, fmt.Errorf("answer INIT: %w", err)
	}
	return w, s.cfg.Connection.Ready()
}

// takeOver goes on where an earlier process died. That may have been another version of the program, which asked for less: then so do
// we.
func (s *Session) takeOver() (*worker, error) {
	s.flags = replyFlags(s.cfg.Reply)
	s.opts.DisabledCapabilities = ^s.flags
	w, reply, err := s.newWorker()
	if err != nil {
		return nil, err
	}
	if !bytes.Equal(reply, s.cfg.Reply) {
		return nil, ErrOtherFlags
	}
	if err := s.notify(notifyResend, nil); err != nil {
		return nil, fmt.Errorf("ask the kernel to send again what was not answered (needs Linux 6.9): %w", err)
	}
	s.fs.TookOver(s.known)
	s.cfg.Logger.Info("took over the connection of an earlier process", "volume", s.cfg.Volume)
	return w, s.cfg.Connection.Ready()
}

// known asks the kernel whether it knows an inode: it is told to look at the inode's attributes again (fuse_notify_inval_inode_out
// with a negative offset, which leaves the page cache alone), and answers ENOENT if there is none. Where it does not say, it may.
func (s *Session) known(ino meta.Ino) bool {
	out := make([]byte, 24) // ino, off, len
	binary.LittleEndian.PutUint64(out, uint64(ino))
	binary.LittleEndian.PutUint64(out[8:], 1<<64-1)
	return !errors.Is(s.notify(notifyInval, out), syscall.ENOENT)
}

// notify sends the kernel what it has not asked for.
func (s *Session) notify(code uint32, body []byte) error {
	msg := make([]byte, outHeader, outHeader+len(body))
	binary.LittleEndian.PutUint32(msg, uint32(outHeader+len(body)))
	binary.LittleEndian.PutUint32(msg[4:], code)
	_, err := syscall.Write(s.cfg.FD, append(msg, body...))
	return err
}

// checkFlags says what the kernel lacks; nothing of it is needed for correctness.
func (s *Session) checkFlags() {
	for _, want := range []struct {
		flag uint64
		what string
	}{
		{fuse.CAP_HANDLE_KILLPRIV_V2, "HANDLE_KILLPRIV_V2: every write costs one more request"},
		{fuse.CAP_HAS_RESEND, "HAS_RESEND (Linux 6.9): when the sidecar dies, the volume is mounted anew, and programs with open files get errors"},
		{fuse.CAP_NO_OPEN_SUPPORT, "NO_OPEN_SUPPORT: every open costs a request"},
		{fuse.CAP_POSIX_ACL, "POSIX_ACL: setfacl is refused"},
	} {
		if s.flags&want.flag == 0 {
			s.cfg.Logger.Warn("the kernel does not offer a FUSE capability", "volume", s.cfg.Volume, "capability", want.what)
		}
	}
}

// replyFlags reads the flags of an INIT reply: flags at 12 and flags2 at 32 of fuse_init_out.
func replyFlags(reply []byte) uint64 {
	if len(reply) < outHeader+36 {
		return 0
	}
	le := binary.LittleEndian
	return uint64(le.Uint32(reply[outHeader+12:])) | uint64(le.Uint32(reply[outHeader+32:]))<<32
}

// Stop lets requests in flight finish and takes no others: those are for a successor. The descriptor stays open.
func (s *Session) Stop() {
	s.stopping.Store(true)
	s.inFlight.Lock()
	defer s.inFlight.Unlock()
	s.end(nil)
}

// Done is closed when the connection has ended: unmounted, aborted or stopped.
func (s *Session) Done() <-chan struct{} { return s.done }

// Wait returns when the connection has ended, with what broke it, if anything.
func (s *Session) Wait(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-s.done:
		return s.err
	}
}

func (s *Session) end(err error) {
	s.doneOnce.Do(func() {
		s.err = err
		close(s.done)
		s.crew.timer.Stop()
	})
}

// read reads one request.
func (s *Session) read(buf []byte) (int, error) {
	for {
		n, err := syscall.Read(s.cfg.FD, buf)
		switch {
		case err == nil:
			return n, nil
		case errors.Is(err, syscall.EINTR), errors.Is(err, syscall.EAGAIN), errors.Is(err, syscall.ENOENT):
			// ENOENT: the request was interrupted before we read it.
		default:
			return 0, err
		}
	}
}

// write writes a reply. ENOENT means that nobody waits for it any more.
func (s *Session) write(b []byte) error {
	_, err := syscall.Write(s.cfg.FD, b)
	if errors.Is(err, syscall.ENOENT) {
		return nil
	}
	return err
}

// logWriter passes go-fuse's messages on.
type logWriter struct{ l *slog.Logger }

func (w logWriter) Write(b []byte) (int, error) {
	w.l.Warn("fuse", "msg", string(bytes.TrimSpace(b)))
	return len(b), nil
}
