package dev

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/remora-storage/remora/sidecar/session/holder"
	"github.com/remora-storage/remora/sidecar/status"
)

// limit bounds everything that must happen; nothing needs a tenth of it.
const limit = 60 * time.Second

const statefulSet = `
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: %s, namespace: %s}
spec:
  replicas: %d
  template:
    metadata:
      annotations:
        remora.dev/volumes: data
        data.remora.dev/size: 1Gi
        data.remora.dev/class: default
    spec:
      containers:
      - name: app
        image: app
        volumeMounts: [{name: data, mountPath: /data}]
`

func set(name, namespace string, replicas int) string {
	return fmt.Sprintf(statefulSet, name, namespace, replicas)
}

// running is a supervisor as a process of its own.
type running struct {
	t     *testing.T
	cmd   *exec.Cmd
	dir   string
	ready string
	out   *output
}

// output collects what a supervisor writes.
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

func start(t *testing.T, dir, manifest string) *running {
	t.Helper()
	return startWithBudget(t, dir, manifest, 0)
}

func startWithBudget(t *testing.T, dir, manifest string, budget time.Duration) *running {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root, to mount FUSE")
	}
	if _, err := os.Stat("/dev/fuse"); err != nil {
		t.Skip("needs /dev/fuse: ", err)
	}
	t.Cleanup(func() { // after a failed test, too, no mount stays that nobody serves
		_, err := holder.Sweep(dir, slog.New(slog.DiscardHandler))
		require.True(t, err == nil || errors.Is(err, syscall.ENOTDIR), err)
	})
	r := &running{t: t, dir: dir, ready: filepath.Join(t.TempDir(), "ready"), out: &output{}}
	r.cmd = exec.Command("/proc/self/exe", "supervisor", dir, r.ready, manifest, budget.String())
	r.cmd.Stdout, r.cmd.Stderr = r.out, r.out
	r.cmd.Env = append(os.Environ(), "GORACE=atexit_sleep_ms=0")
	r.cmd.WaitDelay = time.Second
	require.NoError(t, r.cmd.Start())
	t.Cleanup(func() {
		if r.cmd.ProcessState == nil {
			r.stop()
		}
		if t.Failed() {
			t.Log(r.out.String())
		}
	})
	return r
}

// stop sends SIGTERM and waits; nothing may be left.
func (r *running) stop() {
	r.t.Helper()
	require.NoError(r.t, r.cmd.Process.Signal(syscall.SIGTERM))
	kill := time.AfterFunc(limit, func() { _ = r.cmd.Process.Kill() })
	defer kill.Stop()
	require.NoError(r.t, r.cmd.Wait(), "exit code 0")
	require.Empty(r.t, mountsBelow(r.t, r.dir))
	require.NoFileExists(r.t, r.ready)
	require.NoFileExists(r.t, filepath.Join(r.dir, "control.sock"))
}

func (r *running) waitReady() {
	r.t.Helper()
	r.eventually("the ready file", func() bool {
		b, err := os.ReadFile(r.ready)
		return err == nil && string(b) == "ready\n"
	})
}

func (r *running) eventually(what string, ok func() bool) {
	r.t.Helper()
	for end := time.Now().Add(limit); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		if ok() {
			return
		}
	}
	r.t.Fatalf("no %s\n%s", what, r.out)
}

func (r *running) status() status.Report {
	r.t.Helper()
	begin := time.Now()
	report, err := Status(r.t.Context(), r.dir)
	require.NoError(r.t, err)
	require.Less(r.t, time.Since(begin), time.Second)
	return report
}

func (r *running) pod(name string) status.Pod {
	r.t.Helper()
	for _, p := range r.status().Pods {
		if p.Name == name {
			return p
		}
	}
	r.t.Fatalf("no pod %s", name)
	return status.Pod{}
}

// pid waits for a sidecar of the pod that serves and is not the one before.
func (r *running) pid(name string, before int) (pid int) {
	r.t.Helper()
	r.eventually("sidecar of "+name, func() bool {
		p := r.pod(name)
		if p.PID == nil || *p.PID == before || p.Volumes[0].State != status.Mounted {
			return false
		}
		pid = *p.PID
		return true
	})
	return pid
}

// look looks at a mount, from another process. Its root is inode 1, unlike any directory of the disk.
func (r *running) look(pod string) error {
	out, err := r.stat(pod)
	if err != nil || out != "1\n" {
		return fmt.Errorf("%s: %w", out, err)
	}
	return nil
}

func (r *running) stat(pod string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	cmd := exec.CommandContext(ctx, "stat", "-c", "%i", filepath.Join(r.dir, "pods", pod, "data"))
	cmd.Cancel = func() error { // a signal does not wake who waits for a request that was read
		_, err := holder.Sweep(r.dir, slog.New(slog.DiscardHandler))
		return errors.Join(err, cmd.Process.Kill())
	}
	out, err := cmd.CombinedOutput()
	return string(out), err
}

func mountsBelow(t *testing.T, dir string) (found []string) {
	b, err := os.ReadFile("/proc/self/mountinfo")
	require.NoError(t, err)
	for line := range strings.Lines(string(b)) {
		if strings.Contains(line, dir+"/") {
			found = append(found, line)
		}
	}
	return found
}

func hold(t *testing.T, dir, node, file string) (release func()) {
	path := filepath.Join(dir, "nodes", node, "default", file)
	require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o700))
	require.NoError(t, os.WriteFile(path, nil, 0o600))
	return func() { require.NoError(t, os.Remove(path)) }
}
