package transport

import (
	"bufio"
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"time"
)

// pongEvery so many bytes: a sign of life to a sender whose ping waits behind much.
const pongEvery = 256 << 10

// accept takes connections until the listener is closed.
func (t *Transport) accept(ctx context.Context) {
	defer context.AfterFunc(ctx, func() { _ = t.listener.Close() })()
	pause := 5 * time.Millisecond
	for {
		nc, err := t.listener.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil { // too many files: it passes
			t.lines.warn("accept", "no connection can be accepted", "err", err)
			select {
			case <-ctx.Done():
				return
			case <-time.After(pause):
				pause = min(2*pause, time.Second)
			}
			continue
		}
		pause = 5 * time.Millisecond
		t.admit(nc)
	}
}

// admit starts a goroutine for a connection, if there are not too many.
func (t *Transport) admit(nc net.Conn) {
	if t.count.connections[inbound].Add(1) > int64(t.cfg.MaxConns) {
		t.count.connections[inbound].Add(-1)
		_ = nc.Close()
		t.refuse(nc, &refusal{"too_many", fmt.Errorf("%d connections are open", t.cfg.MaxConns)})
		return
	}
	started := t.start(func(ctx context.Context) {
		defer t.count.connections[inbound].Add(-1)
		defer context.AfterFunc(ctx, func() { _ = nc.Close() })()
		t.serve(ctx, nc)
	})
	if !started {
		t.count.connections[inbound].Add(-1)
		_ = nc.Close()
	}
}

// refuse counts and logs a peer that did not become one.
func (t *Transport) refuse(nc net.Conn, err error) {
	reason := handshakeReason(err)
	t.count.refused.add(reason)
	t.lines.warn("refused:"+reason, "connection refused", "reason", reason, "from", nc.RemoteAddr().String(), "err", err)
}

// serve is the life of an accepted connection.
func (t *Transport) serve(ctx context.Context, nc net.Conn) {
	defer nc.Close()
	c, err := t.handshake(ctx, nc, true, protoFrames, protoBulk)
	if err != nil {
		if ctx.Err() == nil {
			t.refuse(nc, err)
		}
		return
	}
	if err := c.write(appendFrame(nil, Header{Kind: kindHello})); err != nil {
		return // gone already
	}
	if c.ConnectionState().NegotiatedProtocol == protoBulk {
		err = t.serveBulk(ctx, c)
	} else {
		err = t.receive(c)
	}
	t.ended(ctx, c, err)
}

// ended tells and counts why an accepted connection was closed.
func (t *Transport) ended(ctx context.Context, c *conn, err error) {
	var refused *refusal
	var bad *garbage
	switch {
	case err == nil || errors.Is(err, io.EOF) || ctx.Err() != nil:
		c.linger()
		return
	case errors.As(err, &refused):
		t.count.refused.add(refused.reason)
		t.lines.warn("refused:"+refused.reason, "peer refused", "reason", refused.reason, "pod", c.peer.String(),
			"from", c.RemoteAddr().String(), "err", err)
	case errors.As(err, &bad):
		t.count.garbage.add(bad.reason)
		t.lines.warn("garbage:"+bad.reason, "peer sent garbage; connection closed", "reason", bad.reason, "pod", c.peer.String(),
			"from", c.RemoteAddr().String(), "err", err)
	default: // silent or reset: its own end knows
		t.cfg.Logger.Debug("connection of a peer ended", "pod", c.peer.String(), "err", err)
		return
	}
	c.bye(err.Error())
}

// drainEvery so many bytes a Drainer is told although more has come.
const drainEvery = 256 << 10

// Drainer is a Handler that has something to do for many frames together: Drained is called when those that have come over a connection
// are handed over, by the goroutine that calls Receive. Where the rest of a frame is yet to come it is called after that.
type Drainer interface {
	Drained()
}

// receive reads frames until the connection ends. io.EOF is a good end.
func (t *Transport) receive(c *conn) error {
	c.sock.dead = t.cfg.DeadAfter
	buffer := bufio.NewReaderSize(c, 32<<10)
	r := &frameReader{r: buffer, maxBody: t.cfg.MaxFrame}
	drainer, _ := t.cfg.Handler.(Drainer)
	undrained := 0
	defer func() {
		if undrained > 0 && drainer != nil {
			drainer.Drained()
		}
	}()
	pong := appendFrame(nil, Header{Kind: kindPong})
	unanswered, refused := 0, 0
	for {
		h, err := r.next()
		if err != nil {
			return err
		}
		if h.Kind >= firstOwnKind {
			if h.Kind != kindPing || r.left != 0 {
				return errKind
			}
			if err := t.still(c); err != nil {
				return err
			}
			unanswered = pongEvery
		} else if err := t.cfg.Handler.Authorize(c.peer, h.Group, h.From, h.To); err != nil {
			if refused++; refused > maxRefused {
				return &refusal{"not_a_member", err}
			}
			if err := t.skip(c, r, err); err != nil {
				return err
			}
		} else {
			refused = 0
			if err := t.take(c, r, h); err != nil {
				return err
			}
			undrained += headerBytes + r.left
			if drainer != nil && (undrained > drainEvery || buffer.Buffered() == 0 && !c.sock.more()) {
				undrained = 0
				drainer.Drained()
			}
		}
		if unanswered += headerBytes + r.left; unanswered >= pongEvery {
			unanswered = 0
			if err := c.write(pong); err != nil {
				return err
			}
		}
	}
}

// maxRefused frames in a row end a connection. One does not: the connection carries frames of all groups between two processes, and
// while the members of one change, the others must not suffer.
const maxRefused = 100

// skip throws a body away, unread, that the peer had no business to send.
func (t *Transport) skip(c *conn, r *frameReader, why error) error {
	t.count.refused.add("not_a_member")
	t.lines.warn("refused:not_a_member", "frame refused", "reason", "not_a_member", "pod", c.peer.String(),
		"from", c.RemoteAddr().String(), "err", why)
	_, err := io.CopyN(io.Discard, r.r, int64(r.left))
	return truncated(err)
}

// take reads one frame's body and hands it on.
func (t *Transport) take(c *conn, r *frameReader, h Header) error {
	body, err := r.body(nil)
	if err != nil {
		return err
	}
	t.count.frames[inbound].Add(1)
	t.count.bytes[inbound].Add(uint64(headerBytes + len(body)))
	t.cfg.Handler.Receive(c.peer, Frame{h.Kind, h.Group, h.From, h.To, body})
	return nil
}

// still says whether a peer that was good at the handshake is so now: its certificate may have ended, or its root be gone.
func (t *Transport) still(c *conn) error {
	if t.cfg.Now().After(c.ends) {
		return &refusal{"expired", fmt.Errorf("a certificate of this connection expired at %v", c.ends.UTC().Format(time.RFC3339))}
	}
	_, roots, err := t.cfg.TLS()
	if err != nil || roots == c.roots { // without a certificate of our own, the first case comes soon
		return nil
	}
	c.roots = roots
	return t.verifyChain(c, roots, x509.ExtKeyUsageClientAuth)
}
