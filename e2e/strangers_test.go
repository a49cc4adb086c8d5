package e2e

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"encoding/json"
	"encoding/pem"
	"errors"
	"hash/crc32"
	"io"
	"math/big"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// strangers knocks at the port of a running sidecar, with the authority's own key where that helps.
type strangers struct {
	*instance
	root *x509.Certificate
	key  crypto.Signer

	addr        string // of the process that serves db-0's own replica
	group, from uint64 // and a frame that a member would send it
	to          uint64
}

func (i *instance) strangers() *strangers {
	i.t.Helper()
	s := &strangers{instance: i}
	text, err := os.ReadFile(filepath.Join(i.dir, "ca", "ca.pem"))
	require.NoError(i.t, err)
	pair, err := tls.X509KeyPair(text, text)
	require.NoError(i.t, err)
	s.root, s.key = pair.Leaf, pair.PrivateKey.(crypto.Signer)

	var volume struct {
		Group   string
		Members []struct{ Replica, Pod, Address string }
	}
	text, err = os.ReadFile(filepath.Join(i.dir, "volumes", "default", "data-db-0.json"))
	require.NoError(i.t, err)
	require.NoError(i.t, json.Unmarshal(text, &volume))
	number := func(text string) uint64 {
		n, err := strconv.ParseUint(text, 16, 64)
		require.NoError(i.t, err)
		return n
	}
	s.group = number(volume.Group)
	for _, m := range volume.Members {
		if m.Pod == "db-0" {
			s.addr, s.to = m.Address, number(m.Replica)
		} else {
			s.from = number(m.Replica)
		}
	}
	return s
}

// certificate is signed by the authority of this `remora dev`, or by itself.
func (s *strangers) certificate(byItself bool, ends time.Duration, uris ...string) ([]byte, tls.Certificate) {
	s.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(s.t, err)
	leaf := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(ends),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth},
	}
	for _, text := range uris {
		u, err := url.Parse(text)
		require.NoError(s.t, err)
		leaf.URIs = append(leaf.URIs, u)
	}
	parent, signer := s.root, s.key
	if byItself {
		parent, signer = leaf, key
	}
	der, err := x509.CreateCertificate(rand.Reader, leaf, parent, key.Public(), signer)
	require.NoError(s.t, err)
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	require.NoError(s.t, err)
	text := append(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}),
		pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER})...)
	pair, err := tls.X509KeyPair(text, text)
	require.NoError(s.t, err)
	return text, pair
}

// frame is one as sidecar/replication/transport/FORMAT.md has it.
func frame(kind byte, group, from, to uint64, length int, body []byte) []byte {
	le, table := binary.LittleEndian, crc32.MakeTable(crc32.Castagnoli)
	b := make([]byte, 48)
	le.PutUint32(b, 0x46544D52)
	b[8] = kind
	le.PutUint32(b[12:], uint32(length))
	le.PutUint64(b[16:], group)
	le.PutUint64(b[24:], from)
	le.PutUint64(b[32:], to)
	le.PutUint32(b[40:], crc32.Checksum(body, table))
	le.PutUint32(b[4:], crc32.Checksum(b[8:], table))
	return append(b, body...)
}

// knock sends bytes, and waits until the other end closes.
func (s *strangers) knock(config *tls.Config, bytes []byte) {
	s.t.Helper()
	c, err := net.DialTimeout("tcp", s.addr, startLimit)
	require.NoError(s.t, err)
	defer c.Close()
	require.NoError(s.t, c.SetDeadline(time.Now().Add(startLimit)))
	if config != nil {
		secure := tls.Client(c, config)
		if secure.Handshake() != nil { // refused already
			return
		}
		defer secure.Close()
		_, _ = secure.Write(bytes) // it may be closed already
		_ = secure.CloseWrite()
		_, err = io.Copy(io.Discard, secure)
	} else {
		_, _ = c.Write(bytes)
		_, err = io.Copy(io.Discard, c)
	}
	require.False(s.t, errors.Is(err, os.ErrDeadlineExceeded), "it was not closed")
}

// count is the value of a metric of db-0's sidecar, all its series.
func (s *strangers) count(metric string) float64 {
	s.t.Helper()
	return metrics(s.t, filepath.Join(s.dir, "run", "db-0", "sidecar.sock"))["remora_transport_"+metric]
}

func (s *strangers) eventually(what string, ok func() bool) {
	s.t.Helper()
	require.Eventually(s.t, ok, startLimit, 20*time.Millisecond, "%s\n%s", what, s.out)
}

