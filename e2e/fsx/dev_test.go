package fsx

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

const startLimit = time.Minute

const manifest = `
apiVersion: remora.dev/v1alpha1
kind: VolumeClass
metadata: {name: unsealed}
spec: {sealing: "off"}
---
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: db}
spec:
  replicas: 1
  template:
    metadata:
      annotations: {remora.dev/volumes: data, data.remora.dev/size: 8Gi%s}
    spec:
      containers:
      - {name: app, image: app, volumeMounts: [{name: data, mountPath: /data}]}
`

// More annotations of the volume.
const (
	sealed   = ""
	unsealed = ", data.remora.dev/class: unsealed"
)

// instance is a `remora dev` of its own, with one volume.
type instance struct {
	t     *testing.T
	dir   string
	mount string // of its volume
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

// startDev starts `remora dev` and waits until its volume is mounted. It ends with the test.
func startDev(t *testing.T, annotations string) *instance {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: remora dev mounts file systems")
	}
	f, err := os.OpenFile("/dev/fuse", os.O_RDWR, 0)
	if err != nil {
		t.Skipf("needs FUSE: %v", err)
	}
	require.NoError(t, f.Close())
	dir := tempDir(t)
	i := &instance{t: t, dir: filepath.Join(dir, "dev"), out: &output{}}
	i.mount = filepath.Join(i.dir, "pods", "db-0", "data")
	require.NoError(t, os.WriteFile(i.dir+".yaml", fmt.Appendf(nil, manifest, annotations), 0o644))
	t.Cleanup(i.cleanUp)
	i.start()
	return i
}

// tempDir is like t.TempDir, but it stays when the test fails.
func tempDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp(base, t.Name()+"-")
	require.NoError(t, err)
	t.Cleanup(func() {
		if mounts, err := fuseMounts(dir); err == nil && len(mounts) == 0 && !t.Failed() {
			require.NoError(t, os.RemoveAll(dir))
		}
	})
	return dir
}

// start starts the supervisor, and waits for the mount.
func (i *instance) start() {
	i.t.Helper()
	ready := i.dir + ".ready"
	if err := os.Remove(ready); err != nil {
		require.ErrorIs(i.t, err, os.ErrNotExist)
	}
	i.cmd = exec.Command(remora, "dev", "-f", i.dir+".yaml", "--dir", i.dir, "--ready-file", ready)
	i.cmd.Stdout, i.cmd.Stderr = i.out, i.out
	i.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGINT}
	require.NoError(i.t, i.cmd.Start())
	cmd, gone := i.cmd, make(chan struct{})
	i.gone = gone
	go func() { i.exit = cmd.Wait(); close(gone) }() // cleanUp waits for it
	deadline := time.After(startLimit)
	for {
		if _, err := os.Stat(ready); err == nil {
			return
		}
		select {
		case <-time.After(10 * time.Millisecond):
		case <-i.gone:
			require.FailNow(i.t, "remora dev ended before its volume was mounted", "%v\n%s", i.exit, i.out)
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
}

func (i *instance) end(signal syscall.Signal) bool {
	_ = i.cmd.Process.Signal(signal) // it may have ended
	select {
	case <-i.gone:
		return true
	case <-time.After(startLimit):
		return false
	}
}

func (i *instance) cleanUp() {
	if i.cmd == nil {
		return
	}
	if !i.end(syscall.SIGINT) {
		i.t.Error("remora dev does not end on SIGINT")
		i.end(syscall.SIGKILL)
	}
	if err := abortMounts(i.dir); err != nil {
		i.t.Errorf("clean up: %v", err)
	}
	if i.t.Failed() {
		text := i.out.String()
		i.t.Logf("remora dev wrote:\n%s", text[max(0, len(text)-4000):])
	}
}

// command runs remora and returns what it wrote.
func (i *instance) command(limit time.Duration, args ...string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	out, err := exec.CommandContext(ctx, remora, args...).Output()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		out = append(out, exit.Stderr...)
	}
	return out, err
}

// check stops the volume and has every byte of it verified.
func (i *instance) check() {
	i.t.Helper()
	i.stop()
	out, err := i.command(10*time.Minute, "check", i.dir)
	require.NoError(i.t, err, "remora check: %s", out)
	require.Contains(i.t, string(out), "checked 1 replica: 0 findings")
}

// status is what `remora status` says of the volume, in part.
type status struct {
	PID  *int
	Used uint64
}

func (i *instance) status() status {
	i.t.Helper()
	out, err := i.command(10*time.Second, "status", "--dir", i.dir, "-o", "json")
	require.NoError(i.t, err, "%s", out)
	var all struct {
		Pods []struct {
			PID     *int
			Volumes []struct{ Used uint64 }
		}
	}
	require.NoError(i.t, json.Unmarshal(out, &all))
	require.Len(i.t, all.Pods, 1)
	require.Len(i.t, all.Pods[0].Volumes, 1)
	return status{all.Pods[0].PID, all.Pods[0].Volumes[0].Used}
}

var servedAgain = regexp.MustCompile(`msg="served again" .*pid=(\d+) `)

// kill kills the sidecar with SIGKILL, once or before the next one serves once more, and returns the process that serves then.
func (i *instance) kill(pid int, again bool) int {
	i.t.Helper()
	said := len(servedAgain.FindAllString(i.out.String(), -1))
	require.NoError(i.t, syscall.Kill(pid, syscall.SIGKILL))
	if again {
		if next := i.status().PID; next != nil && *next != pid {
			_ = syscall.Kill(*next, syscall.SIGKILL) // it may have ended
		}
	}
	for deadline := time.Now().Add(startLimit); time.Now().Before(deadline); time.Sleep(2 * time.Millisecond) {
		all := servedAgain.FindAllStringSubmatch(i.out.String(), -1)
		if len(all) <= said {
			continue
		}
		if next, err := strconv.Atoi(all[len(all)-1][1]); err == nil && syscall.Kill(next, 0) == nil {
			return next
		}
	}
	require.FailNow(i.t, "the volume is not served again", i.out.String())
	return 0
}
