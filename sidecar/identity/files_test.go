package identity

import (
	"bytes"
	"crypto/x509"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

var db0 = Identity{Tenant: "shop", Pod: "db-0", Volumes: []string{"data-db-0"}}

// clock is a wall clock that a test sets.
type clock struct{ atomic.Int64 }

func newClock() *clock {
	c := new(clock)
	c.Store(time.Now().Unix())
	return c
}

func (c *clock) now() time.Time          { return time.Unix(c.Load(), 0) }
func (c *clock) advance(d time.Duration) { c.Add(int64(d / time.Second)) }

func openCA(t testing.TB, c *clock) *CA {
	t.Helper()
	ca, err := OpenCA(t.TempDir(), c.now)
	require.NoError(t, err)
	return ca
}

func issue(t testing.TB, ca *CA, id Identity, validity time.Duration) *Credentials {
	t.Helper()
	c, err := ca.Issue(id, validity)
	require.NoError(t, err)
	return c
}

func openFiles(t testing.TB, dir string, c *clock) (*Files, *bytes.Buffer) {
	t.Helper()
	var log bytes.Buffer
	f, err := Open(FilesConfig{Dir: dir, Now: c.now, Every: time.Nanosecond, Logger: slog.New(slog.NewTextHandler(&log, nil))})
	require.NoError(t, err)
	return f, &log
}

func TestFilesAreReadAgain(t *testing.T) {
	c := newClock()
	ca, dir := openCA(t, c), t.TempDir()
	require.NoError(t, Write(dir, issue(t, ca, db0, 0)))
	f, log := openFiles(t, dir, c)
	require.Equal(t, db0, f.Identity())
	cert, roots, err := f.TLS()
	require.NoError(t, err)
	again, rootsAgain, err := f.TLS()
	require.NoError(t, err)
	require.Same(t, cert, again, "nothing changed")
	require.Same(t, roots, rootsAgain)
	require.Empty(t, log.String())

	more := db0
	more.Volumes = []string{"data-db-0", "data-db-1"}
	require.NoError(t, Write(dir, issue(t, ca, more, 0)))
	again, _, err = f.TLS()
	require.NoError(t, err)
	require.NotSame(t, cert, again)
	require.Equal(t, more, f.Identity())
	require.Equal(t, 1, strings.Count(log.String(), "credentials read again"))
}

func TestBadFilesChangeNothing(t *testing.T) {
	c := newClock()
	ca := openCA(t, c)
	good := issue(t, ca, db0, 0)
	stranger := issue(t, openCA(t, c), db0, 0)
	for name, spoil := range map[string]func(dir string) error{
		"another pod": func(dir string) error {
			return Write(dir, issue(t, ca, Identity{Tenant: "shop", Pod: "db-1"}, 0))
		},
		"another tenant": func(dir string) error {
			return Write(dir, issue(t, ca, Identity{Tenant: "bank", Pod: "db-0"}, 0))
		},
		"another's key": func(dir string) error {
			return Write(dir, &Credentials{Chain: good.Chain, Key: stranger.Key, Roots: good.Roots})
		},
		"not of its roots": func(dir string) error {
			return Write(dir, &Credentials{Chain: stranger.Chain, Key: stranger.Key, Roots: good.Roots})
		},
		"expired": func(dir string) error {
			past := issue(t, ca, db0, -time.Second)
			return Write(dir, past)
		},
		"cut off": func(dir string) error {
			b, err := os.ReadFile(filepath.Join(dir, identityFile))
			require.NoError(t, err)
			return os.WriteFile(filepath.Join(dir, identityFile), b[:len(b)-40], 0o600)
		},
		"empty":     func(dir string) error { return os.WriteFile(filepath.Join(dir, identityFile), nil, 0o600) },
		"gone":      func(dir string) error { return os.Remove(filepath.Join(dir, identityFile)) },
		"no roots":  func(dir string) error { return os.WriteFile(filepath.Join(dir, rootsFile), []byte("x"), 0o600) },
		"other PEM": func(dir string) error { return os.WriteFile(filepath.Join(dir, rootsFile), []byte(otherPEM), 0o600) },
		"too long": func(dir string) error {
			return os.WriteFile(filepath.Join(dir, rootsFile), make([]byte, maxPEM+1), 0o600)
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			require.NoError(t, Write(dir, good))
			f, log := openFiles(t, dir, c)
			before, _, err := f.TLS()
			require.NoError(t, err)
			require.NoError(t, spoil(dir))
			for range 3 {
				cert, _, err := f.TLS()
				require.NoError(t, err)
				require.Same(t, before, cert)
				require.Equal(t, db0, f.Identity())
			}
			require.Equal(t, 1, strings.Count(log.String(), "\n"), "one line for one reason:\n%s", log)
			require.Contains(t, log.String(), "not used")

			next := issue(t, ca, db0, 0)
			require.NoError(t, Write(dir, next))
			cert, _, err := f.TLS()
			require.NoError(t, err)
			require.Equal(t, next.Chain[0].Raw, cert.Leaf.Raw, "and when they are good again, they are used")
		})
	}
}

const otherPEM = "-----BEGIN SECRET-----\nAAAA\n-----END SECRET-----\n"

