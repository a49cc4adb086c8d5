package session

import (
	"encoding/binary"
	"errors"
	"fmt"
	"syscall"

	"github.com/hanwen/go-fuse/v2/fuse"

	"github.com/remora-storage/remora/cachefs"
)

// worker serves one request at a time. It is the RawFileSystem of its own ProtocolServer; the fields are of the current request.
type worker struct {
	fuse.RawFileSystem // ENOSYS for everything that is not here
	s                  *Session
	fs                 *cachefs.FS
	server             *fuse.ProtocolServer
	in, out            []byte
	caller             cachefs.Caller
	resent             bool // the kernel sent the request before, to a process that died
	err                error
	wake               chan struct{} // ends a rest
}

// newWorker makes a worker and replays INIT into it; reply is what it would answer.
func (s *Session) newWorker() (w *worker, reply []byte, err error) {
	w = &worker{RawFileSystem: fuse.NewDefaultRawFileSystem(), s: s, fs: s.fs, wake: make(chan struct{}, 1)}
	if w.in, err = newBuffer(); err != nil {
		return nil, nil, err
	}
	if w.out, err = newBuffer(); err != nil {
		return nil, nil, err
	}
	w.server = fuse.NewProtocolServer(w, &s.opts)
	n, status := w.server.HandleRequest([][]byte{s.init}, [][]byte{w.out})
	if !status.Ok() || n < outHeader {
		return nil, nil, fmt.Errorf("INIT: %w", syscall.Errno(status))
	}
	if e := int32(binary.LittleEndian.Uint32(w.out[4:])); e != 0 {
		return nil, nil, fmt.Errorf("INIT is refused: %w", syscall.Errno(-e))
	}
	return w, append([]byte(nil), w.out[:n]...), nil
}

// loop serves requests until the connection ends. It is not waited for: it sits in a read that only the kernel can end.
func (w *worker) loop() {
	s := w.s
	for {
		n, err := s.read(w.in)
		if err == nil {
			s.took(opcode(w.in[:n]))
			s.inFlight.RLock()
			if s.stopping.Load() {
				// Not answered: the successor gets it again.
				s.inFlight.RUnlock()
				return
			}
			err = w.serve(w.in[:n])
			s.inFlight.RUnlock()
		}
		if err != nil {
			if errors.Is(err, syscall.ENODEV) { // unmounted or aborted
				err = s.lost()
			}
			s.end(err)
			return
		}
		if !s.goOn(w) {
			return
		}
	}
}

// opcode of a request, which may be too short to have one.
func opcode(in []byte) uint32 {
	if len(in) < inHeaderSize {
		return 0
	}
	return binary.LittleEndian.Uint32(in[4:])
}

// lost tells the holder that the connection has ended, unless we are stopping and it knows.
func (s *Session) lost() error {
	if s.stopping.Load() {
		return nil
	}
	if err := s.cfg.Connection.Lost(); err != nil {
		s.cfg.Logger.Info("the mount has ended, and so has its holder", "volume", s.cfg.Volume, "err", err)
	}
	return nil
}

// serve handles one request and writes its reply.
func (w *worker) serve(in []byte) error {
	if len(in) < inHeaderSize {
		return fmt.Errorf("request of %d bytes", len(in))
	}
	le := binary.LittleEndian
	opcode, unique, node := le.Uint32(in[4:]), le.Uint64(in[8:]), le.Uint64(in[16:])
	w.resent = unique&resendBit != 0
	w.err = nil
	w.caller = cachefs.Caller{Unique: unique &^ resendBit, UID: le.Uint32(in[24:]), GID: le.Uint32(in[28:])}
	w.caller.IO = w.s.cfg.Trace.Begin(opOf(opcode), w.caller.Unique, node)
	n, status := 0, fuse.ENOSYS
	if opcode != opInterrupt {
		n, status = w.server.HandleRequest([][]byte{in}, [][]byte{w.out})
	}
	if !status.Ok() {
		// Whoever waits must get an answer, or it waits for ever.
		n = outHeader
		le.PutUint32(w.out, outHeader)
		le.PutUint32(w.out[4:], uint32(-int32(status)))
		le.PutUint64(w.out[8:], unique)
	}
	if n == 0 { // FORGET
		w.caller.IO.End(0)
		return nil
	}
	errno := -int32(le.Uint32(w.out[4:]))
	w.report(opcode, node, errno)
	err := w.s.write(w.out[:n])
	if err == nil && w.caller.Changed {
		w.fs.AnswerWritten(w.caller.Unique)
	}
	w.caller.IO.End(errno)
	if err != nil && !errors.Is(err, syscall.ENODEV) {
		return fmt.Errorf("write reply of opcode %d: %w", opcode, err)
	}
	return err
}

// report logs what the application only sees as EIO.
func (w *worker) report(opcode uint32, node uint64, errno int32) {
	if w.err != nil && errno == int32(syscall.EIO) {
		w.s.cfg.Logger.Error("request failed", "volume", w.s.cfg.Volume, "op", opOf(opcode).String(), "inode", node, "err", w.err)
	}
}

// status maps an error to what the kernel gets: an errno as it is, anything else EIO.
func (w *worker) status(err error) fuse.Status {
	if err == nil {
		return fuse.OK
	}
	var e syscall.Errno
	if errors.As(err, &e) {
		if e == syscall.EIO {
			w.err = err
		}
		return fuse.Status(e)
	}
	w.err = err
	return fuse.EIO
}

// first returns the answer that this request got before its sidecar died, if it changed something then.
func (w *worker) first() ([]byte, bool) {
	if !w.resent {
		return nil, false
	}
	b, ok := w.fs.FirstAnswer(w.caller.Unique)
	w.caller.Changed = ok // the answer is due again, and its table entry to be dropped
	return b, ok
}
