package transport

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// link sends the frames for one address. Its goroutine makes the connections and ends them; who calls Flush may write, too.
type link struct {
	t    *Transport
	addr string
	q    *queue

	failures int
	control  []byte

	mu    sync.Mutex // held by who writes; whoever gives it back looks again whether something was queued meanwhile
	c     *outgoing  // that others may write to; nil while there is none
	batch []queued   // what was taken last, for the queue to use again
	parts [][]byte
}

// outgoing is a connection that a link writes to. Its reader hears pongs, and why the peer closes.
type outgoing struct {
	*conn
	dead    chan struct{} // closed when the reader ends
	err     error         // why; to be read after dead is closed
	refused atomic.Bool   // a frame was not sent: the peer's certificate may have been issued anew since, and name more
}

// run waits for frames, connects, and sends, until the link is idle or the transport closed.
func (l *link) run(ctx context.Context) {
	idle := time.NewTicker(l.t.cfg.IdleAfter/2 + 1)
	defer idle.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-idle.C:
			if l.t.retire(l) {
				return
			}
			continue
		case <-l.q.wake:
		}
		c, err := l.connect(ctx)
		if err != nil {
			l.failed(ctx, err)
			continue
		}
		l.q.again() // what woke us still waits
		began := time.Now()
		err = l.serve(ctx, c)
		if errors.Is(err, errIdle) {
			return
		}
		if l.t.cfg.Lost != nil && ctx.Err() == nil {
			l.t.cfg.Lost(l.addr)
		}
		if time.Since(began) > l.t.cfg.BackoffMax {
			l.failures = 0
			l.lost(ctx, err)
			l.q.again()
		} else { // a peer that accepts and refuses is not to be asked in a loop
			l.failed(ctx, err)
		}
	}
}

// grace is how long a connection may take to end well.
const grace = 500 * time.Millisecond

// errIdle ends a link that nothing was sent to.
var errIdle = errors.New("idle")

// failed empties the queue and keeps it so for a while: what waits for a peer that is away is old when it comes back.
func (l *link) failed(ctx context.Context, err error) {
	if ctx.Err() != nil {
		return
	}
	pause := min(l.t.cfg.BackoffMin<<min(l.failures, 16), l.t.cfg.BackoffMax)
	pause = pause/2 + rand.N(pause/2+1) // or all come back at once
	l.failures++
	n := l.q.drop(time.Now().Add(pause))
	l.t.count.dropped[dropUnreachable].Add(uint64(n))
	l.t.lines.warn("dial:"+l.addr, "peer cannot be reached: what was to be sent is dropped", "peer", l.addr, "again", pause, "err", err)
}

func (l *link) lost(ctx context.Context, err error) {
	if ctx.Err() == nil {
		l.t.lines.warn("lost:"+l.addr, "connection to a peer lost; connecting again", "peer", l.addr, "err", err)
	}
}

// connect dials, once, and waits for the peer's hello: only then the peer has accepted our certificate.
func (l *link) connect(ctx context.Context) (*outgoing, error) {
	c, err := l.t.dial(ctx, l.addr, protoFrames)
	if err != nil {
		return nil, err
	}
	o := &outgoing{conn: c, dead: make(chan struct{})}
	r := &frameReader{r: bufio.NewReaderSize(c, 512), maxBody: maxText}
	c.sock.dead = l.t.cfg.DialTimeout
	stop := context.AfterFunc(ctx, func() { _ = c.sock.Close() })
	err = readHello(r)
	if stop(); err != nil {
		_ = c.sock.Close()
		return nil, err
	}
	c.sock.dead, c.sock.last = l.t.cfg.DeadAfter, time.Time{}
	l.t.count.connections[outbound].Add(1)
	if !l.t.start(func(ctx context.Context) {
		defer l.t.count.connections[outbound].Add(-1)
		defer close(o.dead)
		defer context.AfterFunc(ctx, func() { // a write under way does not keep Close waiting
			time.AfterFunc(grace, func() { _ = c.sock.Close() })
		})()
		o.err = readPongs(r)
		if netErr := net.Error(nil); errors.As(o.err, &netErr) && netErr.Timeout() {
			o.err = fmt.Errorf("nothing was heard for %v: %w", l.t.cfg.DeadAfter, o.err)
		}
		_ = c.sock.Close() // a writer that waits is let go
	}) {
		_ = c.sock.Close()
		close(o.dead)
		l.t.count.connections[outbound].Add(-1)
	}
	return o, nil
}

// dial connects to a peer, with the handshake.
func (t *Transport) dial(ctx context.Context, addr, protocol string) (*conn, error) {
	if _, _, err := t.cfg.TLS(); err != nil { // the peer is not to be bothered
		t.count.dial("own_certificate")
		return nil, err
	}
	dialer := net.Dialer{Timeout: t.cfg.DialTimeout}
	nc, err := dialer.DialContext(ctx, "tcp", addr)
	if err != nil {
		t.count.dial("connect")
		return nil, err
	}
	c, err := t.handshake(ctx, nc, false, protocol)
	if err != nil {
		_ = nc.Close()
		t.count.dial(handshakeReason(err))
		return nil, err
	}
	t.count.dial("ok")
	return c, nil
}

func readHello(r *frameReader) error {
	h, err := r.next()
	if err != nil {
		return fmt.Errorf("the peer did not accept this process (the peer's log says why): %w", err)
	}
	if h.Kind == kindBye {
		return byeError(r)
	}
	if h.Kind != kindHello || r.left != 0 {
		return errKind
	}
	return nil
}

