package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// TestDamagedReplicasHeal flips bits in what the three replicas of a volume keep, one after another, kills the process that serves it, and
// waits until there are three copies again. No fsync fails, nothing that was acknowledged is lost, and nobody has to do anything.
func TestDamagedReplicasHeal(t *testing.T) {
	t.Parallel()
	i := threeCopies(t)
	i.inSync("db-0")
	l := i.ledger("db-0")
	l.acknowledged(100)

	// A follower's metadata: it stays the replica that it is.
	i.crash("keeper-node-1") // what it has is in files then
	i.inSync("db-0")
	id := i.replicaOn("db-0", "node-1")
	i.flip(filepath.Join("node-1", "default", "disk-0", "replicas", id, "meta", "*"), 0)
	i.crash("keeper-node-1")
	i.logged("keeper-node-1", "the state of this replica is damaged")
	i.inSync("db-0")
	require.Equal(t, id, i.replicaOn("db-0", "node-1"))
	l.acknowledged(20)

	// A follower's journal, and then a superblock: another replica takes its place.
	for _, what := range []string{"journal/*.seg", "replicas/" + id + "/superblock"} {
		from := int64(8192)
		if strings.HasSuffix(what, "superblock") {
			what, from = "replicas/"+i.replicaOn("db-0", "node-1")+"/superblock", 0
			i.flip(filepath.Join("node-1", "default", "disk-1", what), from)
		} else {
			i.flip(filepath.Join("node-1", "default", "disk-0", what), from)
		}
		old := i.replicaOn("db-0", "node-1")
		i.crash("keeper-node-1")
		i.anotherOn("db-0", "node-1", old)
		l.acknowledged(20)
		i.inSync("db-0")
	}

	// The owner's metadata: programs go on.
	id = i.replicaOn("db-0", "node-0")
	i.crash("db-0")
	l.acknowledged(20)
	i.flip(filepath.Join("node-0", "default", "disk-0", "replicas", id, "meta", "*"), 0)
	i.crash("db-0")
	i.logged("db-0", "the state of this replica is damaged")
	l.acknowledged(20)
	i.inSync("db-0")
	require.Equal(t, id, i.replicaOn("db-0", "node-0"))

	// The owner's journal: what it had answered and nobody else has is gone, so programs must start again.
	i.flip(filepath.Join("node-0", "default", "disk-0", "journal", "*.seg"), 8192)
	i.crash("db-0")
	_ = l.wait(2 * startLimit)
	i.anotherOn("db-0", "node-0", id)
	i.inSync("db-0")
	i.served("db-0", 0)
	l.check()
}

// crash kills the sidecar of a pod, or of a keeper.
func (i *instance) crash(pod string) {
	i.t.Helper()
	var pid int
	require.Eventually(i.t, func() bool {
		if p := i.pod(pod).PID; p != nil {
			pid = *p
		}
		return pid != 0
	}, startLimit, 10*time.Millisecond)
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		require.ErrorIs(i.t, err, syscall.ESRCH) // it has just ended by itself
	}
	require.Eventually(i.t, func() bool {
		p := i.pod(pod).PID
		return p != nil && *p != pid
	}, startLimit, 10*time.Millisecond, "%s", i.out)
}

// flip flips a bit in every 512th byte, from an offset on, of the first 128 KiB of files below the nodes' directory.
func (i *instance) flip(pattern string, from int64) {
	i.t.Helper()
	files, err := filepath.Glob(filepath.Join(i.dir, "nodes", pattern))
	require.NoError(i.t, err)
	require.NotEmpty(i.t, files, pattern)
	for _, name := range files {
		f, err := os.OpenFile(name, os.O_RDWR, 0)
		if os.IsNotExist(err) {
			continue // it is being used
		}
		require.NoError(i.t, err)
		var b [1]byte
		for off := from; off < 128<<10; off += 512 {
			if _, err := f.ReadAt(b[:], off); err != nil {
				break
			}
			b[0] ^= 0x40
			_, err := f.WriteAt(b[:], off)
			require.NoError(i.t, err)
		}
		require.NoError(i.t, f.Close())
	}
}

// replicaOn is the ID of the replica on a node.
func (i *instance) replicaOn(pod, node string) string {
	i.t.Helper()
	for _, r := range i.pod(pod).Volumes[0].Replicas {
		if r.Node == node && r.State != "Lost" {
			return r.ID
		}
	}
	require.FailNow(i.t, "no replica there", node)
	return ""
}

// anotherOn waits until a node has another replica, and the volume has forgotten the old one.
func (i *instance) anotherOn(pod, node, old string) {
	i.t.Helper()
	require.Eventually(i.t, func() bool {
		another := false
		for _, v := range i.pod(pod).Volumes {
			for _, r := range v.Replicas {
				if r.ID == old {
					return false
				}
				another = another || r.Node == node
			}
		}
		return another
	}, 2*startLimit, 20*time.Millisecond, "%s", i.out)
}

// logged waits until a process has said something.
func (i *instance) logged(pod, text string) {
	i.t.Helper()
	require.Eventually(i.t, func() bool {
		b, err := os.ReadFile(filepath.Join(i.dir, "logs", pod+".log"))
		return err == nil && strings.Contains(string(b), text)
	}, startLimit, 20*time.Millisecond, "%s", i.out)
}
