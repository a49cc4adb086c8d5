package transport

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func endless(w io.Writer) error {
	part := make([]byte, 10000)
	for {
		if _, err := w.Write(part); err != nil {
			return err
		}
	}
}

var ask = Request{Kind: 1, Group: 7, From: 1, To: 2, Body: []byte("what?")}

// TestBulkBroken: whatever ends an answer before its trailer, the reader does not see io.EOF.
func TestBulkBroken(t *testing.T) {
	w := newWorld(t)
	answer := Header{Group: 7, From: 2, To: 1}
	frame := func(kind uint8, body string) []byte {
		h := answer
		h.Kind = kind
		return appendFrame(nil, h, []byte(body))
	}
	trailer := func(n int, of string) string {
		crc := crcOf([]byte(of))
		return string([]byte{byte(n), 0, 0, 0, 0, 0, 0, 0, byte(crc), byte(crc >> 8), byte(crc >> 16), byte(crc >> 24), 0, 0, 0, 0})
	}
	other := appendFrame(nil, Header{kindData, 8, 2, 1, nil}, []byte("other"))
	part := frame(kindData, "part")
	bad := bytes.Clone(part)
	bad[headerBytes] ^= 1
	for name, c := range map[string]struct {
		frames [][]byte
		want   string // in the error; empty: it is good
	}{
		"good": {[][]byte{part, frame(kindEnd, trailer(4, "part"))}, ""},
		"good, in parts": {[][]byte{frame(kindData, "pa"), frame(kindData, ""), frame(kindData, "rt"),
			frame(kindEnd, trailer(4, "part"))}, ""},
		"closed before":      {nil, "inside a frame"},
		"closed within":      {[][]byte{part}, "inside a frame"},
		"closed in a frame":  {[][]byte{part, part[:20]}, "inside a frame"},
		"too few":            {[][]byte{part, frame(kindEnd, trailer(5, "part"))}, "trailer"},
		"other bytes":        {[][]byte{part, frame(kindEnd, trailer(4, "tarp"))}, "trailer"},
		"short trailer":      {[][]byte{part, frame(kindEnd, "")}, "not expected"},
		"another's answer":   {[][]byte{other}, "another request"},
		"a frame":            {[][]byte{frame(5, "")}, "not expected"},
		"bad part":           {[][]byte{bad}, "checksum"},
		"long part":          {[][]byte{appendHeader(nil, Header{kindData, 7, 2, 1, nil}, partBytes+1, 0)}, "allowed: 65536"},
		"noise":              {[][]byte{bytes.Repeat([]byte("noise"), 30)}, "no frame of Remora"},
		"bye":                {[][]byte{part, frame(kindBye, "no\nmore")}, "no more"},
		"failed":             {[][]byte{part, frame(kindFailed, "\x07\x00\x00\x00it is gone")}, "it is gone"},
		"failed, short":      {[][]byte{part, frame(kindFailed, "\x07")}, "not expected"},
		"refused at the top": {[][]byte{frame(kindBye, "you?")}, "you?"},
	} {
		t.Run(name, func(t *testing.T) {
			a := newWorldOf(t, w.ca).peer("db-0")
			addr := bulkServer(t, clientConfig(w.issue(member("db-1")), protoBulk), c.frames)
			var got []byte
			r, err := a.Transport.Bulk(t.Context(), addr, ask)
			if err == nil {
				got, err = io.ReadAll(r)
				require.NoError(t, r.Close())
			}
			if c.want == "" {
				require.NoError(t, err)
				require.Equal(t, "part", string(got))
				return
			}
			require.ErrorContains(t, err, c.want)
			require.NotErrorIs(t, err, io.EOF)
		})
	}
}

// bulkServer answers one request with these bytes, and closes.
func bulkServer(t testing.TB, config *tls.Config, frames [][]byte) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	config.ClientAuth = tls.RequireAnyClientCert
	done, end := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		nc, err := l.Accept()
		if err != nil {
			return
		}
		defer nc.Close()
		_ = nc.SetDeadline(time.Now().Add(patience))
		c := tls.Server(nc, config)
		_, _ = c.Write(appendFrame(nil, Header{Kind: kindHello}))
		r := &frameReader{r: c, maxBody: 1 << 20}
		if _, err := r.next(); err != nil {
			return
		}
		if _, err := r.body(nil); err != nil {
			return
		}
		for _, f := range frames {
			_, _ = c.Write(f)
		}
		_ = c.CloseWrite()
		<-end
	}()
	t.Cleanup(func() { _ = l.Close(); close(end); <-done })
	return l.Addr().String()
}

// TestBulkIsGivenUp: a reader that closes, or whose context ends, ends the handler at the other end.
func TestBulkIsGivenUp(t *testing.T) {
	w := newWorld(t)
	a, b := w.peer("db-0"), w.peer("db-1")
	ended := make(chan error, 2)
	b.bulk = func(ctx context.Context, r Request, w io.Writer) error {
		var err error
		if r.Kind == 1 {
			err = endless(w)
		} else {
			_, _ = w.Write(make([]byte, partBytes)) // so that the answer begins
			<-ctx.Done()
			err = ctx.Err()
		}
		ended <- err
		return err
	}
	for _, kind := range []uint8{1, 2} {
		r, err := a.Transport.Bulk(t.Context(), b.Addr(), Request{Kind: kind, Group: 7, From: 1, To: 2})
		require.NoError(t, err)
		_, err = io.ReadFull(r, make([]byte, 100))
		require.NoError(t, err)
		require.NoError(t, r.Close())
		require.Error(t, <-ended)
		_, err = r.Read(make([]byte, 1))
		require.ErrorIs(t, err, context.Canceled)

		ctx, cancel := context.WithCancel(t.Context())
		r, err = a.Transport.Bulk(ctx, b.Addr(), Request{Kind: kind, Group: 7, From: 1, To: 2})
		require.NoError(t, err)
		cancel()
		_, err = io.Copy(io.Discard, r)
		require.ErrorIs(t, err, context.Canceled)
		require.Error(t, <-ended)
	}
}

