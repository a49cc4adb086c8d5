package transport

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"errors"
	"io"
	"log/slog"
	"net"
	"path/filepath"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/remora-storage/remora/sidecar/identity"
)

// TestSlowReader: a peer that does not read costs a bounded queue, and nothing of what was taken is lost.
func TestSlowReader(t *testing.T) {
	w := newWorld(t)
	const limit = 256 << 10
	a, b := w.peer("db-0", func(c *Config) { c.QueueBytes = limit }), w.peer("db-1")
	release := b.holds(t)
	body := make([]byte, 32<<10)
	var taken []uint64
	refused := 0
	for i := uint64(0); refused < 3; i++ {
		binary.LittleEndian.PutUint64(body, i)
		if a.Send(b.Addr(), Header{1, i, 1, 2, nil}, body) {
			taken, refused = append(taken, i), 0
			runtime.Gosched()
		} else {
			refused++
		}
		q := a.links[b.Addr()].q
		q.mu.Lock()
		require.LessOrEqual(t, q.bytes, limit)
		q.mu.Unlock()
	}
	require.GreaterOrEqual(t, a.count.dropped[dropQueueFull].Load(), uint64(3))
	release()
	for i, f := range b.frames(t, len(taken)) {
		require.Equal(t, taken[i], f.Group)
		require.Equal(t, taken[i], binary.LittleEndian.Uint64(f.Body))
	}
}

// TestPeerComesBack: at the same address, after a while without it.
func TestPeerComesBack(t *testing.T) {
	w := newWorld(t)
	a, b := w.peer("db-0"), w.peer("db-1")
	require.True(t, a.Send(b.Addr(), Header{1, 7, 1, 2, nil}))
	b.frames(t, 1)
	require.NoError(t, b.Close())
	eventually(t, "what is sent is dropped", func() bool {
		a.Send(b.Addr(), Header{1, 7, 1, 2, nil})
		return a.count.dropped[dropUnreachable].Load() > 10
	})
	require.Less(t, a.count.dials.get("connect"), a.count.dropped[dropUnreachable].Load(), "not a connection for each frame")
	again := w.peer("db-1", func(c *Config) { c.Listen = b.Addr() })
	eventually(t, "and arrives again", func() bool {
		a.Send(b.Addr(), Header{1, 7, 1, 2, nil})
		again.mu.Lock()
		defer again.mu.Unlock()
		return len(again.got) > 0
	})
}

// TestHalfOpen: ends that say nothing are not waited for.
func TestHalfOpen(t *testing.T) {
	short := func(c *Config) { c.DeadAfter, c.DialTimeout = 100*time.Millisecond, patience }
	w := newWorld(t)
	t.Run("a server that answers no ping", func(t *testing.T) {
		a := newWorldOf(t, w.ca).peer("db-0", short)
		addr, got := fakeServer(t, clientConfig(w.issue(member("db-1")), protoFrames))
		require.True(t, a.Send(addr, Header{1, 7, 1, 2, nil}))
		require.GreaterOrEqual(t, len(<-got), headerBytes, "the frame, perhaps pings, and then we closed")
		a.says(t, "nothing was heard")
	})
	t.Run("a client that does not ping", func(t *testing.T) {
		b := newWorldOf(t, w.ca).peer("db-1", short)
		conn, _ := w.dialAs(member("db-0"), b.Addr(), protoFrames)
		_, err := io.Copy(io.Discard, conn)
		require.False(t, isTimeout(err), "closed, well before our own patience")
		eventually(t, "gone", func() bool { return b.count.connections[inbound].Load() == 0 })
	})
	t.Run("a client without a handshake", func(t *testing.T) {
		b := newWorldOf(t, w.ca).peer("db-1", func(c *Config) { c.DialTimeout = 50 * time.Millisecond })
		conn, err := net.Dial("tcp", b.Addr())
		require.NoError(t, err)
		defer conn.Close()
		require.NoError(t, conn.SetReadDeadline(time.Now().Add(patience)))
		_, err = conn.Read(make([]byte, 1))
		require.ErrorIs(t, err, io.EOF)
		eventually(t, "counted", func() bool { return b.count.refused.get("timeout") == 1 })
	})
	t.Run("a server without a handshake", func(t *testing.T) {
		l, err := net.Listen("tcp", "127.0.0.1:0") // the kernel connects, and nobody accepts
		require.NoError(t, err)
		defer l.Close()
		a := newWorldOf(t, w.ca).peer("db-0", func(c *Config) { c.DialTimeout = 50 * time.Millisecond })
		require.True(t, a.Send(l.Addr().String(), Header{1, 7, 1, 2, nil}))
		eventually(t, "dropped", func() bool { return a.count.dropped[dropUnreachable].Load() == 1 })
		require.EqualValues(t, 1, a.count.dials.get("timeout")+a.count.dials.get("connect")) // the latter on a busy machine
	})
}

