package transport

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"slices"
	"sync"
	"time"
)

// bulkIdle is how long a connection waits for the next request.
const bulkIdle = 30 * time.Second

// ErrClosed: the transport was closed.
var ErrClosed = errors.New("transport: closed")

// RemoteError is the error with which a peer's handler ended a bulk request.
type RemoteError struct {
	Addr string
	Code uint32 // of a handler's error that has a method Code() uint32; else 0
	Text string
}

func (e *RemoteError) Error() string { return fmt.Sprintf("peer %s: %s", e.Addr, e.Text) }

func code(err error) uint32 {
	var coded interface {
		error
		Code() uint32
	}
	if errors.As(err, &coded) {
		return coded.Code()
	}
	return 0
}

// bulkPeer are the connections for requests to one address.
type bulkPeer struct {
	slots chan struct{} // one for each request under way

	mu     sync.Mutex // guards what follows; Transport.mu may be held before it
	idle   []*bulkConn
	closed bool
}

// bulkConn is a connection that carries one request at a time.
type bulkConn struct {
	*conn
	r      *frameReader
	expire *time.Timer // closes it while it is idle
}

// Bulk asks the process at addr, and answers when the answer begins. What it returns must be read by one goroutine, to its end or
// closed; it ends with io.EOF only after everything came and was right, and otherwise with an error: a *RemoteError if the peer's
// handler said no. ctx ends it, until the end is read. A request may be carried out twice, when a connection breaks before the answer.
// At most Config.BulkPerPeer answers of a peer are open at a time; more wait here.
func (t *Transport) Bulk(ctx context.Context, addr string, r Request) (io.ReadCloser, error) {
	if len(r.Body) > t.cfg.MaxFrame || r.Kind == 0 || r.Kind >= firstOwnKind {
		return nil, fmt.Errorf("bulk request to %s: kind %d with %d bytes; allowed: 1 to %d, and at most %d bytes",
			addr, r.Kind, len(r.Body), firstOwnKind-1, t.cfg.MaxFrame)
	}
	p, err := t.bulkPeer(addr)
	if err != nil {
		return nil, err
	}
	select {
	case p.slots <- struct{}{}:
	case <-ctx.Done():
		return nil, fmt.Errorf("bulk request to %s: %d are under way: %w", addr, t.cfg.BulkPerPeer, ctx.Err())
	}
	a := &answerReader{t: t, p: p, addr: addr, ctx: ctx, request: r}
	if err := a.ask(); err != nil {
		a.end(err)
		if !errors.Is(err, errComplete) {
			return nil, fmt.Errorf("bulk request to %s: %w", addr, err)
		}
	}
	return a, nil
}

func (t *Transport) bulkPeer(addr string) (*bulkPeer, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		return nil, ErrClosed
	}
	p := t.bulk[addr]
	if p == nil {
		p = &bulkPeer{slots: make(chan struct{}, t.cfg.BulkPerPeer)}
		t.bulk[addr] = p
	}
	return p, nil
}

// answerReader is an answer on its way.
type answerReader struct {
	t       *Transport
	p       *bulkPeer
	addr    string
	ctx     context.Context // of this one request, not longer than a call would have it
	request Request

	c       *bulkConn // nil after the end
	unwatch func() bool
	buf     []byte
	part    []byte // of buf, not yet read
	total   uint64
	crc     uint32
	err     error // the end; io.EOF is the good one
}

// ask sends the request and waits for the first frame of the answer. A connection that waited may have been closed by the peer, or be
// from before the peer's certificate named this volume: then another is tried.
func (a *answerReader) ask() error {
	for {
		c := a.p.take(a.t)
		reused := c != nil
		if !reused {
			var err error
			if c, err = a.t.dialBulk(a.ctx, a.addr); err != nil {
				return err
			}
		}
		if !a.t.watch(c) {
			_ = c.sock.Close()
			return ErrClosed
		}
		a.c, a.unwatch = c, context.AfterFunc(a.ctx, func() { _ = c.sock.Close() })
		err := a.first()
		var remote *RemoteError
		if err == nil || errors.Is(err, errComplete) || !reused || a.ctx.Err() != nil || errors.As(err, &remote) {
			return err
		}
		a.drop()
	}
}

func (a *answerReader) first() error {
	r := a.request
	if err := a.t.cfg.Handler.Authorize(a.c.peer, r.Group, r.To, r.From); err != nil {
		return &refusal{"not_a_member", fmt.Errorf("%s is there now: %w", a.c.peer, err)}
	}
	if err := a.c.write(appendFrame(nil, Header{r.Kind, r.Group, r.From, r.To, nil}, r.Body)); err != nil {
		return err
	}
	return a.next()
}

func (t *Transport) dialBulk(ctx context.Context, addr string) (*bulkConn, error) {
	c, err := t.dial(ctx, addr, protoBulk)
	if err != nil {
		return nil, err
	}
	c.setTimeout(t.cfg.BulkStall)
	b := &bulkConn{conn: c, r: &frameReader{r: bufio.NewReaderSize(c, 4096), maxBody: partBytes}}
	c.sock.dead = t.cfg.DialTimeout
	stop := context.AfterFunc(ctx, func() { _ = c.sock.Close() })
	defer stop()
	if err := readHello(b.r); err != nil {
		_ = c.sock.Close()
		return nil, err
	}
	c.sock.dead, c.sock.last = t.cfg.BulkStall, time.Time{}
	return b, nil
}

