package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// replicated is statefulSet with three copies of each volume.
func replicated(replicas int) string {
	return strings.Replace(statefulSet(replicas, "1Gi"), "class: default", "class: replicated", 1)
}

// threeCopies starts one pod whose volume has three copies.
func threeCopies(t *testing.T) *instance {
	t.Helper()
	needRoot(t)
	return start(t, filepath.Join(tempDir(t), "dev"), replicated(1))
}

// inSync waits until the pod's volume has exactly its three copies, all in sync.
func (i *instance) inSync(pod string) {
	i.t.Helper()
	var replicas []string
	for deadline := time.Now().Add(2 * startLimit); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		replicas = nil
		good := 0
		for _, r := range i.pod(pod).Volumes[0].Replicas {
			replicas = append(replicas, fmt.Sprint(r))
			if r.State == "InSync" {
				good++
			}
		}
		if good == 3 && len(replicas) == 3 {
			return
		}
	}
	require.FailNow(i.t, "not three copies in sync", "%v\n%s", replicas, i.out)
}

// dev runs a command of `remora dev` on the instance.
func (i *instance) dev(args ...string) *child {
	return i.program("", nil, programs.Remora, append(append([]string{"dev"}, args...), "--dir", i.dir)...)
}

// ledger is a program that writes numbered lines with an fsync each, and says each one that was acknowledged.
type ledger struct {
	*child
	i    *instance
	file string
}

func (i *instance) ledger(pod string) *ledger {
	i.t.Helper()
	file := filepath.Join(i.mount(pod), "ledger")
	return &ledger{i.worker("", "ledger", file).start(), i, file}
}

// acknowledged waits until it has said n more lines than before.
func (l *ledger) acknowledged(n int) {
	l.t.Helper()
	want := strings.Count(l.out.String(), "\n") + n
	require.Eventually(l.t, func() bool { return strings.Count(l.out.String(), "\n") >= want }, startLimit, 5*time.Millisecond, "%s", l.i.out)
}

// check ends the program and looks whether the file is a prefix of what it wrote that has every line that was acknowledged.
func (l *ledger) check() {
	l.t.Helper()
	l.kill()
	said := lines(l.out.String())
	b := []byte(l.i.program("", nil, "cat", l.file).run(time.Minute))
	have := lines(string(b))
	for n, line := range have {
		require.Equal(l.t, fmt.Sprint("line ", n), line, "of %d lines", len(have))
	}
	require.NotEmpty(l.t, said)
	var last int
	_, err := fmt.Sscanf(said[len(said)-1], "line %d", &last)
	require.NoError(l.t, err, said[len(said)-1])
	require.Greater(l.t, len(have), last, "line %d was acknowledged", last)
	l.t.Logf("%d lines were acknowledged, %d are there", last+1, len(have))
}

// TestNodesFail: whatever node goes, what was acknowledged is there, and the volume has three copies again soon.
func TestNodesFail(t *testing.T) {
	t.Parallel()
	i := threeCopies(t)
	l := i.ledger("db-0")
	l.acknowledged(50)
	node := i.pod("db-0").Node
	require.Contains(t, i.dev("fail-node", node).run(2*time.Minute), "pod db-0 is mounted again")
	require.NotEqual(t, node, i.pod("db-0").Node)
	require.NoDirExists(t, filepath.Join(i.dir, "nodes", node))
	l.check()

	l = i.ledger("db-0")
	l.acknowledged(50)
	i.inSync("db-0")
	i.dev("fail-node", "node-1").run(2 * time.Minute) // where a keeper runs: the program goes on
	l.acknowledged(50)
	i.inSync("db-0")
	l.acknowledged(50)

	// Everything dies at once.
	require.True(t, i.end(syscall.SIGKILL))
	_ = l.wait(time.Minute)
	i.again()
	l.check()
	i.inSync("db-0")

	// Scaled to zero and back.
	i.stop()
	require.NoError(t, os.WriteFile(i.dir+".yaml", []byte(replicated(0)), 0o644))
	i.again()
	require.Eventually(t, func() bool { return len(i.status().Pods) == 3 }, startLimit, 20*time.Millisecond, "keepers: %s", i.out) // one after another
	i.stop()
	require.NoError(t, os.WriteFile(i.dir+".yaml", []byte(replicated(1)), 0o644))
	i.again()
	l.check()
	i.inSync("db-0")
}

