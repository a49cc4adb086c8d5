package transport

import (
	"bytes"
	"context"
	"crypto"
	"crypto/tls"
	"crypto/x509"
	"hash/crc32"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/remora-storage/remora/sidecar/identity"
)

// patience is how long a test waits for what must happen; the machine may be busy.
const patience = 60 * time.Second

// peer is a process of a test: a transport, and what arrived there.
type peer struct {
	*Transport
	id  Identity
	log *logBuffer

	mu        sync.Mutex // guards what follows
	authorize func(peer Identity, group, from, to uint64) error
	got       []Frame
	from      []Identity
	arrived   chan struct{} // closed and made again by each frame
	hold      chan struct{} // Receive waits until it is closed
	bulk      func(ctx context.Context, r Request, w io.Writer) error
}

func (p *peer) Authorize(who Identity, group, from, to uint64) error {
	p.mu.Lock()
	f := p.authorize
	p.mu.Unlock()
	if f == nil {
		return nil
	}
	return f(who, group, from, to)
}

func (p *peer) Receive(who Identity, f Frame) {
	p.mu.Lock()
	hold := p.hold
	p.mu.Unlock()
	if hold != nil {
		<-hold
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.got, p.from = append(p.got, f), append(p.from, who)
	close(p.arrived)
	p.arrived = make(chan struct{})
}

func (p *peer) Bulk(ctx context.Context, _ Identity, r Request, w io.Writer) error {
	p.mu.Lock()
	f := p.bulk
	p.mu.Unlock()
	return f(ctx, r, w)
}

// holds has Receive wait until the test releases it, or ends.
func (p *peer) holds(t testing.TB) (release func()) {
	hold := make(chan struct{})
	p.mu.Lock()
	p.hold = hold
	p.mu.Unlock()
	release = sync.OnceFunc(func() { close(hold) })
	t.Cleanup(release)
	return release
}

// frames waits until n frames arrived.
func (p *peer) frames(t testing.TB, n int) []Frame {
	t.Helper()
	timer := time.NewTimer(patience)
	defer timer.Stop()
	for {
		p.mu.Lock()
		got, arrived := p.got, p.arrived
		p.mu.Unlock()
		if len(got) >= n {
			return got
		}
		select {
		case <-arrived:
		case <-timer.C:
			t.Fatalf("%d frames of %d arrived; log:\n%s", len(got), n, p.log)
		}
	}
}

// logBuffer keeps log lines.
type logBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logBuffer) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(b)
}

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// world makes peers with certificates of one authority.
type world struct {
	t   testing.TB
	dir string // of the authority
	ca  *identity.CA
}

// root reads the authority's root and key from its file.
func (w *world) root() (*x509.Certificate, crypto.Signer) {
	w.t.Helper()
	b, err := os.ReadFile(filepath.Join(w.dir, "ca.pem"))
	require.NoError(w.t, err)
	pair, err := tls.X509KeyPair(b, b)
	require.NoError(w.t, err)
	return pair.Leaf, pair.PrivateKey.(crypto.Signer)
}

func newWorld(t testing.TB) *world {
	dir := t.TempDir()
	ca, err := identity.OpenCA(dir, nil)
	require.NoError(t, err)
	return &world{t, dir, ca}
}

// newWorldOf is the same authority, for a test inside a test.
func newWorldOf(t testing.TB, ca *identity.CA) *world { return &world{t: t, ca: ca} }

// fixed is credentials that do not change.
func fixed(t testing.TB, c *identity.Credentials) func() (*tls.Certificate, *x509.CertPool, error) {
	cert := &tls.Certificate{PrivateKey: c.Key, Leaf: c.Chain[0]}
	for _, x := range c.Chain {
		cert.Certificate = append(cert.Certificate, x.Raw)
	}
	roots := x509.NewCertPool()
	for _, r := range c.Roots {
		roots.AddCert(r)
	}
	return func() (*tls.Certificate, *x509.CertPool, error) { return cert, roots, nil }
}

func (w *world) issue(id Identity) func() (*tls.Certificate, *x509.CertPool, error) {
	w.t.Helper()
	c, err := w.ca.Issue(id, 0)
	require.NoError(w.t, err)
	return fixed(w.t, c)
}

func member(pod string) Identity {
	return Identity{Tenant: "shop", Pod: pod, Volumes: []string{"data-db-0"}}
}

