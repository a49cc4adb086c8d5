package identity

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"
)

// FilesConfig says where a process's credentials are.
type FilesConfig struct {
	Dir    string           // as Write makes it
	Now    func() time.Time // nil: time.Now
	Every  time.Duration    // how often the files are looked at, at most; 0: a second
	Logger *slog.Logger     // required; a reload is one line, and so is each new reason why one did not work
}

// Files are credentials that are read again when their files change. Safe for concurrent use.
type Files struct {
	cfg FilesConfig

	mu     sync.Mutex // guards what follows; held over reads of two small files
	looked time.Time  // by the monotonic clock: a wall clock that jumps delays nothing
	seen   [2]stamp   // of identity.pem and roots.pem, when they were last read
	cert   *tls.Certificate
	roots  *x509.CertPool
	id     Identity
	bad    string // why the files as they are now are not used; empty: they are
}

// stamp tells two contents of a path apart: a file that is replaced has another inode or time.
type stamp struct {
	info os.FileInfo
}

func (s stamp) same(o stamp) bool {
	if s.info == nil || o.info == nil {
		return s.info == o.info
	}
	return os.SameFile(s.info, o.info) && s.info.Size() == o.info.Size() && s.info.ModTime().Equal(o.info.ModTime())
}

// Open reads the files for the first time; they must be good and in their time.
func Open(cfg FilesConfig) (*Files, error) {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Every == 0 {
		cfg.Every = time.Second
	}
	f := &Files{cfg: cfg, looked: time.Now()}
	f.seen = f.stamps()
	cert, roots, id, err := load(cfg.Dir)
	if err != nil {
		return nil, fmt.Errorf("credentials: %w; whoever starts this process writes them (`remora dev` does)", err)
	}
	f.cert, f.roots, f.id = cert, roots, id
	_, _, err = f.TLS()
	return f, err
}

// TLS answers the certificate and whom to trust, for one handshake. While nothing changes it answers the same pointers, so that a
// caller sees a change by comparing them. A certificate that is not in its time is an error that says since when.
func (f *Files) TLS() (*tls.Certificate, *x509.CertPool, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.reload()
	if err := inTime(f.cert.Leaf, f.cfg.Now()); err != nil {
		if f.bad != "" {
			err = fmt.Errorf("%w (the files hold something newer, which is not used: %s)", err, f.bad)
		}
		return nil, nil, fmt.Errorf("%s: %w", filepath.Join(f.cfg.Dir, identityFile), err)
	}
	return f.cert, f.roots, nil
}

// Identity is who the certificate says this process is.
func (f *Files) Identity() Identity {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.reload()
	return f.id
}

// reload reads the files if they changed. Bad ones, or a pair of which one is still the old, change nothing.
func (f *Files) reload() {
	if time.Since(f.looked) < f.cfg.Every {
		return
	}
	f.looked = time.Now()
	now := f.stamps()
	if now[0].same(f.seen[0]) && now[1].same(f.seen[1]) {
		return
	}
	cert, roots, id, err := load(f.cfg.Dir)
	if err == nil && (id.Tenant != f.id.Tenant || id.Pod != f.id.Pod) {
		err = fmt.Errorf("%s is a certificate of %s, and this process is %s", filepath.Join(f.cfg.Dir, identityFile), id, f.id)
	}
	if err == nil {
		err = inTime(cert.Leaf, f.cfg.Now())
	}
	if err != nil { // f.seen stays: it is tried again, and may be half of a change
		if f.bad != err.Error() {
			f.cfg.Logger.Warn("credentials changed and are not used: the ones before go on", "dir", f.cfg.Dir,
				"expires", f.cert.Leaf.NotAfter, "err", err)
		}
		f.bad = err.Error()
		return
	}
	f.seen, f.bad = now, ""
	f.cert, f.roots, f.id = cert, roots, id
	f.cfg.Logger.Info("credentials read again", "dir", f.cfg.Dir, "pod", id.String(), "expires", cert.Leaf.NotAfter)
}

func (f *Files) stamps() (s [2]stamp) {
	for i, name := range []string{identityFile, rootsFile} {
		if info, err := os.Stat(filepath.Join(f.cfg.Dir, name)); err == nil {
			s[i].info = info
		}
	}
	return s
}

// load reads a directory, and checks that its parts belong together.
func load(dir string) (*tls.Certificate, *x509.CertPool, Identity, error) {
	path, rootsPath := filepath.Join(dir, identityFile), filepath.Join(dir, rootsFile)
	chain, key, err := readPEM(path)
	if err != nil {
		return nil, nil, Identity{}, err
	}
	rootCerts, _, err := readPEM(rootsPath)
	if err != nil {
		return nil, nil, Identity{}, err
	}
	if key == nil || !samePublic(chain[0], key) {
		return nil, nil, Identity{}, fmt.Errorf("%s: holds no key, or another certificate's", path)
	}
	id, err := FromCertificate(chain[0])
	if err != nil {
		return nil, nil, Identity{}, fmt.Errorf("%s: %w", path, err)
	}
	roots, between := x509.NewCertPool(), x509.NewCertPool()
	for _, c := range rootCerts {
		roots.AddCert(c)
	}
	cert := &tls.Certificate{PrivateKey: key, Leaf: chain[0]}
	for i, c := range chain {
		cert.Certificate = append(cert.Certificate, c.Raw)
		if i > 0 {
			between.AddCert(c)
		}
	}
	// At the leaf's own time: whether it is now in its time is another question, with another answer (inTime).
	_, err = chain[0].Verify(x509.VerifyOptions{Roots: roots, Intermediates: between, CurrentTime: chain[0].NotAfter,
		KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}})
	if err != nil {
		return nil, nil, Identity{}, fmt.Errorf("%s: its own roots (%s) do not vouch for it, so no peer would: %w", path, rootsFile, err)
	}
	return cert, roots, id, nil
}

// errNotInTime: the certificate has expired, or is not valid yet.
var errNotInTime = errors.New("the certificate is not in its time")

func inTime(c *x509.Certificate, now time.Time) error {
	switch {
	case now.After(c.NotAfter):
		return fmt.Errorf("%w: it expired at %s, and now is %s; whoever issues it (in dev mode the supervisor) must run and be able to "+
			"write here", errNotInTime, c.NotAfter.UTC().Format(time.RFC3339), now.UTC().Format(time.RFC3339))
	case now.Before(c.NotBefore):
		return fmt.Errorf("%w: it begins at %s, and now is %s: compare this machine's clock with the issuer's",
			errNotInTime, c.NotBefore.UTC().Format(time.RFC3339), now.UTC().Format(time.RFC3339))
	}
	return nil
}