func isTimeout(err error) bool {
	t, ok := err.(interface{ Timeout() bool })
	return ok && t.Timeout()
}

// TestManyConnections: more than may be are refused, and those that are there go on.
func TestManyConnections(t *testing.T) {
	w := newWorld(t)
	a, b := w.peer("db-0"), w.peer("db-1", func(c *Config) { c.MaxConns = 2 })
	require.True(t, a.Send(b.Addr(), Header{1, 7, 1, 2, nil}))
	b.frames(t, 1)
	for range 4 {
		c, err := net.Dial("tcp", b.Addr())
		require.NoError(t, err)
		defer c.Close()
	}
	eventually(t, "refused", func() bool { return b.count.refused.get("too_many") == 3 })
	require.True(t, a.Send(b.Addr(), Header{1, 7, 1, 2, nil}))
	b.frames(t, 2)
}

// credentials are files of a pod that a test writes anew.
type credentials struct {
	w     *world
	dir   string
	files *identity.Files
	id    Identity
}

func (w *world) credentials(pod string, now func() time.Time) (*credentials, func(*Config)) {
	w.t.Helper()
	c := &credentials{w: w, dir: filepath.Join(w.t.TempDir(), pod), id: member(pod)}
	c.renew()
	var err error
	c.files, err = identity.Open(identity.FilesConfig{Dir: c.dir, Every: time.Nanosecond, Now: now, Logger: slog.New(slog.DiscardHandler)})
	require.NoError(w.t, err)
	return c, func(cfg *Config) { cfg.TLS, cfg.Tick, cfg.Now = c.files.TLS, 2*time.Millisecond, now }
}

func (c *credentials) renew() {
	c.w.t.Helper()
	creds, err := c.w.ca.Issue(c.id, 0)
	require.NoError(c.w.t, err)
	require.NoError(c.w.t, identity.Write(c.dir, creds))
}

// TestRotationUnderLoad: certificates and roots change while frames flow; each arrives, once, in order.
func TestRotationUnderLoad(t *testing.T) {
	w := newWorld(t)
	credsA, cfgA := w.credentials("db-0", nil)
	credsB, cfgB := w.credentials("db-1", nil)
	a, b := w.peer("db-0", cfgA), w.peer("db-1", cfgB)
	arrived := func() uint64 { b.mu.Lock(); defer b.mu.Unlock(); return uint64(len(b.got)) }

	stop := make(chan struct{})
	sent := make(chan uint64)
	var dropped atomic.Uint64
	go func() {
		defer close(sent)
		i := uint64(0)
		for ; ; i++ {
			for i > arrived()+200 {
				runtime.Gosched()
			}
			select {
			case <-stop:
				sent <- i
				return
			default:
			}
			if !a.Send(b.Addr(), Header{1, i, 1, 2, nil}, []byte("0123456789")) {
				dropped.Add(1)
			}
		}
	}()
	b.frames(t, 10)
	dials := func() uint64 { return a.count.dials.get("ok") }
	for round := range 9 {
		if round%3 == 2 {
			require.NoError(t, w.ca.Rotate())
		}
		before, had := dials(), arrived()
		if round%2 == 0 {
			credsA.renew()
		}
		credsB.renew() // its roots; who dials takes it as a reason only when its own certificate or roots change
		if round%2 == 1 {
			credsA.renew()
		}
		eventually(t, "a new connection", func() bool { return dials() > before })
		eventually(t, "and frames on it", func() bool { return arrived() > had+500 })
	}
	close(stop)
	n := <-sent
	got := b.frames(t, int(n))
	require.Zero(t, dropped.Load(), "log:\n%s\n%s", a.log, b.log)
	for i, f := range got {
		require.Equal(t, uint64(i), f.Group)
	}
	require.Len(t, got, int(n))
}

// TestNewConnectionWaitsForTheOld: what was sent over the old one is received first, however slow the peer is.
func TestNewConnectionWaitsForTheOld(t *testing.T) {
	w := newWorld(t)
	creds, cfg := w.credentials("db-0", nil)
	a, b := w.peer("db-0", cfg), w.peer("db-1")
	release := b.holds(t)
	const n = 200
	send := func(from uint64) {
		for i := range uint64(n) {
			require.True(t, a.Send(b.Addr(), Header{1, from + i, 1, 2, nil}))
		}
	}
	send(0)
	eventually(t, "sent", func() bool { return a.count.frames[outbound].Load() == n })
	creds.renew()
	eventually(t, "a new connection", func() bool { return a.count.dials.get("ok") == 2 })
	send(n)
	release()
	for i, f := range b.frames(t, 2*n) {
		require.Equal(t, uint64(i), f.Group)
	}
}

