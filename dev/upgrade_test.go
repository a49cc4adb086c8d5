package dev

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// binary is a program that does what the script says and then goes on as this test binary.
func binary(t *testing.T, script string) string {
	self, err := os.Executable()
	require.NoError(t, err)
	path := filepath.Join(t.TempDir(), "remora")
	require.NoError(t, os.WriteFile(path, fmt.Appendf(nil, "#!/bin/sh\n%s\nexec %s \"$@\"\n", script, self), 0o755))
	return path
}

func upgradeAll(dir, pod, binary string) (pods []string, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), 2*limit)
	defer cancel()
	err = Upgrade(ctx, dir, pod, binary, func(pod string, _ time.Duration) { pods = append(pods, pod) })
	return pods, err
}

func TestUpgrade(t *testing.T) {
	t.Parallel()
	r := start(t, t.TempDir(), set("db", "default", 2))
	r.waitReady()
	before := r.pid("db-0", 0)
	started := filepath.Join(t.TempDir(), "started")
	path := binary(t, "[ $2 = --help ] || echo $POD_NAME >>"+started)
	pods, err := upgradeAll(r.dir, "", path)
	require.NoError(t, err)
	require.Equal(t, []string{"db-0", "db-1"}, pods)
	require.NoError(t, r.look("db-0"))
	require.NoError(t, r.look("db-1"))
	pid := r.pid("db-0", before)
	require.NotContains(t, r.out.String(), "the sidecar died")

	require.NoError(t, os.WriteFile(path, nil, 0o600)) // every later start runs what was upgraded to
	require.NoError(t, syscall.Kill(pid, syscall.SIGKILL))
	r.pid("db-0", pid)
	b, err := os.ReadFile(started)
	require.NoError(t, err)
	require.Equal(t, "db-0\ndb-1\ndb-0\n", string(b))

	pods, err = upgradeAll(r.dir, "db-1", "") // the file of the supervisor's name
	require.NoError(t, err)
	require.Equal(t, []string{"db-1"}, pods)
	require.NoError(t, RestartPod(t.Context(), r.dir, "db-1"))
	_, err = upgradeAll(r.dir, "db-9", "")
	require.ErrorContains(t, err, `unknown pod "db-9"`)
}

func TestUpgradeToWhatDoesNotServe(t *testing.T) {
	t.Parallel()
	r := startWithBudget(t, t.TempDir(), set("db", "default", 1), 2*time.Second)
	r.waitReady()
	pid := r.pid("db-0", 0)
	for _, c := range []struct{ path, says string }{
		{"/no/such", "no such file"},
		{t.TempDir(), "is not a program"},
		{binary(t, "exit 3"), "is not a remora binary"},
	} {
		_, err := upgradeAll(r.dir, "db-0", c.path)
		require.ErrorContains(t, err, c.says)
		require.ErrorContains(t, err, "pod db-0 is as it was")
		require.Equal(t, pid, r.pid("db-0", 0))
	}
	for _, c := range []struct{ script, says string }{
		{`[ $2 = --help ] || { echo it cannot >&2; exit 1; }`, "it died 3 times before it served: it cannot"},
		{`[ $2 = --help ] || exec sleep 1000`, "it did not serve within 2s"},
	} {
		_, err := upgradeAll(r.dir, "db-0", binary(t, c.script))
		require.ErrorContains(t, err, c.says)
		require.ErrorContains(t, err, "the old one is back and serves")
		require.NoError(t, r.look("db-0"))
	}
}

func TestHangBudget(t *testing.T) {
	t.Parallel()
	const budget = time.Second
	r := startWithBudget(t, t.TempDir(), set("db", "default", 1), budget)
	r.waitReady()
	pid := r.pid("db-0", 0)
	release := hold(t, r.dir, "node-0", "fail")
	require.NoError(t, syscall.Kill(pid, syscall.SIGKILL))
	begin := time.Now()
	out, err := r.stat("db-0") // the abort ends it
	require.Error(t, err)
	require.Regexp(t, "Software caused connection abort|Transport endpoint is not connected", out)
	require.InDelta(t, budget, time.Since(begin), float64(2*budget))
	r.eventually("a line in the log", func() bool {
		return strings.Contains(r.out.String(), "nobody served the volume for longer than the hang budget")
	})
	require.Contains(t, r.out.String(), "volume=data-db-0")
	release()
	r.pid("db-0", pid)
	require.NoError(t, r.look("db-0"))
	require.Equal(t, 1, strings.Count(r.out.String(), "nobody served the volume"))
	require.Len(t, mountsBelow(t, r.dir), 1)
}

func TestASidecarThatDoesNotAnswerIsReplaced(t *testing.T) {
	t.Parallel()
	r := startWithBudget(t, t.TempDir(), set("db", "default", 1), 4*time.Second)
	r.waitReady()
	pid := r.pid("db-0", 0)
	require.NoError(t, syscall.Kill(pid, syscall.SIGSTOP))
	require.NoError(t, r.look("db-0"))
	require.NotEqual(t, pid, r.pid("db-0", pid))
	require.Contains(t, r.out.String(), "the sidecar runs but does not answer")
	require.NotContains(t, r.out.String(), "nobody served the volume")
}
