package identity

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"os"
	"path/filepath"
	"sync"
	"time"
)

// Files of an authority's directory.
const (
	caFile    = "ca.pem"    // the root that issues, and its key; readable by its owner alone
	rootsFile = "roots.pem" // every root that is trusted; the one that issues comes first
)

const (
	rootValidity = 10 * 365 * 24 * time.Hour
	// Validity of a certificate where the caller has no wish.
	Validity = time.Hour
	// skew is how far the clocks of two nodes may be apart: a certificate is valid a little before it is issued.
	skew = time.Minute
)

// CA is the certificate authority of dev mode: a directory with a root's key. One process at a time opens it (the supervisor, which
// holds the lock of its folder). Safe for concurrent use.
type CA struct {
	dir string
	now func() time.Time

	mu    sync.Mutex // guards what follows; held over the writing of files, which is rare
	cert  *x509.Certificate
	key   crypto.Signer
	roots []*x509.Certificate
}

// OpenCA opens the authority in a directory, and makes one where there is none. A root that ends within a tenth of its life is
// rotated. now is the clock; nil means time.Now.
func OpenCA(dir string, now func() time.Time) (*CA, error) {
	if now == nil {
		now = time.Now
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("certificate authority: %w", err)
	}
	ca := &CA{dir: dir, now: now}
	err := ca.read()
	if errors.Is(err, fs.ErrNotExist) {
		err = ca.Rotate()
	}
	if err != nil {
		return nil, err
	}
	if ca.cert.NotAfter.Sub(now()) < rootValidity/10 {
		return ca, ca.Rotate()
	}
	return ca, nil
}

func (ca *CA) read() error {
	path := filepath.Join(ca.dir, caFile)
	certs, key, err := readPEM(path)
	if err != nil {
		return err
	}
	again := "; remove the directory to begin with a new authority, and restart everything that it issued certificates to"
	if len(certs) != 1 || key == nil || !certs[0].IsCA || !samePublic(certs[0], key) {
		return fmt.Errorf("%s: not one root certificate and its key%s", path, again)
	}
	ca.cert, ca.key = certs[0], key
	ca.roots, _, err = readPEM(filepath.Join(ca.dir, rootsFile))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%w%s", err, again)
	}
	if !contains(ca.roots, ca.cert) {
		return fmt.Errorf("%s: does not hold the root of %s%s", filepath.Join(ca.dir, rootsFile), caFile, again)
	}
	return nil
}

// Rotate makes a new root. Older roots stay trusted until they end, so that everybody can be given the new bundle (Write) before the
// last certificate of the old one is gone.
func (ca *CA) Rotate() error {
	ca.mu.Lock()
	defer ca.mu.Unlock()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	now := ca.now()
	root := &x509.Certificate{
		Subject:   pkix.Name{CommonName: "remora dev " + now.UTC().Format("2006-01-02 15:04:05")},
		NotBefore: now.Add(-skew), NotAfter: now.Add(rootValidity),
		IsCA: true, BasicConstraintsValid: true, MaxPathLenZero: true, KeyUsage: x509.KeyUsageCertSign,
	}
	cert, err := sign(root, root, key, key)
	if err != nil {
		return err
	}
	roots := []*x509.Certificate{cert}
	for _, r := range ca.roots {
		if now.Before(r.NotAfter) {
			roots = append(roots, r)
		}
	}
	// The bundle first: after a crash between the two the old root still issues, and is still trusted.
	if err := writePEM(filepath.Join(ca.dir, rootsFile), 0o644, roots, nil); err != nil {
		return err
	}
	if err := writePEM(filepath.Join(ca.dir, caFile), 0o600, []*x509.Certificate{cert}, key); err != nil {
		return err
	}
	ca.cert, ca.key, ca.roots = cert, key, roots
	return nil
}

// Issue makes a certificate with a key of its own. Zero validity means Validity.
func (ca *CA) Issue(id Identity, validity time.Duration) (*Credentials, error) {
	if err := id.Validate(); err != nil {
		return nil, fmt.Errorf("certificate of %s: %w", id, err)
	}
	if validity == 0 {
		validity = Validity
	}
	ca.mu.Lock()
	defer ca.mu.Unlock()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	now := ca.now()
	ends := now.Add(validity)
	if ends.After(ca.cert.NotAfter) {
		ends = ca.cert.NotAfter
	}
	leaf := &x509.Certificate{
		Subject:   pkix.Name{CommonName: commonName(id)},
		URIs:      id.URIs(),
		NotBefore: now.Add(-skew), NotAfter: ends,
		BasicConstraintsValid: true,
		KeyUsage:              x509.KeyUsageDigitalSignature,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth},
	}
	cert, err := sign(leaf, ca.cert, key, ca.key)
	if err != nil {
		return nil, fmt.Errorf("certificate of %s: %w", id, err)
	}
	return &Credentials{Chain: []*x509.Certificate{cert}, Key: key, Roots: append([]*x509.Certificate{}, ca.roots...)}, nil
}

// commonName is for people who look at a certificate; X.509 allows 64 bytes of it, and nothing reads it.
func commonName(id Identity) string {
	name := id.String()
	return name[:min(len(name), 64)]
}

func sign(cert, parent *x509.Certificate, key, signer crypto.Signer) (*x509.Certificate, error) {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return nil, err
	}
	cert.SerialNumber = serial.Add(serial, big.NewInt(1)) // a serial is positive
	der, err := x509.CreateCertificate(rand.Reader, cert, parent, key.Public(), signer)
	if err != nil {
		return nil, err
	}
	return x509.ParseCertificate(der)
}

func contains(certs []*x509.Certificate, cert *x509.Certificate) bool {
	for _, c := range certs {
		if c.Equal(cert) {
			return true
		}
	}
	return false
}