// TestPeerIsGivenMoreVolumes: a peer whose new certificate names more is known to have it, over connections that were made before.
func TestPeerIsGivenMoreVolumes(t *testing.T) {
	w := newWorld(t)
	creds, cfg := w.credentials("db-1", nil)
	a, b := w.peer("db-0", func(c *Config) { c.Tick = 2 * time.Millisecond }), w.peer("db-1", cfg)
	a.authorize = func(peer Identity, group, _, _ uint64) error {
		if group == 8 && !peer.Has("data-db-1") {
			return errors.New("it has no such volume")
		}
		return nil
	}
	b.bulk = func(_ context.Context, _ Request, w io.Writer) error { return nil }
	fetch := func(group uint64) error {
		r, err := a.Transport.Bulk(t.Context(), b.Addr(), Request{1, group, 1, 2, nil})
		if err == nil {
			_, err = io.Copy(io.Discard, r)
		}
		return err
	}
	require.True(t, a.Send(b.Addr(), Header{1, 7, 1, 2, nil}))
	b.frames(t, 1)
	require.NoError(t, fetch(7))
	a.Send(b.Addr(), Header{1, 8, 1, 2, nil})
	eventually(t, "refused", func() bool { return a.count.dropped[dropRefused].Load() > 0 })
	require.ErrorContains(t, fetch(8), "no such volume")
	require.NoError(t, fetch(7))

	creds.id.Volumes = append(creds.id.Volumes, "data-db-1")
	creds.renew()
	require.NoError(t, fetch(8))
	eventually(t, "sent", func() bool {
		a.Send(b.Addr(), Header{1, 8, 1, 2, nil})
		b.mu.Lock()
		defer b.mu.Unlock()
		return len(b.got) > 1
	})
}

// TestPings: who sends pings, so that a receiver knows that it is there.
func TestPings(t *testing.T) {
	w := newWorld(t)
	pings := make(chan error, 1)
	a := w.peer("db-0", func(c *Config) { c.Tick = 2 * time.Millisecond })
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer l.Close()
	config := clientConfig(w.issue(member("db-1")), protoFrames)
	config.ClientAuth = tls.RequireAnyClientCert
	go func() {
		nc, err := l.Accept()
		if err != nil {
			pings <- err
			return
		}
		defer nc.Close()
		_ = nc.SetDeadline(time.Now().Add(patience))
		c := tls.Server(nc, config)
		_, _ = c.Write(appendFrame(nil, Header{Kind: kindHello}))
		r := &frameReader{r: c, maxBody: 100}
		for n := 0; n < 3; {
			h, err := r.next()
			if err != nil {
				pings <- err
				return
			}
			if h.Kind == kindPing {
				n++
			}
		}
		pings <- nil
	}()
	require.True(t, a.Send(l.Addr().String(), Header{1, 7, 1, 2, nil}))
	require.NoError(t, <-pings)
}

// TestPong: the answer to a ping is a pong, at once.
func TestPong(t *testing.T) {
	w := newWorld(t)
	b := w.peer("db-1")
	conn, r := w.dialAs(member("db-0"), b.Addr(), protoFrames)
	for range 3 {
		_, err := conn.Write(appendFrame(nil, Header{Kind: kindPing}))
		require.NoError(t, err)
		h, err := r.next()
		require.NoError(t, err)
		require.Equal(t, Header{Kind: kindPong}, h)
	}
	_, err := conn.Write(appendFrame(nil, Header{1, 7, 1, 2, nil}, make([]byte, pongEvery)))
	require.NoError(t, err)
	h, err := r.next()
	require.NoError(t, err, "and to much without a ping")
	require.Equal(t, Header{Kind: kindPong}, h)
}

// wallClock is a clock that a test moves.
type wallClock struct{ offset atomic.Int64 }

func (c *wallClock) now() time.Time { return time.Now().Add(time.Duration(c.offset.Load())) }