// readPongs reads until the connection ends, and answers why.
func readPongs(r *frameReader) error {
	for {
		h, err := r.next()
		switch {
		case err != nil:
			return err
		case h.Kind == kindBye:
			return byeError(r)
		case h.Kind != kindPong || r.left != 0:
			return errKind
		}
	}
}

func byeError(r *frameReader) error {
	text, err := r.text()
	if err != nil {
		return err
	}
	return fmt.Errorf("the peer closed: %s", text)
}

// serve sends what is queued over a connection, until it breaks. It moves on to a new one in time.
func (l *link) serve(ctx context.Context, c *outgoing) error {
	defer func() { l.use(nil); _ = c.sock.Close(); <-c.dead }()
	l.use(c)
	tick := time.NewTicker(l.t.cfg.Tick)
	defer tick.Stop()
	var next chan *outgoing // while a new connection is made
	defer func() {
		if next != nil {
			if o := <-next; o != nil {
				l.finish(o, grace)
			}
		}
	}()
	for {
		select {
		case <-ctx.Done():
			l.use(nil)
			l.finish(c, grace)
			return ctx.Err()
		case <-c.dead:
			if next == nil {
				return c.err
			}
			o := <-next
			if next = nil; o == nil {
				return c.err
			}
			c = o
			l.use(c)
		case <-l.q.wake:
			if err := l.sendAll(c); err != nil {
				return c.why(err)
			}
		case o := <-next:
			next = nil
			if o == nil {
				c.renew = l.t.cfg.Now().Add(l.t.cfg.DeadAfter)
				continue
			}
			l.use(nil)
			l.finish(c, l.t.cfg.DeadAfter)
			c = o
			l.use(c)
		case <-tick.C:
			if err := l.tick(c); err != nil {
				return c.why(err)
			}
			if next == nil && l.stale(c) {
				next = l.renew(ctx)
			}
		}
	}
}

// why is the reason for which a write failed, as the reader knows it: perhaps the peer said it, or was silent for too long.
func (c *outgoing) why(err error) error {
	if errors.Is(err, errIdle) {
		return err
	}
	select {
	case <-c.dead:
	case <-time.After(grace):
		return err
	}
	if c.err == nil || errors.Is(c.err, net.ErrClosed) {
		return err
	}
	return c.err
}

// tick says a sign of life, and ends what has to end.
func (l *link) tick(c *outgoing) error {
	if now := l.t.cfg.Now(); now.After(c.ends) {
		return fmt.Errorf("a certificate of this connection expired at %v", c.ends)
	}
	if l.t.retire(l) {
		l.use(nil)
		l.finish(c, grace)
		return errIdle
	}
	l.q.forget() // what a burst needed
	defer l.q.again()
	l.mu.Lock()
	defer l.mu.Unlock()
	l.control = appendFrame(l.control[:0], Header{Kind: kindPing})
	return c.write(l.control)
}

// stale says whether it is time to move to a new connection: the certificate or the roots changed, half of the time is over, or the
// peer may have another certificate by now.
func (l *link) stale(c *outgoing) bool {
	own, roots, err := l.t.cfg.TLS()
	return err == nil && (own != c.own || roots != c.roots || c.refused.Load() || l.t.cfg.Now().After(c.renew))
}

// renew connects beside the connection in use; nil comes out when it did not work.
func (l *link) renew(ctx context.Context) chan *outgoing {
	next := make(chan *outgoing, 1)
	if !l.t.start(func(context.Context) {
		o, err := l.connect(ctx)
		if err != nil && ctx.Err() == nil {
			l.t.lines.warn("renew:"+l.addr, "no new connection to a peer beside the old one, which goes on until a certificate ends",
				"peer", l.addr, "err", err)
		}
		next <- o
	}) {
		next <- nil
	}
	return next
}

// finish ends a connection after the peer has read everything: it closes when it has.
func (l *link) finish(c *outgoing, limit time.Duration) {
	timer := time.AfterFunc(limit, func() { _ = c.sock.Close() })
	defer timer.Stop()
	if c.CloseWrite() != nil { // broken
		_ = c.sock.Close()
	}
	<-c.dead
}

// send writes everything that waits, but what the peer at the other end may not have. l.mu is held.
func (l *link) send(c *outgoing, write func(...[]byte) error) error {
	frames := l.q.take(l.batch)
	l.batch = frames
	count := &l.t.count
	parts, sent, size, chunk := l.parts[:0], 0, 0, -1
	for _, f := range frames {
		if err := l.t.cfg.Handler.Authorize(c.peer, f.h.Group, f.h.To, f.h.From); err != nil {
			count.dropped[dropRefused].Add(1)
			c.refused.Store(true)
			l.t.lines.warn("refused:"+l.addr, "frames for a peer dropped: whoever is at its address may not have them",
				"peer", l.addr, "pod", c.peer.String(), "err", err)
			chunk = -1
			continue
		}
		if f.chunk == chunk { // it follows in the same buffer
			last := parts[len(parts)-1]
			parts[len(parts)-1] = last[:len(last)+len(f.b)]
		} else {
			parts = append(append(parts, f.b), f.more...)
		}
		chunk, sent, size = f.chunk, sent+1, size+f.size()
	}
	l.parts = parts
	if sent == 0 {
		return nil
	}
	err := write(parts...)
	clear(parts)
	if err != nil {
		count.dropped[dropBroken].Add(uint64(sent))
		return err
	}
	count.frames[outbound].Add(uint64(sent))
	count.bytes[outbound].Add(uint64(size))
	return nil
}
