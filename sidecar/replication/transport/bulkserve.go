package transport

import (
	"bufio"
	"context"
	"encoding/binary"
	"hash/crc32"
	"sync"
	"time"
)

// partBytes of an answer travel in one frame.
const partBytes = 64 << 10

// serveBulk answers requests, one after the other, until the connection ends.
func (t *Transport) serveBulk(ctx context.Context, c *conn) error {
	c.setTimeout(t.cfg.BulkStall)
	peek := bufio.NewReaderSize(c, 4096)
	r := &frameReader{r: peek, maxBody: t.cfg.MaxFrame}
	w := &answer{c: c}
	for {
		c.sock.dead, c.sock.last = t.cfg.IdleAfter, time.Time{}
		h, err := r.next()
		if err != nil {
			return err
		}
		if h.Kind >= firstOwnKind {
			return errKind
		}
		if err := t.still(c); err != nil {
			return err
		}
		if err := t.cfg.Handler.Authorize(c.peer, h.Group, h.From, h.To); err != nil {
			return &refusal{"not_a_member", err}
		}
		body, err := r.body(nil)
		if err != nil {
			return err
		}
		if err := t.answer(ctx, c, peek, w, Request{h.Kind, h.Group, h.From, h.To, body}); err != nil {
			return err
		}
	}
}

// answer answers one request. Meanwhile somebody looks whether the one who asked is still there: it sends nothing before the end.
func (t *Transport) answer(ctx context.Context, c *conn, peek *bufio.Reader, w *answer, r Request) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	c.sock.dead = 0
	if err := c.sock.SetReadDeadline(time.Time{}); err != nil {
		return err
	}
	gone := make(chan struct{})
	go func() {
		defer close(gone)
		if _, err := peek.Peek(1); err != nil {
			cancel()
		}
	}()
	w.begin(Header{Group: r.Group, From: r.To, To: r.From})
	signs := time.NewTicker(t.cfg.BulkStall / 4)
	stop := make(chan struct{})
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		w.signs(signs.C, stop)
	}()
	err := t.cfg.Handler.Bulk(ctx, c.peer, r, w)
	signs.Stop()
	close(stop)
	<-stopped
	t.count.answered(err)
	if err := w.end(err); err != nil {
		_ = c.sock.Close()
		<-gone
		return err
	}
	t.count.bulkBytes[outbound].Add(w.total)
	_ = c.sock.SetReadDeadline(time.Now().Add(t.cfg.IdleAfter))
	<-gone
	return nil
}

// answer is what a handler writes its answer to. It cuts it into frames.
type answer struct {
	c *conn
	h Header

	mu    sync.Mutex // guards what follows; held over writes to the network: who waits for it waits for the same network
	buf   []byte     // room for a header, and a part
	sent  bool       // since the last tick
	total uint64
	crc   uint32
	err   error
}

func (a *answer) begin(h Header) {
	a.h, a.total, a.crc, a.err = h, 0, 0, nil
	if a.buf == nil {
		a.buf = make([]byte, 0, headerBytes+partBytes)
	}
	a.buf = a.buf[:headerBytes]
}

// Write takes a part of the answer.
func (a *answer) Write(p []byte) (n int, err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for len(p) > 0 && a.err == nil {
		k := min(len(p), cap(a.buf)-len(a.buf))
		a.buf = append(a.buf, p[:k]...)
		p, n = p[k:], n+k
		if len(a.buf) == cap(a.buf) {
			a.part()
		}
	}
	return n, a.err
}

// part sends what is in the buffer.
func (a *answer) part() {
	body := a.buf[headerBytes:]
	crc := crc32.Checksum(body, castagnoli)
	a.total += uint64(len(body))
	a.crc = crc32.Update(a.crc, castagnoli, body)
	a.h.Kind = kindData
	appendHeader(a.buf[:0], a.h, len(body), crc)
	if a.err == nil {
		a.err = a.c.write(a.buf)
	}
	a.buf, a.sent = a.buf[:headerBytes], true
}

// signs sends what there is, or a sign of life, whenever nothing was sent since the last tick.
func (a *answer) signs(tick <-chan time.Time, stop <-chan struct{}) {
	for {
		select {
		case <-stop:
			return
		case <-tick:
		}
		a.mu.Lock()
		if !a.sent {
			a.part()
		}
		a.sent = false
		a.mu.Unlock()
	}
}

// end sends the rest, and the trailer.
func (a *answer) end(failed error) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if failed == nil && len(a.buf) > headerBytes {
		a.part()
	}
	if a.err != nil {
		return a.err
	}
	le := binary.LittleEndian
	if failed != nil {
		a.h.Kind = kindFailed
		return a.c.write(appendFrame(nil, a.h, le.AppendUint32(nil, code(failed)), []byte(clip(failed.Error()))))
	}
	a.h.Kind = kindEnd
	trailer := le.AppendUint32(le.AppendUint64(nil, a.total), a.crc)
	return a.c.write(appendFrame(nil, a.h, le.AppendUint32(trailer, 0)))
}
