// Package supervisor is what the tests of the binary share: it builds the binary, starts `remora dev` with a manifest, waits for the
// mounts, and ends it in a way that leaves neither processes nor mounts. It knows the binary only, and touches no mount: only workers do,
// which are processes of their own.
package supervisor

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// Programs are what tests start, and where they do.
type Programs struct {
	Remora string // the binary under test
	Self   string // the test binary, where every user may execute it: `go test` may remove its own
	Base   string // a directory for all files of the run, open to every user
}

// Workers are what a test binary does as a process of its own, by name.
type Workers map[string]func(args []string) error

// Main is TestMain of a package: it builds the binary from source, fills in p and runs the tests; or, called as "worker NAME ARGS...", it
// is that worker. What a worker prints is its result; an error goes to standard error and makes its exit code 1.
func Main(m *testing.M, name, source string, p *Programs, workers Workers) (code int) {
	if len(os.Args) > 2 && os.Args[1] == "worker" {
		return workers.do(os.Args[2], os.Args[3:])
	}
	code, err := p.run(m, name, source)
	if err != nil {
		fmt.Fprintf(os.Stderr, "%s: %v\n", name, err)
		return 1
	}
	return code
}

func (w Workers) do(role string, args []string) int {
	do, ok := w[role]
	if !ok {
		fmt.Fprintf(os.Stderr, "no worker %q\n", role)
		return 2
	}
	if err := do(args); err != nil {
		fmt.Fprintf(os.Stderr, "worker %s %s: %v\n", role, strings.Join(args, " "), err)
		return 1
	}
	return 0
}

func (p *Programs) run(m *testing.M, name, source string) (code int, err error) {
	if p.Base, err = os.MkdirTemp("", "remora-"+name+"-"); err != nil {
		return 1, err
	}
	defer func() {
		if mounts, mountErr := Mounts(p.Base); mountErr != nil || len(mounts) > 0 {
			err = errors.Join(fmt.Errorf("mounts are left, so %s stays: %v", p.Base, mounts), mountErr)
		} else if code == 0 {
			err = os.RemoveAll(p.Base)
		} else {
			fmt.Fprintf(os.Stderr, "%s: what the tests left is in %s\n", name, p.Base)
		}
	}()
	if err := os.Chmod(p.Base, 0o755); err != nil {
		return 1, err
	}
	p.Remora, p.Self = filepath.Join(p.Base, "remora"), filepath.Join(p.Base, "worker")
	exe, err := os.Executable()
	if err != nil {
		return 1, err
	}
	if err := copyProgram(p.Self, exe); err != nil {
		return 1, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Minute) // a build from nothing on a busy machine took more than five
	defer cancel()
	build := exec.CommandContext(ctx, "go", "build", "-trimpath", "-o", p.Remora, source)
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return 1, fmt.Errorf("build remora: %w\n%s", err, out)
	}
	return m.Run(), nil
}

func copyProgram(to, from string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer func() { _ = in.Close() }()
	out, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE, 0o755)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	return errors.Join(err, out.Close())
}

// TempDir is like t.TempDir, but every user may enter it, and it stays when the test fails, or something is still mounted in it.
func (p *Programs) TempDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp(p.Base, t.Name()+"-")
	require.NoError(t, err)
	require.NoError(t, os.Chmod(dir, 0o755))
	t.Cleanup(func() {
		if mounts, err := Mounts(dir); err == nil && len(mounts) == 0 && !t.Failed() {
			require.NoError(t, os.RemoveAll(dir))
		}
	})
	return dir
}

// Need skips a test where nothing can be mounted.
func Need(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: remora dev mounts file systems")
	}
	f, err := os.OpenFile("/dev/fuse", os.O_RDWR, 0)
	if err != nil {
		t.Skipf("needs FUSE: %v", err)
	}
	require.NoError(t, f.Close())
}