func TestTime(t *testing.T) {
	c := newClock()
	ca, dir := openCA(t, c), t.TempDir()
	require.NoError(t, Write(dir, issue(t, ca, db0, time.Hour)))
	f, _ := openFiles(t, dir, c)
	c.advance(time.Hour + time.Second)
	_, _, err := f.TLS()
	require.ErrorIs(t, err, errNotInTime)
	require.ErrorContains(t, err, "expired at")
	require.ErrorContains(t, err, "the supervisor")
	c.advance(-2 * time.Hour)
	_, _, err = f.TLS()
	require.ErrorContains(t, err, "compare this machine's clock")
	c.advance(time.Hour - skew/2)
	_, _, err = f.TLS()
	require.NoError(t, err, "a clock that is a little behind the issuer's is fine")

	c.advance(48 * time.Hour)
	_, err = Open(FilesConfig{Dir: dir, Now: c.now, Logger: slog.New(slog.DiscardHandler)})
	require.ErrorIs(t, err, errNotInTime)
	require.NoError(t, Write(dir, issue(t, ca, db0, time.Hour)))
	_, _, err = f.TLS()
	require.NoError(t, err, "issued anew")
	_, err = Open(FilesConfig{Dir: t.TempDir(), Logger: slog.New(slog.DiscardHandler)})
	require.ErrorContains(t, err, "remora dev")
}

// TestNobodySeesHalfAFile has readers read while the files are replaced.
func TestNobodySeesHalfAFile(t *testing.T) {
	c := newClock()
	ca, dir := openCA(t, c), t.TempDir()
	require.NoError(t, Write(dir, issue(t, ca, db0, 0)))
	var done atomic.Bool
	var wg sync.WaitGroup
	errs := make(chan error, 2)
	for range 2 {
		wg.Go(func() {
			for !done.Load() {
				if _, _, _, err := load(dir); err != nil {
					errs <- err
					return
				}
			}
		})
	}
	for i := range 60 {
		if i%20 == 10 {
			require.NoError(t, ca.Rotate())
		}
		require.NoError(t, Write(dir, issue(t, ca, db0, 0)))
	}
	done.Store(true)
	wg.Wait()
	close(errs)
	require.NoError(t, <-errs)
	left, err := os.ReadDir(dir)
	require.NoError(t, err)
	require.Len(t, left, 2, "nothing but the two files")
	info, err := os.Stat(filepath.Join(dir, identityFile))
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o600), info.Mode(), "it holds the key")
}

func TestAuthority(t *testing.T) {
	c := newClock()
	dir := t.TempDir()
	ca, err := OpenCA(dir, c.now)
	require.NoError(t, err)
	first := issue(t, ca, db0, 0)
	require.Equal(t, c.now().Add(Validity).Unix(), first.Chain[0].NotAfter.Unix())
	info, err := os.Stat(filepath.Join(dir, caFile))
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o600), info.Mode())

	ca, err = OpenCA(dir, c.now)
	require.NoError(t, err)
	require.Equal(t, first.Roots, issue(t, ca, db0, 0).Roots, "a second opening makes no new root")

	require.NoError(t, ca.Rotate())
	next := issue(t, ca, db0, 0)
	require.Len(t, next.Roots, 2)
	require.NoError(t, verify(first, next.Roots, c), "the old certificate is trusted with the new bundle")
	require.NoError(t, verify(next, next.Roots, c))
	require.Error(t, verify(next, first.Roots, c), "and the new one is not with the old: the bundle comes first")

	_, err = ca.Issue(Identity{Tenant: "Shop", Pod: "db-0"}, 0)
	require.ErrorContains(t, err, `tenant "Shop"`)
	_, err = ca.Issue(Identity{Tenant: "shop"}, 0)
	require.ErrorContains(t, err, `pod ""`)

	c.advance(rootValidity - 24*time.Hour)
	ca, err = OpenCA(dir, c.now)
	require.NoError(t, err)
	late := issue(t, ca, db0, 0)
	require.Len(t, late.Roots, 3, "a root near its end is rotated")
	require.NoError(t, verify(late, late.Roots, c))
	c.advance(48 * time.Hour)
	require.NoError(t, ca.Rotate())
	require.Len(t, issue(t, ca, db0, 0).Roots, 2, "those that ended are gone")
}

func verify(creds *Credentials, roots []*x509.Certificate, c *clock) error {
	pool := x509.NewCertPool()
	for _, r := range roots {
		pool.AddCert(r)
	}
	_, err := creds.Chain[0].Verify(x509.VerifyOptions{Roots: pool, CurrentTime: c.now(),
		KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}})
	return err
}

// TestAuthorityAfterACrash: between the two files of a rotation, the old root goes on.
func TestAuthorityAfterACrash(t *testing.T) {
	c := newClock()
	dir := t.TempDir()
	ca, err := OpenCA(dir, c.now)
	require.NoError(t, err)
	old, err := os.ReadFile(filepath.Join(dir, caFile))
	require.NoError(t, err)
	require.NoError(t, ca.Rotate())
	require.NoError(t, os.WriteFile(filepath.Join(dir, caFile), old, 0o600))
	ca, err = OpenCA(dir, c.now)
	require.NoError(t, err)
	creds := issue(t, ca, db0, 0)
	require.NoError(t, verify(creds, creds.Roots, c))

	require.NoError(t, os.Remove(filepath.Join(dir, caFile))) // a crash in the very first Rotate
	ca, err = OpenCA(dir, c.now)
	require.NoError(t, err)
	creds = issue(t, ca, db0, 0)
	require.NoError(t, verify(creds, creds.Roots, c))

	require.NoError(t, os.Remove(filepath.Join(dir, rootsFile)))
	_, err = OpenCA(dir, c.now)
	require.ErrorContains(t, err, "remove the directory")
	require.NoError(t, os.WriteFile(filepath.Join(dir, caFile), []byte(otherPEM), 0o600))
	_, err = OpenCA(dir, c.now)
	require.ErrorContains(t, err, `type "SECRET"`)
}