// TestBulkWaits: a handler that thinks for longer than a stall may last is waited for, because signs of life come.
func TestBulkWaits(t *testing.T) {
	w := newWorld(t)
	stall := func(c *Config) { c.BulkStall = 400 * time.Millisecond }
	a, b := w.peer("db-0", func(c *Config) { c.BulkStall = patience }), w.peer("db-1", stall)
	release := make(chan struct{})
	b.bulk = func(_ context.Context, _ Request, w io.Writer) error {
		_, err := w.Write([]byte("at once, "))
		<-release
		_, err2 := w.Write([]byte("and later"))
		return errors.Join(err, err2)
	}
	r, err := a.Transport.Bulk(t.Context(), b.Addr(), ask)
	require.NoError(t, err)
	first := make([]byte, 9)
	_, err = io.ReadFull(r, first) // only a sign of life brings it: the part is not full
	require.NoError(t, err)
	require.Equal(t, "at once, ", string(first))
	close(release)
	rest, err := io.ReadAll(r)
	require.NoError(t, err)
	require.Equal(t, "and later", string(rest))

	c := w.peer("db-2", stall) // a server that says nothing at all
	l := silentServer(t, clientConfig(w.issue(member("db-1")), protoBulk))
	_, err = c.Transport.Bulk(t.Context(), l, ask)
	require.Error(t, err)
	require.True(t, isTimeout(errors.Unwrap(err)), "%v", err)
}

// silentServer says hello, and no more.
func silentServer(t testing.TB, config *tls.Config) string {
	t.Helper()
	addr, _ := fakeServer(t, config)
	return addr
}

// TestBulkAtATime: so many answers are open at a time; who waits may give up.
func TestBulkAtATime(t *testing.T) {
	w := newWorld(t)
	a, b := w.peer("db-0", func(c *Config) { c.BulkPerPeer = 2 }), w.peer("db-1")
	var open, most atomic.Int64
	b.bulk = func(_ context.Context, _ Request, w io.Writer) error {
		n := open.Add(1)
		defer open.Add(-1)
		for {
			if m := most.Load(); n <= m || most.CompareAndSwap(m, n) {
				break
			}
		}
		_, err := w.Write(bytes.Repeat([]byte("x"), 300<<10))
		return err
	}
	one, err := a.Transport.Bulk(t.Context(), b.Addr(), ask)
	require.NoError(t, err)
	two, err := a.Transport.Bulk(t.Context(), b.Addr(), ask)
	require.NoError(t, err)
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	_, err = a.Transport.Bulk(ctx, b.Addr(), ask)
	require.ErrorIs(t, err, context.DeadlineExceeded)
	require.ErrorContains(t, err, "2 are under way")
	require.NoError(t, one.Close())
	_, err = io.ReadAll(two)
	require.NoError(t, err)
	results := make(chan error)
	for range 8 {
		go func() {
			r, err := a.Transport.Bulk(t.Context(), b.Addr(), ask)
			if err == nil {
				var n int64
				if n, err = io.Copy(io.Discard, r); err == nil && n != 300<<10 {
					err = fmt.Errorf("%d bytes", n)
				}
			}
			results <- err
		}()
	}
	for range 8 {
		require.NoError(t, <-results)
	}
	require.LessOrEqual(t, most.Load(), int64(3), "two, and the one that was closed before its handler noticed")
}

// TestBulkAfterARestart: a connection that waited, and whose peer is a new process, is no error.
func TestBulkAfterARestart(t *testing.T) {
	w := newWorld(t)
	a, b := w.peer("db-0"), w.peer("db-1")
	hello := func(_ context.Context, r Request, w io.Writer) error { _, err := w.Write(r.Body); return err }
	b.bulk = hello
	get := func() {
		r, err := a.Transport.Bulk(t.Context(), b.Addr(), ask)
		require.NoError(t, err)
		got, err := io.ReadAll(r)
		require.NoError(t, err)
		require.Equal(t, "what?", string(got))
	}
	get()
	require.NoError(t, b.Close())
	again := w.peer("db-1", func(c *Config) { c.Listen = b.Addr(); c.Handler.(*peer).bulk = hello })
	get()
	require.EqualValues(t, 2, a.count.dials.get("ok"))
	require.NoError(t, again.Close())
	_, err := a.Transport.Bulk(t.Context(), b.Addr(), ask)
	require.Error(t, err)
}

func TestBulkRefusesWhatItCannotSend(t *testing.T) {
	a := newWorld(t).peer("db-0", func(c *Config) { c.MaxFrame = 100 })
	for _, r := range []Request{{Kind: 0}, {Kind: firstOwnKind}, {Kind: 1, Body: make([]byte, 101)}} {
		_, err := a.Transport.Bulk(t.Context(), "127.0.0.1:1", r)
		require.ErrorContains(t, err, "allowed: 1 to 239, and at most 100 bytes")
	}
	require.False(t, a.Send("127.0.0.1:1", Header{Kind: firstOwnKind}))
	require.False(t, a.Send("127.0.0.1:1", Header{Kind: 1}, make([]byte, 60), make([]byte, 41)))
	require.EqualValues(t, 2, a.count.dropped[dropTooLong].Load())
	long := clip(strings.Repeat("ä", maxText))
	require.LessOrEqual(t, len(long), maxText-8)
}