// TestTwoOfThreeDisksLost: the volume says so and waits for a word.
func TestTwoOfThreeDisksLost(t *testing.T) {
	t.Parallel()
	i := threeCopies(t)
	l := i.ledger("db-0")
	l.acknowledged(20)
	i.dev("fail-node", "node-1", "--replace-after", "1h").run(time.Minute)
	l.acknowledged(20)
	second := i.dev("fail-node", "node-2", "--replace-after", "1h").start()
	require.Error(t, second.wait(time.Minute))
	require.Contains(t, second.out.String(), "has lost the majority of its disks")
	require.Eventually(t, func() bool { return i.pod("db-0").Volumes[0].State == "MajorityLost" }, startLimit, 20*time.Millisecond)

	early := i.dev("accept-loss", "data-db-0").start()
	require.Error(t, early.wait(time.Minute))
	require.Contains(t, early.out.String(), "needs --accept-data-loss")
	i.dev("accept-loss", "data-db-0", "--accept-data-loss").run(time.Minute)
	i.served("db-0", 0)
	l.check()
	again := i.dev("accept-loss", "data-db-0", "--accept-data-loss").start()
	require.Error(t, again.wait(time.Minute))
	require.Contains(t, again.out.String(), "nothing to accept")
}

// TestADiskComesBack: in time, as the replica that it was; too late, as nothing that does any harm.
func TestADiskComesBack(t *testing.T) {
	t.Parallel()
	i := threeCopies(t)
	l := i.ledger("db-0")
	l.acknowledged(20)
	i.inSync("db-0")
	i.dev("fail-node", "node-1", "--keep-disk", "--replace-after", "1h").run(time.Minute)
	l.acknowledged(20)
	i.dev("return-node", "node-1").run(time.Minute)
	i.inSync("db-0")
	require.Contains(t, i.nodesOf("db-0"), "node-1")

	i.dev("fail-node", "node-2", "--keep-disk").run(time.Minute)
	l.acknowledged(20)
	i.inSync("db-0")
	require.NotContains(t, i.nodesOf("db-0"), "node-2")
	i.dev("return-node", "node-2").run(time.Minute)
	l.acknowledged(20)
	i.inSync("db-0")
	require.NotContains(t, i.nodesOf("db-0"), "node-2")
	l.check()
}

func (i *instance) nodesOf(pod string) (nodes []string) {
	for _, r := range i.pod(pod).Volumes[0].Replicas {
		nodes = append(nodes, r.Node)
	}
	return nodes
}

// TestEndsWithoutAMajority: a sidecar that is to end while programs wait for a majority ends soon, and the next process answers them.
func TestEndsWithoutAMajority(t *testing.T) {
	t.Parallel()
	i := threeCopies(t)
	i.inSync("db-0")
	l := i.ledger("db-0")
	l.acknowledged(50)
	for _, p := range i.status().Pods {
		if len(p.Volumes) == 0 {
			i.signal(p, syscall.SIGSTOP)
			t.Cleanup(func() { i.signal(p, syscall.SIGCONT) })
		}
	}
	require.Eventually(t, func() bool {
		out := i.program("", nil, programs.Remora, "status", "--dir", i.dir).run(time.Minute)
		return strings.Contains(out, "no leader: changes wait")
	}, startLimit, 50*time.Millisecond)
	pid := i.served("db-0", 0)
	require.NoError(t, syscall.Kill(pid, syscall.SIGTERM))
	require.Eventually(t, func() bool { return syscall.Kill(pid, 0) != nil }, startLimit, 10*time.Millisecond)
	i.logged("db-0", "requests are left to the next process")
	for _, p := range i.status().Pods {
		if len(p.Volumes) == 0 && p.PID != nil {
			i.signal(p, syscall.SIGCONT)
		}
	}
	l.acknowledged(50) // no error on the way
	l.check()
	i.inSync("db-0")
}

// TestSidecarAtRest: a sidecar with three volumes of three copies, and a keeper of them, stay small.
func TestSidecarAtRest(t *testing.T) {
	t.Parallel()
	needRoot(t)
	more := strings.NewReplacer("remora.dev/volumes: data", "remora.dev/volumes: data, logs, tmp\n        logs.remora.dev/size: 1Gi\n        tmp.remora.dev/size: 1Gi",
		"mountPath: /data}", "mountPath: /data}, {name: logs, mountPath: /logs}, {name: tmp, mountPath: /scratch}")
	i := start(t, filepath.Join(tempDir(t), "dev"), more.Replace(replicated(1)))
	require.Len(t, i.pod("db-0").Volumes, 3)
	i.inSync("db-0")
	for _, p := range i.status().Pods {
		require.NotNil(t, p.PID, p.Name)
		require.Eventually(t, func() bool { return i.residentOf(*p.PID) <= 64 }, startLimit, 200*time.Millisecond, "%s is not small", p.Name)
		t.Logf("%s: %d MiB", p.Name, i.residentOf(*p.PID))
	}
}
