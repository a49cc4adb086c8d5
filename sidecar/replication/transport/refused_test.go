package transport

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"math/big"
	mathrand "math/rand/v2"
	"net"
	"net/url"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/remora-storage/remora/sidecar/identity"
)

// rogue dials a peer with any certificate, and checks nothing.
func rogue(t testing.TB, addr string, config *tls.Config) (*tls.Conn, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	nc, err := new(net.Dialer).DialContext(ctx, "tcp", addr)
	require.NoError(t, err)
	t.Cleanup(func() { _ = nc.Close() })
	require.NoError(t, nc.SetDeadline(time.Now().Add(patience)))
	c := tls.Client(nc, config)
	return c, c.HandshakeContext(ctx)
}

func clientConfig(cert func() (*tls.Certificate, *x509.CertPool, error), protocols ...string) *tls.Config {
	config := &tls.Config{InsecureSkipVerify: true, NextProtos: protocols, MinVersion: tls.VersionTLS12}
	if cert != nil {
		own, _, _ := cert()
		config.Certificates = []tls.Certificate{*own}
	}
	return config
}

// dialAs is a rogue that a peer accepts.
func (w *world) dialAs(id Identity, addr, protocol string) (*tls.Conn, *frameReader) {
	w.t.Helper()
	c, err := rogue(w.t, addr, clientConfig(w.issue(id), protocol))
	require.NoError(w.t, err)
	r := &frameReader{r: bufio.NewReader(c), maxBody: 1 << 20}
	require.NoError(w.t, readHello(r))
	return c, r
}

// odd makes a certificate that CA.Issue would not.
func (w *world) odd(change func(*x509.Certificate)) func() (*tls.Certificate, *x509.CertPool, error) {
	w.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(w.t, err)
	leaf := &x509.Certificate{
		SerialNumber: big.NewInt(5), URIs: member("db-9").URIs(),
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth},
	}
	change(leaf)
	root, signer := w.root()
	der, err := x509.CreateCertificate(rand.Reader, leaf, root, key.Public(), signer)
	require.NoError(w.t, err)
	cert, err := x509.ParseCertificate(der)
	require.NoError(w.t, err)
	return fixed(w.t, &identity.Credentials{Chain: []*x509.Certificate{cert}, Key: key, Roots: []*x509.Certificate{root}})
}

// refusals are the certificates and protocols that nobody may be let in with, and the reason that is counted.
func (w *world) refusals() map[string]struct {
	config *tls.Config
	reason string
} {
	type c = struct {
		config *tls.Config
		reason string
	}
	odd := func(change func(*x509.Certificate)) *tls.Config { return clientConfig(w.odd(change), protoFrames) }
	tls12 := clientConfig(w.issue(member("db-9")), protoFrames)
	tls12.MaxVersion = tls.VersionTLS12
	return map[string]c{
		"no certificate":    {clientConfig(nil, protoFrames), "handshake"},
		"foreign authority": {clientConfig(newWorld(w.t).issue(member("db-9")), protoFrames), "unknown_authority"},
		"expired":           {odd(func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Minute) }), "expired"},
		"not yet valid":     {odd(func(c *x509.Certificate) { c.NotBefore = time.Now().Add(time.Minute) }), "expired"},
		"another tenant":    {clientConfig(w.issue(Identity{Tenant: "bank", Pod: "db-9"}), protoFrames), "tenant"},
		"no names":          {odd(func(c *x509.Certificate) { c.URIs = nil }), "identity"},
		"two tenants": {odd(func(c *x509.Certificate) {
			c.URIs = append(c.URIs, &url.URL{Scheme: "remora", Host: "bank", Path: "/volume/data"})
		}), "identity"},
		"for servers only": {odd(func(c *x509.Certificate) { c.ExtKeyUsage = c.ExtKeyUsage[1:] }), "certificate"},
		"no protocol":      {clientConfig(w.issue(member("db-9"))), "protocol"},
		"a newer protocol": {clientConfig(w.issue(member("db-9")), "remora-frames/2"), "protocol"},
		"TLS 1.2":          {tls12, "handshake"},
	}
}

func TestRefusedAtTheHandshake(t *testing.T) {
	w := newWorld(t)
	for name, c := range w.refusals() {
		t.Run(name, func(t *testing.T) {
			b := newWorldOf(t, w.ca).peer("db-1")
			conn, err := rogue(t, b.Addr(), c.config)
			if err == nil { // a client's handshake ends before the server has looked
				_, err = conn.Write(appendFrame(nil, Header{Kind: 1, Group: 7, From: 9, To: 2}, []byte("let me in")))
				if err == nil {
					_, err = io.ReadAll(conn)
				}
			}
			require.Error(t, err)
			eventually(t, "it is counted", func() bool { return b.count.refused.get(c.reason) == 1 })
			require.NoError(t, b.Close())
			require.Contains(t, b.log.String(), "connection refused")
			require.Empty(t, b.got)
		})
	}
}

