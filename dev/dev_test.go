package dev

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/remora-storage/remora/sidecar/status"
)

func TestPodsOfAStatefulSetStartOneAfterAnother(t *testing.T) {
	t.Parallel()
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
	t.Parallel()
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
	t.Parallel()
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
	t.Parallel()
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
	t.Parallel()
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
	t.Parallel()
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
	t.Parallel()
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
	t.Parallel()
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
	t.Parallel()
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
	t.Parallel()
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
	t.Parallel()
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
	t.Parallel()
	file := filepath.Join(t.TempDir(), "file")
	require.NoError(t, os.WriteFile(file, nil, 0o600))
	r := start(t, filepath.Join(file, "dir"), set("db", "default", 1))
	require.Error(t, r.cmd.Wait())
	require.Contains(t, r.out.String(), "--dir "+file)
	require.Contains(t, r.out.String(), "choose another with --dir")
}
