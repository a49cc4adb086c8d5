package supervisor

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// Limits. Nothing needs a tenth of it on an idle machine.
const (
	StartLimit = 60 * time.Second
	StopLimit  = 60 * time.Second
)

// Output collects what a process writes.
type Output struct {
	mu sync.Mutex
	b  bytes.Buffer
}

// Write is io.Writer's.
func (o *Output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.Write(p)
}

// String is all of it so far.
func (o *Output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.String()
}

// Supervisor is a `remora dev` of its own.
type Supervisor struct {
	Dir  string // its --dir
	Args []string
	Out  *Output // of all its runs

	remora string
	ready  string // its --ready-file
	cmd    *exec.Cmd
	gone   chan struct{} // closed when it has ended; exit is set then
	exit   error
}

// Start runs `remora dev` on dir with a manifest and waits until its volumes are mounted. It ends with the test.
func (p *Programs) Start(t *testing.T, dir, manifest string, args ...string) *Supervisor {
	t.Helper()
	file := dir + ".yaml"
	require.NoError(t, os.WriteFile(file, []byte(manifest), 0o644))
	s := &Supervisor{Dir: dir, Out: &Output{}, remora: p.Remora, ready: dir + ".ready"}
	s.Args = append(append([]string{"dev", "-f", file, "--dir", dir}, args...), "--ready-file", s.ready)
	t.Cleanup(func() { s.cleanUp(t) })
	s.Again(t)
	return s
}

// Again starts the supervisor after it has ended, and waits for the mounts.
func (s *Supervisor) Again(t *testing.T) {
	t.Helper()
	if err := os.Remove(s.ready); err != nil { // of a supervisor that was killed
		require.ErrorIs(t, err, os.ErrNotExist)
	}
	cmd, gone := exec.Command(s.remora, s.Args...), make(chan struct{})
	cmd.Stdout, cmd.Stderr = s.Out, s.Out
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGINT}
	require.NoError(t, cmd.Start())
	s.cmd, s.gone = cmd, gone
	go func() { s.exit = cmd.Wait(); close(gone) }() // cleanUp waits for it
	deadline := time.After(StartLimit)
	for {
		if _, err := os.Stat(s.ready); err == nil {
			return
		}
		select {
		case <-time.After(10 * time.Millisecond):
		case <-gone:
			require.FailNow(t, "remora dev ended before its volumes were mounted", "%v\n%s", s.exit, s.Out)
		case <-deadline:
			require.FailNow(t, "remora dev does not serve", s.Out.String())
		}
	}
}

// Stop is Ctrl-C: it must end cleanly, and leave no mount.
func (s *Supervisor) Stop(t *testing.T) {
	t.Helper()
	require.True(t, s.End(syscall.SIGINT), "remora dev does not end:\n%s", s.Out)
	require.NoError(t, s.exit, s.Out.String())
	mounts, err := Mounts(s.Dir)
	require.NoError(t, err)
	require.Empty(t, mounts)
}

// End sends the signal and waits; false if the supervisor is still there.
func (s *Supervisor) End(signal syscall.Signal) bool {
	_ = s.cmd.Process.Signal(signal) // it may have ended
	select {
	case <-s.gone:
		return true
	case <-time.After(StopLimit):
		return false
	}
}

func (s *Supervisor) cleanUp(t *testing.T) {
	if s.cmd == nil {
		return
	}
	if !s.End(syscall.SIGINT) {
		t.Error("remora dev does not end on SIGINT")
		s.End(syscall.SIGKILL)
	}
	if err := AbortMounts(s.Dir); err != nil {
		t.Errorf("clean up: %v", err)
	}
	if t.Failed() {
		text := s.Out.String()
		t.Logf("remora dev wrote:\n%s", text[max(0, len(text)-8000):])
	}
}

// Mount is where the volume "data" of a pod is.
func (s *Supervisor) Mount(pod string) string { return filepath.Join(s.Dir, "pods", pod, "data") }

// Command runs remora, and returns what it wrote to its standard output, and, if it failed, to its standard error behind that.
func (s *Supervisor) Command(limit time.Duration, args ...string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	var stderr bytes.Buffer
	cmd := exec.CommandContext(ctx, s.remora, args...)
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		out = append(out, stderr.Bytes()...)
	}
	return out, err
}

// Status is what `remora status` says of all pods, in part.
type Status struct{ Pods []Pod }

// Pod is what it says of one.
type Pod struct {
	Name, Node string
	PID        *int
	Volumes    []struct {
		Name, Volume, Mount, State string
		Size, Used, Epoch          uint64
		Replicas                   []struct{ ID, Pod, Node, Role, State string }
	}
}

// StatusJSON asks `remora status`.
func (s *Supervisor) StatusJSON(t *testing.T) []byte {
	t.Helper()
	out, err := s.Command(10*time.Second, "status", "--dir", s.Dir, "-o", "json")
	require.NoError(t, err, "%s", out)
	return out
}

// Status asks `remora status`.
func (s *Supervisor) Status(t *testing.T) Status {
	t.Helper()
	var st Status
	require.NoError(t, json.Unmarshal(s.StatusJSON(t), &st))
	return st
}
