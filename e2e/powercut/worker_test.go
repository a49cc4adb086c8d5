package powercut

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/remora-storage/remora/disk"
	"github.com/remora-storage/remora/sidecar/replication/replicationtest"
)

// job is what a worker does: it runs a history, as the process of a sidecar that may die.
type job struct {
	Root     string `json:"root"`
	Notes    string `json:"notes"`    // to be written
	Position string `json:"position"` // file whose length is the position of a note; "" if there is none
	Seed     uint64 `json:"seed"`
	Steps    int    `json:"steps"`
	Kill     bool   `json:"kill"` // at the end; else it stops in order

	Earlier string `json:"earlier"` // notes of the history that goes on; "" begins one
	At      int64  `json:"at"`      // the position in them that this is
	Expect  int    `json:"expect"`  // this state must be there
}

// How a worker ends.
const (
	endDone      = 0
	endNoStart   = 3 // the volume could not be opened
	endViolation = 4
	endFailed    = 5 // a step failed
	endKilled    = -1
)

// ended is how a worker has ended.
type ended struct {
	code   int
	output string
}

// run runs a job in a process of its own.
func (j job) run(t testing.TB) ended {
	config, err := json.Marshal(j)
	require.NoError(t, err)
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	cmd := exec.CommandContext(ctx, "/proc/self/exe")
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGQUIT) } // it prints where it hangs
	cmd.WaitDelay = 10 * time.Second
	cmd.Env = append(os.Environ(), roleEnv+"=worker", baseEnv+"="+string(config))
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	err = cmd.Run()
	require.NoError(t, ctx.Err(), "the worker hangs: %s", out.String())
	if exit := (*exec.ExitError)(nil); !errors.As(err, &exit) {
		require.NoError(t, err)
	}
	return ended{cmd.ProcessState.ExitCode(), out.String()}
}

// workerT is the test of a worker, whose failure is an exit code.
type workerT struct {
	testing.TB
	code int
}

func (w *workerT) Errorf(format string, args ...any) { fmt.Printf(format+"\n", args...) }
func (w *workerT) Logf(format string, args ...any)   { fmt.Printf(format+"\n", args...) }
func (w *workerT) FailNow()                          { os.Exit(w.code) }
func (w *workerT) Helper()                           {}
func (w *workerT) Name() string                      { return "worker" }
func (w *workerT) Context() context.Context          { return context.Background() }

// workerMain is the worker's process.
func workerMain() int {
	t := &workerT{code: endNoStart}
	var j job
	require.NoError(t, json.Unmarshal([]byte(os.Getenv(baseEnv)), &j))
	notes, err := os.OpenFile(j.Notes, os.O_WRONLY|os.O_CREATE|os.O_APPEND|os.O_TRUNC, 0o600)
	require.NoError(t, err)
	rng := rand.New(rand.NewPCG(j.Seed, 0))
	position := func() int64 {
		if j.Position == "" {
			return 0
		}
		info, err := os.Stat(j.Position)
		require.NoError(t, err)
		return info.Size()
	}
	var h *replicationtest.History
	if j.Earlier == "" {
		h = replicationtest.NewHistory(t, rng, disk.OS, j.Root)
		h.NoteTo(notes, position, position())
	} else {
		earlier, err := replicationtest.ReadNotes(j.Earlier)
		require.NoError(t, err)
		h = earlier.History(t, rng, j.At)
		h.NoteTo(notes, position, 0)
		h.Recover(disk.OS, j.Root)
		t.code = endViolation
		h.Expect(j.Expect)
		h.Check(false)
	}
	t.code = endViolation
	if code := j.steps(h, rng); code != endDone {
		return code
	}
	if j.Kill {
		_ = unix.Kill(os.Getpid(), unix.SIGKILL)
	}
	h.Stop()
	return endDone
}

func (j job) steps(h *replicationtest.History, rng *rand.Rand) int {
	for range j.Steps {
		if rng.IntN(2) == 0 {
			writeBack(rng, j.Root)
		}
		err := h.TryStep()
		if err == nil {
			continue
		}
		fmt.Println("step:", err)
		return j.afterFailure(h)
	}
	return endDone
}

// afterFailure sees what a volume still acknowledges after a step has failed: nothing if that was an fsync, and else nothing that is
// not durable; the notes say what must be.
func (j job) afterFailure(h *replicationtest.History) int {
	for range 3 {
		if err := h.Sync(); err != nil {
			continue
		}
		if h.FailedSync() {
			fmt.Println("VIOLATION: fsync is acknowledged after one that failed")
			return endViolation
		}
		h.NoteSynced()
	}
	return endFailed
}

// writeBack makes the kernel write some files' pages to the disk now, as it does when memory is short: unflushed, in any order.
func writeBack(rng *rand.Rand, root string) {
	_ = filepath.WalkDir(root, func(path string, e fs.DirEntry, err error) error {
		if err != nil || !e.Type().IsRegular() || rng.IntN(2) == 0 {
			return nil //nolint:nilerr // the file has gone meanwhile
		}
		f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
		if err != nil {
			return nil //nolint:nilerr // the same
		}
		_ = unix.SyncFileRange(int(f.Fd()), 0, 0, unix.SYNC_FILE_RANGE_WRITE)
		return f.Close()
	})
}
