package e2e

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"
)

// Programs that the tests start. TestMain sets them once.
var (
	remora string // the binary under test
	self   string // this test binary, where every user may execute it
	base   string // a directory for all files of the run, open to every user
)

// TestMain builds the binary, or plays a worker: "worker NAME ARGS...".
func TestMain(m *testing.M) {
	if len(os.Args) > 2 && os.Args[1] == "worker" {
		os.Exit(work(os.Args[2], os.Args[3:]))
	}
	code, err := prepareAndRun(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, "e2e:", err)
		code = 1
	}
	os.Exit(code)
}

func prepareAndRun(m *testing.M) (code int, err error) {
	if base, err = os.MkdirTemp("", "remora-e2e-"); err != nil {
		return 1, err
	}
	defer func() {
		if mounts, mountErr := fuseMounts(base); mountErr != nil || len(mounts) > 0 {
			err = fmt.Errorf("mounts are left, so %s stays: %v %w", base, mounts, mountErr)
		} else if code == 0 {
			err = os.RemoveAll(base)
		} else {
			fmt.Fprintln(os.Stderr, "e2e: what the tests left is in", base)
		}
	}()
	if err := os.Chmod(base, 0o755); err != nil {
		return 1, err
	}
	remora, self = filepath.Join(base, "remora"), filepath.Join(base, "worker")
	exe, err := os.Executable()
	if err != nil {
		return 1, err
	}
	if err := copyProgram(self, exe); err != nil {
		return 1, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	build := exec.CommandContext(ctx, "go", "build", "-trimpath", "-o", remora, "../cmd/remora")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return 1, fmt.Errorf("build remora: %w\n%s", err, out)
	}
	return m.Run(), nil
}

func copyProgram(to, from string) (err error) {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer func() { _ = in.Close() }()
	out, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE, 0o755)
	if err != nil {
		return err
	}
	if _, err = io.Copy(out, in); err != nil {
		_ = out.Close()
		return err
	}
	return out.Close()
}
