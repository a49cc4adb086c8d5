package transport

import (
	"errors"
	"fmt"
	"net"
	"syscall"

	"golang.org/x/sys/unix"
)

// A frame that goes through the link's goroutine costs a wake-up, which on a busy machine is most of what a small frame costs. So whoever
// has queued frames may write them: where the connection is there, nobody else writes, and the socket has room. What the socket does not
// take at once is left to the link's goroutine, which may wait.

// directBytes are as much as somebody else than the link's goroutine writes.
const directBytes = 128 << 10

// Allower is a Handler that can tell without waiting whether Authorize would allow a frame. Flush sends nothing by itself that it does not allow.
type Allower interface {
	Allows(peer Identity, group, from, to uint64) bool
}

// flush writes what is queued, or has the link's goroutine do it.
func (l *link) flush() {
	for {
		if n, _ := l.q.waiting(nil); n == 0 || !l.mu.TryLock() {
			return // who writes looks again
		}
		c := l.c
		if c == nil || c.sock.behind() || !l.ready(c) {
			l.mu.Unlock()
			l.q.nudge()
			return
		}
		err := l.send(c, c.writeDirect)
		behind := c.sock.behind()
		l.mu.Unlock()
		if err != nil {
			_ = c.sock.Close() // its reader ends, and with it the connection
			return
		}
		if behind {
			l.q.nudge()
			return
		}
	}
}

// ready tells whether all that waits is little, and may be sent for sure.
func (l *link) ready(c *outgoing) bool {
	allower, ok := l.t.cfg.Handler.(Allower)
	if !ok {
		return false
	}
	bytes, all := l.q.waiting(func(h Header) bool { return allower.Allows(c.peer, h.Group, h.To, h.From) })
	return all && bytes <= directBytes
}

// use says what others may write to.
func (l *link) use(c *outgoing) {
	l.mu.Lock()
	l.c = c
	l.mu.Unlock()
	if c != nil {
		l.q.again()
	}
}

// sendAll is what the link's goroutine does.
func (l *link) sendAll(c *outgoing) error {
	defer l.q.again()
	l.mu.Lock()
	defer l.mu.Unlock()
	if err := c.sock.flush(); err != nil {
		return err
	}
	return l.send(c, c.write)
}

// writeDirect is write without waiting: what the socket does not take stays in its buffer, and behind tells it.
func (c *conn) writeDirect(parts ...[]byte) error {
	c.sock.hold()
	return errors.Join(c.encrypt(parts), c.sock.tryFlush())
}

// direct lets tryFlush write, and more look.
func (s *socket) direct() {
	tcp, ok := s.Conn.(*net.TCPConn)
	if !ok {
		return
	}
	raw, err := tcp.SyscallConn()
	if err != nil {
		return // closed: the next call says so
	}
	s.raw = raw
	s.look = func(fd uintptr) { s.unread, _ = unix.IoctlGetInt(int(fd), unix.TIOCINQ) }
	s.attempt = func(fd uintptr) bool {
		for len(s.rest) > 0 {
			n, err := unix.Write(int(fd), s.rest)
			if errors.Is(err, syscall.EINTR) {
				continue
			}
			if errors.Is(err, syscall.EAGAIN) {
				return true
			}
			if err != nil {
				s.failed = fmt.Errorf("write: %w", err)
				return true
			}
			s.rest = s.rest[n:]
		}
		return true
	}
}

// more tells that more has come than was read.
func (s *socket) more() bool {
	if s.raw == nil {
		return false
	}
	s.unread = 0
	_ = s.raw.Control(s.look) // closed: the next read says so
	return s.unread > 0
}

// tryFlush writes of the buffer what the socket takes.
func (s *socket) tryFlush() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.holding = false
	if s.raw == nil || len(s.buf) == 0 {
		return nil
	}
	s.rest = s.buf
	err := s.raw.Write(s.attempt)
	s.buf = s.buf[:copy(s.buf, s.rest)]
	s.rest = nil
	return errors.Join(err, s.failed)
}

// behind tells that something is left in the buffer.
func (s *socket) behind() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.buf) > 0
}