// TestGarbageOnThePort: bytes of something else.
func TestGarbageOnThePort(t *testing.T) {
	w := newWorld(t)
	a, b := w.peer("db-0"), w.peer("db-1", func(c *Config) { c.LogEvery = time.Hour })
	random := make([]byte, 4096)
	_, _ = mathrand.NewChaCha8([32]byte{1}).Read(random)
	random[0] = 0x80 // no record of TLS begins so
	for i, garbage := range [][]byte{[]byte("GET / HTTP/1.1\r\nHost: x\r\n\r\n"), random, appendFrame(nil, Header{Kind: 1}, random)} {
		c, err := net.Dial("tcp", b.Addr())
		require.NoError(t, err)
		_, err = c.Write(garbage)
		require.NoError(t, err)
		require.NoError(t, c.SetReadDeadline(time.Now().Add(patience)))
		_, err = io.Copy(io.Discard, c)
		require.False(t, errors.Is(err, os.ErrDeadlineExceeded), "it is closed")
		require.NoError(t, c.Close())
		eventually(t, "counted", func() bool { return b.count.refused.get("not_tls") == uint64(i+1) })
	}
	require.Equal(t, 1, strings.Count(b.log.String(), "connection refused"), "one line for many:\n%s", b.log)
	require.True(t, a.Send(b.Addr(), Header{Kind: 1}, []byte("still here")))
	b.frames(t, 1)
}

// TestGarbageFromAMember: a peer that may speak, and sends what is no frame.
func TestGarbageFromAMember(t *testing.T) {
	w := newWorld(t)
	h := Header{Kind: 1, Group: 7, From: 1, To: 2}
	good := appendFrame(nil, h, []byte("a good frame"))
	flip := func(at int) []byte {
		b := appendFrame(nil, h, []byte("a good frame"))
		b[at] ^= 4
		return b
	}
	reserved := func(at int) []byte { // with a good checksum
		b := appendFrame(nil, h, []byte("a good frame"))
		b[at] = 1
		return sealHeader(b)
	}
	long := func(n int) []byte { return appendHeader(nil, h, n, 0) }
	for name, c := range map[string]struct {
		bytes  []byte
		reason string
	}{
		"magic":              {flip(0), "magic"},
		"kind":               {flip(8), "header_checksum"},
		"length":             {flip(12), "header_checksum"},
		"group":              {flip(16), "header_checksum"},
		"header checksum":    {flip(5), "header_checksum"},
		"body":               {flip(headerBytes + 3), "body_checksum"},
		"reserved":           {reserved(9), "reserved"},
		"reserved at end":    {reserved(44), "reserved"},
		"kind 0":             {appendFrame(nil, Header{Group: 7}), "kind"},
		"a little too long":  {long(1<<20 + 1), "too_long"},
		"far too long":       {long(1<<32 - 1), "too_long"},
		"own kind":           {appendFrame(nil, Header{Kind: kindHello}), "kind"},
		"pong":               {appendFrame(nil, Header{Kind: kindPong}), "kind"},
		"ping with a body":   {appendFrame(nil, Header{Kind: kindPing}, []byte("x")), "kind"},
		"truncated header":   {good[:20], "truncated"},
		"truncated body":     {good[:headerBytes+5], "truncated"},
		"nothing after head": {good[:headerBytes], "truncated"},
	} {
		t.Run(name, func(t *testing.T) {
			b := newWorldOf(t, w.ca).peer("db-1", func(c *Config) { c.MaxFrame = 1 << 20 })
			conn, r := w.dialAs(member("db-0"), b.Addr(), protoFrames)
			_, err := conn.Write(append(append([]byte{}, good...), c.bytes...))
			require.NoError(t, err)
			require.NoError(t, conn.CloseWrite())
			said := readPongs(r)
			require.ErrorContains(t, said, "the peer closed: ", "it says why")
			require.EqualValues(t, 1, b.count.garbage.get(c.reason), "counted")
			require.Len(t, b.frames(t, 1), 1, "what was good before arrived, and nothing else")
			b.says(t, "peer sent garbage")
		})
	}
}

// sealHeader makes the checksum of a header right.
func sealHeader(b []byte) []byte {
	h := Header{Kind: b[8]}
	fresh := appendHeader(nil, h, 0, 0)
	copy(fresh[8:], b[8:headerBytes])
	crc := crcOf(fresh[8:headerBytes])
	copy(b[4:8], []byte{byte(crc), byte(crc >> 8), byte(crc >> 16), byte(crc >> 24)})
	return b
}