// Read reads the answer.
func (a *answerReader) Read(p []byte) (int, error) {
	for len(a.part) == 0 && a.err == nil {
		if err := a.next(); err != nil {
			a.end(err)
		}
	}
	if len(a.part) == 0 {
		return 0, a.err
	}
	n := copy(p, a.part)
	a.part = a.part[n:]
	return n, nil
}

// next reads a frame of the answer.
func (a *answerReader) next() error {
	h, err := a.c.r.next()
	if err != nil {
		return a.broken(truncated(err))
	}
	if h.Kind == kindBye {
		return a.broken(byeError(a.c.r))
	}
	if h.Group != a.request.Group || h.From != a.request.To || h.To != a.request.From {
		return a.broken(&garbage{"answer", "an answer to another request"})
	}
	body, err := a.c.r.body(a.buf)
	if err != nil {
		return a.broken(err)
	}
	a.buf = body[:0]
	le := binary.LittleEndian
	switch {
	case h.Kind == kindData:
		a.part, a.total, a.crc = body, a.total+uint64(len(body)), crc32.Update(a.crc, castagnoli, body)
		a.t.count.bulkBytes[inbound].Add(uint64(len(body)))
		return nil
	case h.Kind == kindEnd && len(body) == 16:
		if le.Uint64(body) != a.total || le.Uint32(body[8:]) != a.crc {
			return a.broken(&garbage{"answer", "the answer is not what its trailer says"})
		}
		return errComplete
	case h.Kind == kindFailed && len(body) >= 4:
		return &RemoteError{a.addr, le.Uint32(body), printable(body[4:])}
	}
	return a.broken(errKind)
}

// broken counts garbage, and puts the reason for which we closed before what came of it.
func (a *answerReader) broken(err error) error {
	var bad *garbage
	if errors.As(err, &bad) {
		a.t.count.garbage.add(bad.reason)
	}
	if a.ctx.Err() != nil {
		return context.Cause(a.ctx)
	}
	return err
}

// end keeps the connection if the answer came to its end, and closes it otherwise.
func (a *answerReader) end(err error) {
	a.t.count.asked(err)
	if a.err, a.request.Body = err, nil; errors.Is(err, errComplete) {
		a.err = io.EOF
	}
	var remote *RemoteError
	switch {
	case a.c == nil:
	case (errors.Is(err, errComplete) || errors.As(err, &remote)) && a.unwatch():
		a.t.unwatch(a.c)
		a.p.keep(a.c)
		a.c = nil
	default:
		a.drop()
	}
	<-a.p.slots
}

func (a *answerReader) drop() {
	a.unwatch()
	a.t.unwatch(a.c)
	_ = a.c.sock.Close()
	a.c = nil
}

// Close ends an answer that was not read to its end.
func (a *answerReader) Close() error {
	if a.err == nil {
		a.end(errAnswerClosed)
	}
	a.part = nil
	return nil
}

var (
	errComplete     = errors.New("the trailer came, and was right")
	errAnswerClosed = fmt.Errorf("transport: the answer was closed: %w", context.Canceled)
)

// take takes a connection that waits, and that a handshake would make again.
func (p *bulkPeer) take(t *Transport) *bulkConn {
	p.mu.Lock()
	defer p.mu.Unlock()
	for len(p.idle) > 0 {
		c := p.idle[len(p.idle)-1]
		p.idle = p.idle[:len(p.idle)-1]
		own, roots, err := t.cfg.TLS()
		if c.expire.Stop() && err == nil && own == c.own && roots == c.roots && t.cfg.Now().Before(c.ends) {
			return c
		}
		_ = c.sock.Close()
	}
	return nil
}

// keep keeps a connection for the next request.
func (p *bulkPeer) keep(c *bulkConn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		_ = c.sock.Close()
		return
	}
	c.expire = time.AfterFunc(bulkIdle, func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		_ = c.sock.Close()
		p.idle = slices.DeleteFunc(p.idle, func(o *bulkConn) bool { return o == c })
	})
	p.idle = append(p.idle, c)
}

// watch lets Close end a request under way; false: it is closed.
func (t *Transport) watch(c *bulkConn) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		return false
	}
	t.asking[c] = struct{}{}
	return true
}

func (t *Transport) unwatch(c *bulkConn) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.asking, c)
}

// closeBulk closes every connection that was dialled for requests.
func (t *Transport) closeBulk() {
	t.mu.Lock()
	defer t.mu.Unlock()
	for c := range t.asking {
		_ = c.sock.Close()
	}
	for _, p := range t.bulk {
		p.close()
	}
}

func (p *bulkPeer) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range p.idle {
		c.expire.Stop()
		_ = c.sock.Close()
	}
	p.idle, p.closed = nil, true
}
