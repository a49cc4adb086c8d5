package transport

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// flushBytes of ciphertext are written at once.
const flushBytes = 256 << 10

// socket is what TLS writes to and reads from. TLS writes records of 16 KiB; between hold and flush they are gathered into one write.
// Reads fail when the peer is silent for longer than dead.
type socket struct {
	net.Conn
	dead time.Duration // 0: reads wait for ever
	last time.Time     // when the deadline of reads was set; of the reader alone

	look   func(fd uintptr) // of more, and what it found; of the reader alone
	unread int

	mu      sync.Mutex // guards what follows
	holding bool
	buf     []byte // that is not written yet: while holding, or because tryFlush could not

	raw     syscall.RawConn // of tryFlush, with what follows; nil: it does nothing
	attempt func(fd uintptr) bool
	rest    []byte
	failed  error
}

func (s *socket) Read(b []byte) (int, error) {
	if s.dead > 0 {
		if now := time.Now(); now.Sub(s.last) > s.dead/8 { // not for each read: it costs a third of one
			s.last = now
			if err := s.SetReadDeadline(now.Add(s.dead)); err != nil {
				return 0, err
			}
		}
	}
	return s.Conn.Read(b)
}

func (s *socket) Write(b []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.holding && len(s.buf) == 0 {
		return s.Conn.Write(b)
	}
	s.buf = append(s.buf, b...)
	if s.holding && len(s.buf) < flushBytes {
		return len(b), nil
	}
	return len(b), s.flushLocked()
}

func (s *socket) hold() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.holding = true
}

func (s *socket) flush() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.holding = false
	return s.flushLocked()
}

func (s *socket) flushLocked() error {
	if len(s.buf) == 0 {
		return nil
	}
	_, err := s.Conn.Write(s.buf)
	s.buf = s.buf[:0]
	return err
}

// conn is a connection after its handshake.
type conn struct {
	*tls.Conn
	sock    *socket
	peer    Identity
	leaf    *x509.Certificate // the peer's
	chain   []*x509.Certificate
	own     *tls.Certificate // that was shown
	roots   *x509.CertPool   // that the peer was checked with
	foreign string           // what a peer offers that speaks none of our protocols
	ends    time.Time        // when the first of both certificates does
	renew   time.Time        // when a link moves on
	timeout time.Duration    // of a write
	wrote   time.Time        // when the deadline of writes was set
}

// handshake makes a conn of a socket, within the configured time.
func (t *Transport) handshake(ctx context.Context, nc net.Conn, server bool, protocols ...string) (*conn, error) {
	sock := &socket{Conn: nc}
	own, roots, err := t.cfg.TLS()
	if err != nil {
		return nil, &refusal{"own_certificate", err}
	}
	sock.direct()
	c := &conn{sock: sock, own: own, roots: roots}
	c.setTimeout(t.cfg.DeadAfter)
	config := t.tlsConfig(c, server, protocols)
	if server {
		c.Conn = tls.Server(sock, config)
	} else {
		c.Conn = tls.Client(sock, config)
	}
	ctx, cancel := context.WithTimeout(ctx, t.cfg.DialTimeout)
	defer cancel()
	if err := c.HandshakeContext(ctx); err != nil {
		if c.foreign != "" {
			return nil, &refusal{"protocol", fmt.Errorf("the peer speaks %s, and here it is %s: run the same version at both ends; %w",
				c.foreign, strings.Join(protocols, ", "), err)}
		}
		return nil, err
	}
	now := t.cfg.Now()
	c.ends = c.leaf.NotAfter
	if own.Leaf != nil && own.Leaf.NotAfter.Before(c.ends) {
		c.ends = own.Leaf.NotAfter
	}
	c.renew = now.Add(max(c.ends.Sub(now)/2, t.cfg.Tick))
	return c, nil
}

// setTimeout says how long a write may take, and has the kernel end the connection when the other end acknowledges nothing for so long.
func (c *conn) setTimeout(d time.Duration) {
	c.timeout = d
	tcp, ok := c.sock.Conn.(*net.TCPConn)
	if !ok {
		return
	}
	raw, err := tcp.SyscallConn()
	if err != nil {
		return // closed: the next call says so
	}
	_ = raw.Control(func(fd uintptr) { // a kernel that refuses leaves what pings find
		_ = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(max(d, time.Second).Milliseconds()))
	})
}

// write writes all of it with one write of the socket, or few. A write that does not go on within the timeout fails.
func (c *conn) write(parts ...[]byte) error {
	if len(parts) > 1 || len(parts[0]) > 16<<10 {
		c.sock.hold()
	}
	return errors.Join(c.encrypt(parts), c.sock.flush())
}

func (c *conn) encrypt(parts [][]byte) (err error) {
	for _, p := range parts {
		for len(p) > 0 && err == nil {
			n := min(len(p), chunkBytes)
			if now := time.Now(); now.Sub(c.wrote) > c.timeout/8 { // not for each: see Read
				c.wrote = now
				err = c.SetWriteDeadline(now.Add(c.timeout))
			}
			if err == nil {
				_, err = c.Write(p[:n])
			}
			p = p[n:]
		}
	}
	return err
}

// bye tells the peer why, if it still listens, and closes.
func (c *conn) bye(text string) {
	c.timeout, c.wrote = min(c.timeout, grace), time.Time{}
	_ = c.write(appendFrame(nil, Header{Kind: kindBye}, []byte(clip(text)))) // it may be gone
	c.linger()
}

// linger closes so that the peer reads what was written: a socket that is closed over unread bytes throws it away.
func (c *conn) linger() {
	limit := time.AfterFunc(grace, func() { _ = c.sock.Close() })
	defer limit.Stop()
	_ = c.CloseWrite()
	var sink [4096]byte
	for range 256 {
		if _, err := c.sock.Conn.Read(sink[:]); err != nil {
			break
		}
	}
	_ = c.sock.Close()
}
