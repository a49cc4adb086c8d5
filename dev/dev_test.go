package dev

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/remora-storage/remora/sidecar/status"
)

// limit bounds everything that must happen; nothing needs a tenth of it.
const limit = 20 * time.Second

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
	if os.Geteuid() != 0 {
		t.Skip("needs root, to mount FUSE")
	}
	if _, err := os.Stat("/dev/fuse"); err != nil {
		t.Skip("needs /dev/fuse: ", err)
	}
	r := &running{t: t, dir: dir, ready: filepath.Join(t.TempDir(), "ready"), out: &output{}}
	r.cmd = exec.Command("/proc/self/exe", "supervisor", dir, r.ready, manifest)
	r.cmd.Stdout, r.cmd.Stderr = r.out, r.out
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
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	out, err := exec.CommandContext(ctx, "stat", "-c", "%i", filepath.Join(r.dir, "pods", pod, "data")).CombinedOutput()
	if err != nil || strings.TrimSpace(string(out)) != "1" {
		return fmt.Errorf("%s: %w", out, err)
	}
	return nil
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

func TestPodsOfAStatefulSetStartOneAfterAnother(t *testing.T) {
	dir := t.TempDir()
	release := hold(t, dir, "node-0", "hold")
	r := start(t, dir, set("db", "default", 2))
	r.eventually("sidecar of db-0", func() bool {
		report, err := Status(t.Context(), dir)
		return err == nil && report.Pods[0].PID != nil
	})
	require.Nil(t, r.pod("db-1").PID)
	require.NoFileExists(t, r.ready)
	release()
	r.waitReady()
	require.NotNil(t, r.pod("db-1").PID)
	require.NoError(t, r.look("db-0"))
	require.NoError(t, r.look("db-1"))
	require.Contains(t, r.out.String(), filepath.Join(dir, "pods", "db-1", "data"))
	require.Equal(t, "node-1", r.pod("db-1").Node)
}

func TestADeadSidecarIsReplacedAtOnce(t *testing.T) {
	r := start(t, t.TempDir(), set("db", "default", 1))
	r.waitReady()
	pid := r.pid("db-0", 0)
	for range 3 {
		begin := time.Now()
		require.NoError(t, syscall.Kill(pid, syscall.SIGKILL))
		require.NoError(t, r.look("db-0"))
		require.Less(t, time.Since(begin), 5*time.Second) // milliseconds; a back-off would double
		pid = r.pid("db-0", pid)
	}
	require.FileExists(t, r.ready)
}

func TestASidecarThatNeverServedIsRetriedWithPauses(t *testing.T) {
	dir := t.TempDir()
	release := hold(t, dir, "node-0", "fail")
	r := start(t, dir, set("db", "default", 1))
	r.eventually("planted failure in the log", func() bool {
		return strings.Contains(r.out.String(), "db-0 |   error: planted failure") && strings.Contains(r.out.String(), "retry=1s")
	})
	v := r.pod("db-0").Volumes[0]
	require.NotEqual(t, status.Mounted, v.State)
	require.Equal(t, uint64(1<<30), v.Size)
	require.Len(t, v.Replicas, 1)
	release()
	r.waitReady()
	log, err := os.ReadFile(filepath.Join(dir, "logs", "db-0.log"))
	require.NoError(t, err)
	require.Contains(t, string(log), "planted failure")
}

func TestOneSupervisorPerDirectory(t *testing.T) {
	dir := t.TempDir()
	first := start(t, dir, set("db", "default", 1))
	first.waitReady()
	second := start(t, dir, set("db", "default", 1))
	require.Error(t, second.cmd.Wait())
	require.Contains(t, second.out.String(), fmt.Sprintf("in use by a running remora dev (process %d)", first.cmd.Process.Pid))
	require.NoError(t, first.look("db-0"))

	other := start(t, t.TempDir(), set("db", "default", 1)) // two directories do not disturb each other
	other.waitReady()
	other.stop()
	require.NoError(t, first.look("db-0"))
}

func TestSupervisorKilled(t *testing.T) {
	dir := t.TempDir()
	r := start(t, dir, set("db", "default", 1))
	r.waitReady()
	pid := r.pid("db-0", 0)
	require.NoError(t, r.cmd.Process.Kill())
	_ = r.cmd.Wait()
	r.eventually("end of the sidecar", func() bool { return syscall.Kill(pid, 0) != nil })
	require.NotEmpty(t, mountsBelow(t, dir))
	_, err := Status(t.Context(), dir)
	require.ErrorContains(t, err, "no remora dev is running")

	again := start(t, dir, set("db", "default", 1))
	again.waitReady()
	require.Contains(t, again.out.String(), "killed supervisor left behind")
	require.NoError(t, again.look("db-0"))
	require.Len(t, mountsBelow(t, dir), 1)
}