// peer opens a transport of pod; change may alter its configuration.
func (w *world) peer(pod string, change ...func(*Config)) *peer {
	w.t.Helper()
	p := &peer{id: member(pod), log: new(logBuffer), arrived: make(chan struct{})}
	cfg := Config{
		Listen: "127.0.0.1:0", TLS: w.issue(p.id), Self: p.id, Handler: p,
		Logger:     slog.New(slog.NewTextHandler(p.log, &slog.HandlerOptions{Level: slog.LevelDebug})),
		BackoffMin: time.Millisecond, BackoffMax: 20 * time.Millisecond, DeadAfter: 30 * time.Second, DialTimeout: 30 * time.Second,
	}
	for _, c := range change {
		c(&cfg)
	}
	eventually(w.t, "open", func() bool { // an address that was used before may have been given to somebody for a moment
		var err error
		p.Transport, err = Open(w.t.Context(), cfg)
		require.True(w.t, err == nil || cfg.Listen != "127.0.0.1:0", "%v", err)
		return err == nil
	})
	w.t.Cleanup(func() { require.NoError(w.t, p.Close()) })
	return p
}

// eventually polls until ok, with a deadline that a busy machine keeps.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	require.Eventually(t, ok, patience, 2*time.Millisecond, what)
}

// says waits for a line in the log.
func (p *peer) says(t testing.TB, text string) {
	t.Helper()
	eventually(t, text, func() bool { return strings.Contains(p.log.String(), text) })
}

func TestFramesArrive(t *testing.T) {
	w := newWorld(t)
	a, b := w.peer("db-0"), w.peer("db-1")
	big := bytes.Repeat([]byte("0123456789abcdef"), 300<<10/16)
	require.True(t, a.Send(b.Addr(), Header{Kind: 1, Group: 7, From: 1, To: 2}, []byte("one "), nil, []byte("frame")))
	require.True(t, a.Send(b.Addr(), Header{Kind: 2, Group: 1 << 63, From: 1 << 62, To: 2}))
	require.True(t, a.Send(b.Addr(), Header{Kind: 239, Group: 7, From: 1, To: 2}, big))
	got := b.frames(t, 3)
	require.Equal(t, []Frame{
		{1, 7, 1, 2, []byte("one frame")},
		{2, 1 << 63, 1 << 62, 2, nil},
		{239, 7, 1, 2, big},
	}, got)
	require.Equal(t, a.id, b.from[0])
	require.True(t, b.Send(a.Addr(), Header{Kind: 9, Group: 7, From: 2, To: 1}, []byte("back")))
	require.Equal(t, "back", string(a.frames(t, 1)[0].Body))
}

func TestOrderOfManyFrames(t *testing.T) {
	w := newWorld(t)
	a, b := w.peer("db-0"), w.peer("db-1")
	const n = 20000
	for i := range n {
		require.True(t, a.Send(b.Addr(), Header{Kind: 1, Group: uint64(i)}, []byte(strings.Repeat("x", i%300))))
	}
	for i, f := range b.frames(t, n) {
		require.Equal(t, uint64(i), f.Group)
		require.Len(t, f.Body, i%300)
	}
}

func TestBulk(t *testing.T) {
	w := newWorld(t)
	a, b := w.peer("db-0"), w.peer("db-1")
	b.bulk = func(_ context.Context, r Request, w io.Writer) error {
		for range r.To {
			if _, err := w.Write(r.Body); err != nil {
				return err
			}
		}
		if r.Kind == 9 {
			return coded{"no such blob", 404}
		}
		return nil
	}
	body := bytes.Repeat([]byte("content!"), 10000)
	for _, times := range []uint64{0, 1, 3, 40} {
		r, err := a.Transport.Bulk(t.Context(), b.Addr(), Request{Kind: 1, Group: 7, From: 1, To: times, Body: body})
		require.NoError(t, err)
		got, err := io.ReadAll(r)
		require.NoError(t, err)
		require.NoError(t, r.Close())
		require.Equal(t, bytes.Repeat(body, int(times)), got)
	}
	require.EqualValues(t, 1, b.count.connections[inbound].Load(), "requests share a connection")

	_, err := a.Transport.Bulk(t.Context(), b.Addr(), Request{Kind: 9, Group: 7, From: 1})
	var remote *RemoteError
	require.ErrorAs(t, err, &remote)
	require.Equal(t, RemoteError{b.Addr(), 404, "no such blob"}, *remote)

	r, err := a.Transport.Bulk(t.Context(), b.Addr(), Request{Kind: 9, Group: 7, From: 1, To: 1, Body: body})
	require.NoError(t, err, "the answer began before it failed")
	got, err := io.ReadAll(r)
	require.ErrorAs(t, err, &remote)
	require.Less(t, len(got), len(body)+1)
	require.EqualValues(t, 1, b.count.connections[inbound].Load(), "a failed answer leaves the connection usable")
}

type coded struct {
	text string
	code uint32
}

func (c coded) Error() string { return c.text }
func (c coded) Code() uint32  { return c.code }

func crcOf(b []byte) uint32 { return crc32.Checksum(b, castagnoli) }
