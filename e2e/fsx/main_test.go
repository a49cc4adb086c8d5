package fsx

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

var (
	seeds    = flag.Int("seeds", 4, "of TestFiles and TestLanes, and of their rulers")
	ops      = flag.Int("ops", 500, "operations of each seed")
	names    = flag.Int("names", 400, "operations of each process of TestNames")
	rounds   = flag.Int("rounds", 1, "rounds of TestNames")
	kills    = flag.Int("kills", 4, "how often each test kills the sidecar, at most; every second batch or round has none")
	jobs     = flag.Int("jobs", 4, "processes of TestFiles at a time")
	workTime = flag.Duration("work-time", 10*time.Minute, "how long a batch or a round may take")
	firstArg = flag.Uint64("seed", 0, "the first seed; 0 draws one")
)

// Programs that the tests start. TestMain sets them once.
var (
	remora string // the binary under test
	self   string // this test binary
	base   string // a directory for all files of the run
)

// workers are what this binary does as a process of its own: only they touch a mount.
var workers = map[string]func(args []string) error{
	"exercise":    exercise,
	"verify":      verify,
	"drive":       drive,
	"verifylanes": verifyLanes,
	"tree":        growTree,
	"sametree":    sameTree,
	"makeshared":  makeShared,
	"sameshared":  sameShared,
	"removein":    removeIn,
}

// TestMain builds the binary, or plays a worker: "worker NAME ARGS...".
func TestMain(m *testing.M) {
	if len(os.Args) > 2 && os.Args[1] == "worker" {
		os.Exit(work(os.Args[2], os.Args[3:]))
	}
	code, err := prepareAndRun(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, "fsx:", err)
		code = 1
	}
	os.Exit(code)
}

func work(role string, args []string) int {
	do, ok := workers[role]
	if !ok {
		fmt.Fprintf(os.Stderr, "no worker %q\n", role)
		return 2
	}
	unix.Umask(0)
	if err := do(args); err != nil {
		fmt.Fprintf(os.Stderr, "worker %s %s: %v\n", role, strings.Join(args, " "), err)
		return 1
	}
	return 0
}

func prepareAndRun(m *testing.M) (code int, err error) {
	if base, err = os.MkdirTemp("", "remora-fsx-"); err != nil {
		return 1, err
	}
	defer func() {
		if mounts, mountErr := fuseMounts(base); mountErr != nil || len(mounts) > 0 {
			err = errors.Join(fmt.Errorf("mounts are left, so %s stays: %v", base, mounts), mountErr)
		} else if code == 0 {
			err = os.RemoveAll(base)
		} else {
			fmt.Fprintln(os.Stderr, "fsx: what the tests left is in", base)
		}
	}()
	remora, self = filepath.Join(base, "remora"), filepath.Join(base, "worker")
	exe, err := os.Executable()
	if err != nil {
		return 1, err
	}
	if err := copyProgram(self, exe); err != nil { // `go test` may remove its own
		return 1, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	build := exec.CommandContext(ctx, "go", "build", "-trimpath", "-o", remora, "../../cmd/remora")
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