func TestStopTakesTheMountFromABusyProgram(t *testing.T) {
	r := start(t, t.TempDir(), set("db", "default", 2))
	r.waitReady()
	busy := exec.Command("sleep", "1000")
	busy.Dir = filepath.Join(r.dir, "pods", "db-0", "data")
	require.NoError(t, busy.Start())
	defer func() { _ = busy.Process.Kill(); _ = busy.Wait() }()
	r.stop()
	require.Contains(t, r.out.String(), fmt.Sprintf("pids=%d\n", busy.Process.Pid))
}

func TestStopWithoutAnAnswerFromTheSidecar(t *testing.T) {
	r := start(t, t.TempDir(), set("db", "default", 1))
	r.waitReady()
	pid := r.pid("db-0", 0)
	require.NoError(t, syscall.Kill(pid, syscall.SIGSTOP))
	looking := exec.Command("stat", filepath.Join(r.dir, "pods", "db-0", "data"))
	require.NoError(t, looking.Start())
	time.AfterFunc(300*time.Millisecond, func() { _ = syscall.Kill(pid, syscall.SIGCONT) }) // SIGTERM waits for it
	r.stop()
	_ = looking.Wait()
}

func TestStatusWhileSidecarsAreDown(t *testing.T) {
	dir := t.TempDir()
	r := start(t, dir, set("db", "default", 1))
	r.waitReady()
	pid := r.pid("db-0", 0)
	release := hold(t, dir, "node-0", "fail")
	require.NoError(t, syscall.Kill(pid, syscall.SIGKILL))
	r.eventually("pid null", func() bool { return r.pod("db-0").PID == nil })
	v := r.pod("db-0").Volumes[0]
	require.NotEqual(t, status.Mounted, v.State)
	require.Equal(t, uint64(7), v.Epoch) // its last word
	require.Equal(t, status.Offline, v.Replicas[0].State)
	release()
	pid = r.pid("db-0", pid)

	require.NoError(t, syscall.Kill(pid, syscall.SIGSTOP))
	r.status() // within a second
	require.NoError(t, syscall.Kill(pid, syscall.SIGCONT))
}

func TestStatusHasAllKeys(t *testing.T) {
	dir := t.TempDir()
	release := hold(t, dir, "node-0", "hold")
	r := start(t, dir, set("db", "default", 2))
	r.eventually("answer", func() bool { _, err := Status(t.Context(), dir); return err == nil })
	b, err := json.Marshal(r.status())
	require.NoError(t, err)
	require.NotContains(t, strings.ReplaceAll(string(b), `"pid":null`, ""), "null")
	want := status.Volume{
		Name: "data", Volume: "data-db-1", Mount: filepath.Join(dir, "pods/db-1/data"), State: status.Pending, Size: 1 << 30,
		Replicas: []status.Replica{{Pod: "db-1", Node: "node-1", Role: status.Voter, State: status.Offline}},
	}
	require.Equal(t, []status.Volume{want}, r.pod("db-1").Volumes)
	release()
	r.waitReady()
}

func TestRestartPod(t *testing.T) {
	dir := t.TempDir()
	r := start(t, dir, set("db", "default", 1)+"---"+set("db", "other", 1))
	r.waitReady()
	pid := r.pid("other.db-0", 0)
	require.NoError(t, RestartPod(t.Context(), dir, "other.db-0"))
	require.NotEqual(t, pid, *r.pod("other.db-0").PID)
	require.NoError(t, r.look("other.db-0"))
	require.Len(t, mountsBelow(t, dir), 2)
	b, err := os.ReadFile(filepath.Join(dir, "logs", "other.db-0.log"))
	require.NoError(t, err)
	uids := map[string]bool{}
	for line := range strings.Lines(string(b)) {
		if uid, ok := strings.CutPrefix(line, "fake sidecar of db-0 "); ok {
			uids[uid] = true
		}
	}
	require.Len(t, uids, 2, "a new pod has a new UID")
	require.Equal(t, "other.db-0", r.pod("other.db-0").Volumes[0].Replicas[0].Pod)

	err = RestartPod(t.Context(), dir, "db-9")
	require.ErrorContains(t, err, `unknown pod "db-9"; there are: db-0, other.db-0`)
}

func TestASecondStartKeepsPlaces(t *testing.T) {
	dir := t.TempDir()
	r := start(t, dir, set("db", "default", 2))
	r.waitReady()
	r.stop()
	r = start(t, dir, set("web", "default", 1)+"---"+set("db", "default", 2))
	r.waitReady()
	require.Equal(t, "node-0", r.pod("db-0").Node)
	require.Equal(t, "node-1", r.pod("db-1").Node)
	require.Equal(t, "node-2", r.pod("web-0").Node)
}

func TestDirectoryThatCannotBeUsed(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	require.NoError(t, os.WriteFile(file, nil, 0o600))
	r := start(t, filepath.Join(file, "dir"), set("db", "default", 1))
	require.Error(t, r.cmd.Wait())
	require.Contains(t, r.out.String(), "--dir "+file)
	require.Contains(t, r.out.String(), "choose another with --dir")
}