// TestExpiry: connections end when a certificate does, and come back with a new one.
func TestExpiry(t *testing.T) {
	for _, late := range []string{"both", "receiver"} {
		t.Run(late, func(t *testing.T) {
			var clockA, clockB wallClock
			w := newWorld(t)
			credsA, cfgA := w.credentials("db-0", clockA.now)
			credsB, cfgB := w.credentials("db-1", clockB.now)
			a, b := w.peer("db-0", cfgA), w.peer("db-1", cfgB)
			require.True(t, a.Send(b.Addr(), Header{1, 7, 1, 2, nil}))
			b.frames(t, 1)
			if late == "both" {
				clockA.offset.Store(int64(2 * time.Hour))
			}
			clockB.offset.Store(int64(2 * time.Hour))
			eventually(t, "closed", func() bool {
				return a.count.connections[outbound].Load() == 0 && b.count.connections[inbound].Load() == 0
			})
			had := len(b.frames(t, 1))
			eventually(t, "refused", func() bool {
				a.Send(b.Addr(), Header{1, 7, 1, 2, nil})
				return a.count.dropped[dropUnreachable].Load() > 3
			})
			require.Len(t, b.frames(t, 1), had, "nothing arrived")
			eventually(t, "said", func() bool { return strings.Contains(a.log.String()+b.log.String(), "expired") })

			clockA.offset.Store(0) // as if both had been issued anew
			clockB.offset.Store(0)
			credsA.renew()
			credsB.renew()
			eventually(t, "and again", func() bool {
				a.Send(b.Addr(), Header{1, 7, 1, 2, nil})
				b.mu.Lock()
				defer b.mu.Unlock()
				return len(b.got) > had
			})
		})
	}
}

// TestRootTakenAway: a root that is not trusted any more ends the connections that it vouched for.
func TestRootTakenAway(t *testing.T) {
	w := newWorld(t)
	first, second := w.issue(member("db-1")), newWorld(t).issue(member("db-1"))
	var gone atomic.Bool
	b := w.peer("db-1", func(c *Config) {
		c.TLS = func() (*tls.Certificate, *x509.CertPool, error) {
			if gone.Load() {
				return second()
			}
			return first()
		}
	})
	a := w.peer("db-0", func(c *Config) { c.Tick = 2 * time.Millisecond })
	require.True(t, a.Send(b.Addr(), Header{1, 7, 1, 2, nil}))
	b.frames(t, 1)
	gone.Store(true)
	eventually(t, "refused", func() bool { return b.count.refused.get("unknown_authority") > 0 })
	eventually(t, "closed", func() bool { return b.count.connections[inbound].Load() == 0 })
}

func TestIdleLinkIsForgotten(t *testing.T) {
	w := newWorld(t)
	a, b := w.peer("db-0", func(c *Config) { c.IdleAfter, c.Tick = time.Millisecond, 2*time.Millisecond }), w.peer("db-1")
	for i := range 3 {
		require.True(t, a.Send(b.Addr(), Header{1, 7, 1, 2, nil}))
		b.frames(t, i+1)
		eventually(t, "forgotten", func() bool {
			a.Transport.mu.RLock()
			defer a.Transport.mu.RUnlock()
			return len(a.links) == 0 && a.count.connections[outbound].Load() == 0 && b.count.connections[inbound].Load() == 0
		})
	}
	require.Zero(t, a.count.dropped[dropUnreachable].Load())
}

// TestNothingIsLeft: after Close no goroutine of the transport runs, whatever was under way.
func TestNothingIsLeft(t *testing.T) {
	w := newWorld(t)
	forever := func(c *Config) { c.DeadAfter, c.DialTimeout = time.Hour, time.Hour } // Close waits for none of these
	a, b := w.peer("db-0", forever), w.peer("db-1", forever)
	l, err := net.Listen("tcp", "127.0.0.1:0") // nobody accepts
	require.NoError(t, err)
	defer l.Close()
	release := b.holds(t)
	for range 100 {
		a.Send(b.Addr(), Header{1, 7, 1, 2, nil}, make([]byte, 1<<20))
		a.Send(l.Addr().String(), Header{1, 7, 1, 2, nil})
		a.Send("127.0.0.1:1", Header{1, 7, 1, 2, nil})
	}
	b.bulk = func(_ context.Context, _ Request, w io.Writer) error { return endless(w) }
	r, err := a.Transport.Bulk(t.Context(), b.Addr(), Request{1, 7, 1, 2, nil})
	require.NoError(t, err)
	conn, _ := w.dialAs(member("db-9"), b.Addr(), protoFrames)
	require.NoError(t, a.Close())
	_, err = io.Copy(io.Discard, r)
	require.Error(t, err)
	release()
	require.NoError(t, b.Close())
	require.NoError(t, b.Close(), "a second Close does nothing")
	require.False(t, a.Send(b.Addr(), Header{1, 7, 1, 2, nil}))
	_, err = a.Transport.Bulk(t.Context(), b.Addr(), Request{1, 7, 1, 2, nil})
	require.ErrorIs(t, err, ErrClosed)
	_ = conn.Close()
	eventually(t, "goroutines", func() bool {
		dump := make([]byte, 1<<20)
		dump = dump[:runtime.Stack(dump, true)]
		for _, g := range bytes.Split(dump, []byte("\n\n")) {
			if bytes.Contains(g, []byte("transport.(*")) && !bytes.Contains(g, []byte("TestNothingIsLeft")) {
				return false
			}
		}
		return true
	})
}
