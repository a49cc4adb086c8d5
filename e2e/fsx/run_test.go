package fsx

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/remora-storage/remora/e2e/supervisor"
)

// worker is this binary as a process of its own.
type worker struct {
	t    *testing.T
	name string
	cmd  *exec.Cmd
	out  supervisor.Output
	done chan struct{}
	err  error // how it ended, once done is closed
}

// startWorker starts one. It ends with the test.
func startWorker(t *testing.T, role string, args ...string) *worker {
	t.Helper()
	w := &worker{t: t, name: role + " " + strings.Join(args, " "), done: make(chan struct{})}
	w.cmd = exec.Command(programs.Self, append([]string{"worker", role}, args...)...)
	w.cmd.Dir, w.cmd.Stdout, w.cmd.Stderr, w.cmd.Env = programs.Base, &w.out, &w.out, quick()
	w.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	require.NoError(t, w.cmd.Start())
	go func() { w.err = w.cmd.Wait(); close(w.done) }() // ended by the cleanup
	t.Cleanup(w.end)
	return w
}

// quick is an environment in which a program with the race detector ends at once, not after a second.
func quick() []string { return append(os.Environ(), "GORACE=atexit_sleep_ms=0") }

// end kills the worker. What waits on the mount cannot be killed before the mount is aborted.
func (w *worker) end() {
	_ = syscall.Kill(-w.cmd.Process.Pid, syscall.SIGKILL) // it may have ended
	select {
	case <-w.done:
	case <-time.After(10 * time.Second):
		w.t.Errorf("%s hangs in the kernel; aborting the mounts", w.name)
		if err := supervisor.AbortMounts(programs.Base); err != nil {
			w.t.Error(err)
		}
		<-w.done
	}
}

// killer kills the sidecar under the workers. Without an instance it only waits.
type killer struct {
	i    *instance
	r    *rand.Rand
	pid  int // of who serves
	left int // how often it may
	done int // deaths
	ups  int // upgrades: a death that is asked for
}

func newKiller(i *instance, seed uint64) *killer {
	return &killer{i: i, r: rand.New(rand.NewPCG(seed, 3)), left: *kills}
}

// wait waits for workers, which must succeed; while they run it kills the sidecar if it should. repeat is the command that does the same
// as worker n once more.
func (k *killer) wait(t *testing.T, all []*worker, kill bool, repeat func(n int) string) {
	t.Helper()
	limit, pause := time.After(*workTime), 20 // the first death is soon, however fast the workers are
	for n, w := range all {
		for running := true; running; {
			var next <-chan time.Time
			if kill && k.left > 0 {
				next = time.After(time.Duration(k.r.IntN(pause)) * time.Millisecond) // of work between two deaths
			}
			select {
			case <-w.done:
				running = false
			case <-next:
				k.kill()
				pause = 250
			case <-limit:
				require.FailNow(t, "a worker does not end", "%s\n%s", w.name, w.out.String())
			}
		}
		require.NoError(t, w.err, "%s\n%s\nrepeat with: %s", w.name, w.out.String(), repeat(n))
	}
}

func (k *killer) String() string {
	return fmt.Sprintf("%d kills of the sidecar, %d upgrades", k.done, k.ups)
}

// kill kills the sidecar, or has it replaced by `remora dev upgrade`.
func (k *killer) kill() {
	k.left--
	if k.done > 0 && k.r.IntN(8) == 0 {
		out, err := k.i.command(startLimit, "dev", "upgrade", "--dir", k.i.dir)
		require.NoError(k.i.t, err, "upgrade: %s", out)
		k.pid, k.ups = 0, k.ups+1
		return
	}
	if k.pid == 0 {
		pid := k.i.status().PID
		require.NotNil(k.i.t, pid)
		k.pid = *pid
	}
	k.done++
	k.pid = k.i.kill(k.pid, k.r.IntN(5) == 0)
}

// remount stops the volume, has it checked and starts it again.
func (k *killer) remount() {
	k.i.check()
	k.i.start()
	k.pid = 0
}

// empty waits until the volume uses no more than it did when it was empty.
func (i *instance) empty(used uint64) {
	i.t.Helper()
	var now uint64
	for deadline := time.Now().Add(startLimit); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		if now = i.status().Used; now == used {
			return
		}
	}
	require.FailNow(i.t, "the space of what was deleted does not come back", "%d bytes used, %d when it was empty", now, used)
}

// run runs a program, which must succeed.
func run(t *testing.T, name string, args ...string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), *workTime)
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir, cmd.WaitDelay, cmd.Env = programs.Base, 10*time.Second, quick()
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s %v: %s", name, args, out)
}