// TestStrangers: whoever knocks at a sidecar's port, a write is acknowledged as before; each is counted, and the log is not filled.
func TestStrangers(t *testing.T) {
	i := threeCopies(t)
	i.inSync("db-0")
	s := i.strangers()
	l := i.ledger("db-0")
	l.acknowledged(5)

	with := func(byItself bool, ends time.Duration, uris ...string) *tls.Config {
		_, pair := s.certificate(byItself, ends, uris...)
		return &tls.Config{Certificates: []tls.Certificate{pair}, InsecureSkipVerify: true, NextProtos: []string{"remora-frames/1"}}
	}
	good := frame(1, s.group, s.from, s.to, 5, []byte("hello"))
	noise := make([]byte, 4096)
	_, _ = rand.Read(noise)
	noise[0] = 'x' // neither TLS nor a frame
	member := []string{"remora://default/pod/db-0", "remora://default/volume/data-db-0"}
	other := []string{"remora://default/pod/web-0", "remora://default/volume/data-web-0"}
	huge := frame(1, s.group, s.from, s.to, 32<<20, nil)
	for _, c := range []struct {
		name   string
		config *tls.Config
		bytes  []byte
		metric string
	}{
		{"noise", nil, noise, "refused_total"},
		{"HTTP", nil, []byte("GET / HTTP/1.1\r\nHost: remora\r\n\r\n"), "refused_total"},
		{"a frame without TLS", nil, good, "refused_total"},
		{"no certificate", &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"remora-frames/1"}}, good, "refused_total"},
		{"another authority", with(true, time.Hour, member...), good, "refused_total"},
		{"expired", with(false, -time.Minute, member...), good, "refused_total"},
		{"another tenant", with(false, time.Hour, "remora://bank/pod/db-0", "remora://bank/volume/data-db-0"), good, "refused_total"},
		{"another volume's member", with(false, time.Hour, other...), good, "refused_total"},
		{"the volume's, and not who serves the member", with(false, time.Hour, member...), huge, "refused_total"},
		{"a frame too long", with(false, time.Hour, member...), frame(1, s.group, s.from, s.to, 32<<20+1, nil), "garbage_total"},
		{"a truncated frame", with(false, time.Hour, member...), good[:20], "garbage_total"},
		{"noise from a member", with(false, time.Hour, member...), noise, "garbage_total"},
	} {
		before := s.count(c.metric)
		for range 3 {
			s.knock(c.config, c.bytes)
		}
		s.eventually(c.name+" is counted", func() bool { return s.count(c.metric) >= before+3 })
	}
	l.acknowledged(5)
	i.inSync("db-0")
	l.check()
	log, err := os.ReadFile(filepath.Join(i.dir, "logs", "db-0.log"))
	require.NoError(t, err)
	require.Contains(t, string(log), "connection refused")
	require.Less(t, strings.Count(string(log), "reason="), 3*12, "not a line for each")
}

// TestCertificatesRotate: an owner's certificate is replaced while it writes; then one ends, and the owner is alone until it has the next.
func TestCertificatesRotate(t *testing.T) {
	i := threeCopies(t)
	i.inSync("db-0")
	s := i.strangers()
	l := i.ledger("db-0")
	l.acknowledged(5)
	renew := func(ends time.Duration) {
		text, _ := s.certificate(false, ends, "remora://default/pod/db-0", "remora://default/volume/data-db-0")
		path := filepath.Join(i.dir, "run", "db-0", "identity", "identity.pem")
		require.NoError(t, os.WriteFile(path+".new", text, 0o600))
		require.NoError(t, os.Rename(path+".new", path))
	}
	for range 2 {
		before := s.count("dials_total")
		renew(time.Hour)
		s.eventually("new connections", func() bool { return s.count("dials_total") > before })
		l.acknowledged(5)
	}
	ended := func() bool { return s.count("certificate_expiry_timestamp_seconds") == 0 }
	for life := 3 * time.Second; !ended(); life *= 2 { // one that ends before it is read is not used: a busy machine needs a longer one
		require.Less(t, life, startLimit)
		renew(life)
		for deadline := time.Now().Add(life + 5*time.Second); !ended() && time.Now().Before(deadline); {
			time.Sleep(50 * time.Millisecond)
		}
	}
	before := s.count("dropped_frames_total")
	s.eventually("nothing can be sent", func() bool { return s.count("dropped_frames_total") > before })
	renew(time.Hour)
	l.acknowledged(5)
	i.inSync("db-0")
	l.check()
}
