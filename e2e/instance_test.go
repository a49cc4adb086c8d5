package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// Limits. Nothing here needs a tenth of it on an idle machine.
const (
	startLimit = 60 * time.Second
	stopLimit  = 40 * time.Second
)

// instance is a `remora dev` of its own.
type instance struct {
	t     *testing.T
	dir   string // its --dir
	ready string // its --ready-file
	args  []string
	cmd   *exec.Cmd
	gone  chan struct{} // closed when the supervisor has ended; exit is set then
	exit  error
	out   *output
}

// output collects what a process writes.
type output struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.String()
}

// needRoot skips a test where nothing can be mounted.
func needRoot(t *testing.T) {
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

// tempDir is like t.TempDir, but every user may enter it, and it stays when the test fails.
func tempDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp(base, t.Name()+"-")
	require.NoError(t, err)
	require.NoError(t, os.Chmod(dir, 0o755))
	t.Cleanup(func() {
		if mounts, err := fuseMounts(dir); err == nil && len(mounts) == 0 && !t.Failed() {
			require.NoError(t, os.RemoveAll(dir))
		}
	})
	return dir
}

// statefulSet is a manifest of a StatefulSet "db" with a volume "data".
func statefulSet(replicas int, size string) string {
	return fmt.Sprintf(`
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: db}
spec:
  replicas: %d
  template:
    metadata:
      annotations:
        remora.dev/volumes: data
        data.remora.dev/size: %s
    spec:
      containers:
      - {name: app, image: app, volumeMounts: [{name: data, mountPath: /data}]}
`, replicas, size)
}

// startOne starts a StatefulSet of one pod in a directory of its own.
func startOne(t *testing.T) *instance {
	t.Helper()
	needRoot(t)
	return start(t, filepath.Join(tempDir(t), "dev"), statefulSet(1, "4Gi"))
}

// start runs `remora dev` on dir and waits until its volumes are mounted. It ends with the test.
func start(t *testing.T, dir, manifest string, args ...string) *instance {
	t.Helper()
	file := dir + ".yaml"
	require.NoError(t, os.WriteFile(file, []byte(manifest), 0o644))
	i := &instance{t: t, dir: dir, ready: dir + ".ready", args: append([]string{"dev", "-f", file, "--dir", dir}, args...), out: &output{}}
	i.args = append(i.args, "--ready-file", i.ready)
	t.Cleanup(i.cleanUp)
	i.again()
	return i
}

// again starts the supervisor after it has ended, and waits for the mounts.
func (i *instance) again() {
	i.t.Helper()
	if err := os.Remove(i.ready); err != nil { // of a supervisor that was killed
		require.ErrorIs(i.t, err, os.ErrNotExist)
	}
	i.cmd = exec.Command(remora, i.args...)
	i.cmd.Stdout, i.cmd.Stderr = i.out, i.out
	i.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGINT}
	require.NoError(i.t, i.cmd.Start())
	cmd, gone := i.cmd, make(chan struct{})
	i.gone = gone
	go func() { i.exit = cmd.Wait(); close(gone) }() // cleanUp waits for it
	deadline := time.After(startLimit)
	for {
		if _, err := os.Stat(i.ready); err == nil {
			return
		}
		select {
		case <-time.After(10 * time.Millisecond):
		case <-i.gone:
			require.FailNow(i.t, "remora dev ended before its volumes were mounted", "%v\n%s", i.exit, i.out)
		case <-deadline:
			require.FailNow(i.t, "remora dev does not serve", i.out.String())
		}
	}
}

// stop is Ctrl-C: it must end cleanly.
func (i *instance) stop() {
	i.t.Helper()
	require.True(i.t, i.end(syscall.SIGINT), "remora dev does not end:\n%s", i.out)
	require.NoError(i.t, i.exit, i.out.String())
	mounts, err := fuseMounts(i.dir)
	require.NoError(i.t, err)
	require.Empty(i.t, mounts)
}

// end sends the signal and waits; false if the supervisor is still there.
func (i *instance) end(signal syscall.Signal) bool {
	_ = i.cmd.Process.Signal(signal) // it may have ended
	select {
	case <-i.gone:
		return true
	case <-time.After(stopLimit):
		return false
	}
}

func (i *instance) cleanUp() {
	if !i.end(syscall.SIGINT) {
		i.t.Error("remora dev does not end on SIGINT")
		i.end(syscall.SIGKILL)
	}
	if err := abortMounts(i.dir); err != nil {
		i.t.Errorf("clean up: %v", err)
	}
	if i.t.Failed() {
		text := i.out.String()
		i.t.Logf("remora dev wrote:\n%s", text[max(0, len(text)-8000):])
	}
}

// mount is where the volume "data" of a pod is.
func (i *instance) mount(pod string) string { return filepath.Join(i.dir, "pods", pod, "data") }

// status of all pods.
type status struct{ Pods []podStatus }

type podStatus struct {
	Name, Node string
	PID        *int
	Volumes    []struct {
		Name, Volume, Mount, State string
		Size, Used, Epoch          uint64
		Replicas                   []struct{ Pod, Node, State string }
	}
}

func (i *instance) status() status {
	i.t.Helper()
	var st status
	require.NoError(i.t, json.Unmarshal(i.statusJSON(), &st))
	return st
}

func (i *instance) statusJSON() []byte {
	i.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	out, err := exec.CommandContext(ctx, remora, "status", "--dir", i.dir, "-o", "json").Output()
	require.NoError(i.t, err)
	return out
}

func (i *instance) pod(name string) podStatus {
	i.t.Helper()
	for _, p := range i.status().Pods {
		if p.Name == name {
			return p
		}
	}
	require.FailNow(i.t, "no such pod", name)
	return podStatus{}
}

// served waits until a sidecar other than not serves the pod, and returns its process.
func (i *instance) served(pod string, not int) int {
	i.t.Helper()
	for deadline := time.Now().Add(startLimit); time.Now().Before(deadline); {
		p := i.pod(pod)
		if p.PID != nil && *p.PID != not && p.Volumes[0].State == "Mounted" {
			return *p.PID
		}
		time.Sleep(5 * time.Millisecond)
	}
	require.FailNow(i.t, "no sidecar serves", "%s\n%s", pod, i.out)
	return 0
}

// killSidecar kills the pod's sidecar with SIGKILL, and returns when the next one serves.
func (i *instance) killSidecar(pod string) {
	i.t.Helper()
	pid := i.served(pod, 0)
	require.NoError(i.t, syscall.Kill(pid, syscall.SIGKILL))
	i.served(pod, pid)
}
