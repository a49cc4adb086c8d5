package e2e

import (
	"encoding/json"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// TestTwoInstances: two supervisors on one machine do not disturb each other.
func TestTwoInstances(t *testing.T) {
	t.Parallel()
	a, b := startOne(t), startOne(t)
	write := func(i *instance, text string) {
		i.program("", nil, "sh", "-c", `echo "$1" >"$0"/file`, i.mount("db-0"), text).run(time.Minute)
	}
	read := func(i *instance) string { return i.program("", nil, "cat", i.mount("db-0")+"/file").run(time.Minute) }
	write(a, "of a")
	write(b, "of b")
	pid := b.served("db-0", 0)
	a.killSidecar("db-0")
	a.stop()
	require.Equal(t, pid, b.served("db-0", 0))
	require.Equal(t, "of b\n", read(b))
	a.again()
	require.Equal(t, "of a\n", read(a))
}

// TestReplicasOfAWorkload: each pod has its own Volume, on a node of its own or, with --nodes 1, all on one.
func TestReplicasOfAWorkload(t *testing.T) {
	t.Parallel()
	needRoot(t)
	deployment := strings.Replace(strings.Replace(statefulSet(2, "1Gi"), "kind: StatefulSet", "kind: Deployment", 1), "name: db", "name: web", 1)
	for _, c := range []struct {
		name, manifest, pod string
		args, nodes         []string
	}{
		{"a node each", statefulSet(2, "1Gi"), "db", nil, []string{"node-0", "node-1"}},
		{"one node", statefulSet(2, "1Gi"), "db", []string{"--nodes", "1"}, []string{"node-0", "node-0"}},
		{"deployment", deployment, "web", nil, []string{"node-0", "node-1"}},
	} {
		i := start(t, filepath.Join(tempDir(t), "dev"), c.manifest, c.args...)
		check := func() {
			t.Helper()
			st := i.status()
			require.Len(t, st.Pods, 2, c.name)
			for n, p := range st.Pods {
				name := fmt.Sprintf("%s-%d", c.pod, n)
				require.Equal(t, name, p.Name, c.name)
				require.Equal(t, c.nodes[n], p.Node, c.name)
				require.Len(t, p.Volumes, 1, c.name)
				require.Equal(t, "data", p.Volumes[0].Name)
				require.Equal(t, "data-"+name, p.Volumes[0].Volume)
				require.Equal(t, i.mount(name), p.Volumes[0].Mount)
				require.Equal(t, "Mounted", p.Volumes[0].State)
				require.Len(t, p.Volumes[0].Replicas, 1)
				require.Equal(t, name, p.Volumes[0].Replicas[0].Pod)
				require.Equal(t, c.nodes[n], p.Volumes[0].Replicas[0].Node)
				require.Equal(t, "InSync", p.Volumes[0].Replicas[0].State)
			}
		}
		check()
		write := func(pod string) {
			i.program("", nil, "sh", "-c", `echo "$1" >"$0"/file`, i.mount(pod), "of "+pod).run(time.Minute)
		}
		first, second := c.pod+"-0", c.pod+"-1"
		write(first)
		write(second)
		other := i.served(second, 0)
		i.killSidecar(first)
		require.Equal(t, other, i.served(second, 0), "%s: the death of one sidecar disturbed the other", c.name)
		i.stop()
		i.again()
		check()
		for _, pod := range []string{first, second} {
			require.Equal(t, "of "+pod+"\n", i.program("", nil, "cat", i.mount(pod)+"/file").run(time.Minute), c.name)
		}
		i.stop()
	}
}

// TestStatus: its keys are a contract, and it comes within a second, whatever the sidecar does.
func TestStatus(t *testing.T) {
	t.Parallel()
	i := startOne(t)
	ask := func(when string) status {
		t.Helper()
		began := time.Now()
		out := i.statusJSON()
		require.Less(t, time.Since(began), time.Second, when)
		var report map[string]any
		require.NoError(t, json.Unmarshal(out, &report))
		checkKeys(t, report, when)
		var st status
		require.NoError(t, json.Unmarshal(out, &st))
		require.Equal(t, uint64(4<<30), st.Pods[0].Volumes[0].Size, when)
		require.Equal(t, i.mount("db-0"), st.Pods[0].Volumes[0].Mount, when)
		return st
	}
	require.Equal(t, "Mounted", ask("running").Pods[0].Volumes[0].State)

	pid := i.served("db-0", 0)
	require.NoError(t, syscall.Kill(pid, syscall.SIGSTOP))
	require.Equal(t, &pid, ask("stopped").Pods[0].PID)
	require.Eventually(t, func() bool { return ask("stopped").Pods[0].Volumes[0].State == "Offline" }, time.Minute, 100*time.Millisecond)
	require.NoError(t, syscall.Kill(pid, syscall.SIGCONT))
	require.Eventually(t, func() bool { return ask("running again").Pods[0].Volumes[0].State == "Mounted" }, time.Minute, 10*time.Millisecond)

	require.NoError(t, syscall.Kill(pid, syscall.SIGKILL))
	for range 20 { // some of them before the next sidecar is there
		ask("dead")
	}
	i.served("db-0", pid)
	ask("served again")
}

// checkKeys compares the keys of a report with the contract; all are always there, and the lists are never null.
func checkKeys(t *testing.T, report map[string]any, when string) {
	t.Helper()
	keys := func(m map[string]any, want ...string) {
		t.Helper()
		require.ElementsMatch(t, want, slices.Collect(maps.Keys(m)), when)
	}
	list := func(v any) []map[string]any {
		t.Helper()
		var all []map[string]any
		require.IsType(t, []any{}, v, when)
		for _, e := range v.([]any) {
			all = append(all, e.(map[string]any))
		}
		require.NotEmpty(t, all, when)
		return all
	}
	keys(report, "pods")
	for _, p := range list(report["pods"]) {
		keys(p, "name", "node", "pid", "volumes", "hosted")
		require.IsType(t, []any{}, p["hosted"], when)
		for _, v := range list(p["volumes"]) {
			keys(v, "name", "volume", "mount", "state", "epoch", "appliedIndex", "committedIndex", "size", "used", "replicas")
			for _, r := range list(v["replicas"]) {
				keys(r, "id", "pod", "node", "role", "state", "matchIndex", "missing")
				require.Contains(t, []any{"voter", "learner", "witness"}, r["role"], when)
				require.Contains(t, []any{"InSync", "Syncing", "Offline", "Damaged"}, r["state"], when)
			}
		}
	}
}