// TestNotAMember: the right tenant, and not of this group. The body is not read, and other groups go on.
func TestNotAMember(t *testing.T) {
	w := newWorld(t)
	b := w.peer("db-1")
	b.authorize = func(peer Identity, group, from, to uint64) error {
		if peer.Pod != "db-0" || group != 7 || from != 1 || to != 2 {
			return errors.New("who is that?")
		}
		return nil
	}
	for name, f := range map[string]struct {
		id Identity
		h  Header
	}{
		"another volume's member": {Identity{Tenant: "shop", Pod: "web-0", Volumes: []string{"data-web-0"}}, Header{1, 7, 1, 2, nil}},
		"another group":           {member("db-0"), Header{1, 8, 1, 2, nil}},
		"another replica":         {member("db-0"), Header{1, 7, 3, 2, nil}},
		"to another":              {member("db-0"), Header{1, 7, 1, 3, nil}},
	} {
		before := b.count.refused.get("not_a_member")
		conn, r := w.dialAs(f.id, b.Addr(), protoBulk)
		_, err := conn.Write(appendHeader(nil, f.h, 1<<20, 0)) // the body does not come, and is not waited for
		require.NoError(t, err)
		require.ErrorContains(t, readPongs(r), "who is that?", name)
		eventually(t, name, func() bool { return b.count.refused.get("not_a_member") == before+1 })

		conn, r = w.dialAs(f.id, b.Addr(), protoFrames)
		wrong := appendFrame(nil, f.h, []byte("body"))
		wrong[len(wrong)-1]++ // nobody looks at the body
		for range maxRefused + 1 {
			_, err = conn.Write(wrong)
			require.NoError(t, err)
		}
		require.ErrorContains(t, readPongs(r), "who is that?", name)
		eventually(t, name, func() bool { return b.count.refused.get("not_a_member") == before+2+maxRefused })
		require.Zero(t, b.count.garbage.get("body_checksum"))
		require.Empty(t, b.got)
	}
	a := w.peer("db-0") // some of its frames are good, some are not: the good ones arrive, over one connection
	for range 2 * maxRefused {
		require.True(t, a.Send(b.Addr(), Header{1, 8, 1, 2, nil}, make([]byte, 1000)))
		require.True(t, a.Send(b.Addr(), Header{1, 7, 1, 2, nil}, []byte("the member")))
	}
	for _, f := range b.frames(t, 2*maxRefused) {
		require.Equal(t, "the member", string(f.Body))
	}
	require.EqualValues(t, 1, a.count.dials.get("ok"))
	b.says(t, "peer refused")
}

// TestWrongPodAtAnAddress: frames for a replica do not go to whoever has its address now.
func TestWrongPodAtAnAddress(t *testing.T) {
	w := newWorld(t)
	a, b := w.peer("db-0"), w.peer("db-1")
	a.authorize = func(peer Identity, group, from, to uint64) error {
		if peer.Pod != "db-1" || from != 2 || to != 1 {
			return errors.New("replica 2 is not there")
		}
		return nil
	}
	stranger := w.peer("web-0")
	a.Send(stranger.Addr(), Header{1, 7, 1, 2, nil}, []byte("secret"))
	eventually(t, "dropped", func() bool { return a.count.dropped[dropRefused].Load() == 1 })
	a.says(t, "may not have them")
	_, err := a.Transport.Bulk(t.Context(), stranger.Addr(), Request{1, 7, 1, 2, []byte("secret")})
	require.ErrorContains(t, err, "replica 2 is not there")

	require.True(t, a.Send(b.Addr(), Header{1, 7, 1, 3, nil}, []byte("for another")))
	require.True(t, a.Send(b.Addr(), Header{1, 7, 1, 2, nil}, []byte("for it")))
	require.True(t, a.Send(b.Addr(), Header{1, 7, 1, 3, nil}, []byte("for another")))
	require.True(t, a.Send(b.Addr(), Header{1, 7, 1, 2, nil}, []byte("again")))
	got := b.frames(t, 2)
	require.Equal(t, "for it", string(got[0].Body))
	require.Equal(t, "again", string(got[1].Body))
	require.Empty(t, stranger.got)
}

// TestServersThatAreNotTrusted: the one who dials checks, too, and nothing is sent.
func TestServersThatAreNotTrusted(t *testing.T) {
	w := newWorld(t)
	for name, c := range w.refusals() {
		if c.config.Certificates == nil || name == "for servers only" || name == "no protocol" {
			continue
		}
		t.Run(name, func(t *testing.T) {
			a := newWorldOf(t, w.ca).peer("db-0")
			addr, got := fakeServer(t, c.config)
			require.True(t, a.Send(addr, Header{1, 7, 1, 2, nil}, []byte("secret")))
			eventually(t, "dropped", func() bool { return a.count.dropped[dropUnreachable].Load() == 1 })
			require.NoError(t, a.Close())
			require.Contains(t, a.log.String(), "peer cannot be reached")
			require.Empty(t, <-got)
		})
	}
}

// fakeServer accepts one connection with a configuration, and answers what it read.
func fakeServer(t testing.TB, config *tls.Config) (addr string, got chan []byte) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	got = make(chan []byte, 1)
	config = config.Clone()
	config.ClientAuth = tls.RequireAnyClientCert
	go func() {
		defer close(got)
		nc, err := l.Accept()
		_ = l.Close() // one is enough
		if err != nil {
			return
		}
		defer nc.Close()
		_ = nc.SetDeadline(time.Now().Add(patience))
		c := tls.Server(nc, config)
		_, _ = c.Write(appendFrame(nil, Header{Kind: kindHello}))
		b, _ := io.ReadAll(c)
		got <- b
	}()
	t.Cleanup(func() { _ = l.Close() })
	return l.Addr().String(), got
}

func (b *byReason) get(reason string) uint64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.n[reason]
}
