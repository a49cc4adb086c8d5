package e2e

import (
	"bytes"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// witnessed starts one pod whose volume has two copies and a witness.
func witnessed(t *testing.T, args ...string) *instance {
	t.Helper()
	needRoot(t)
	i := start(t, filepath.Join(tempDir(t), "dev"), strings.Replace(statefulSet(1, "1Gi"), "class: default", "class: witnessed", 1), args...)
	i.twoAndWitness()
	return i
}

// twoAndWitness waits until the volume is whole.
func (i *instance) twoAndWitness() {
	i.t.Helper()
	require.Eventually(i.t, func() bool {
		copies, witnesses, all := 0, 0, i.pod("db-0").Volumes[0].Replicas
		for _, r := range all {
			switch {
			case r.State != "InSync":
			case r.Role == "witness":
				witnesses++
			case r.Role == "voter":
				copies++
			}
		}
		return copies == 2 && witnesses == 1 && len(all) == 3
	}, 2*startLimit, 20*time.Millisecond, "%s", i.out)
}

// keepers returns the nodes of the witness and of the copy that is not the pod's, with the processes that serve them.
func (i *instance) keepers() (witness, other podStatus) {
	i.t.Helper()
	for _, r := range i.pod("db-0").Volumes[0].Replicas {
		switch {
		case r.Role == "witness":
			witness = i.pod(r.Pod)
		case r.Node != i.pod("db-0").Node:
			other = i.pod(r.Pod)
		}
	}
	require.NotEmpty(i.t, witness.Node)
	require.NotEmpty(i.t, other.Node)
	return witness, other
}

// TestWitnessed: whichever of the three nodes is lost, programs go on, and everything that was acknowledged is there; also when one copy was
// away, and the other one is lost before it is back: the witness brings it up to date.
func TestWitnessed(t *testing.T) {
	t.Parallel()
	i := witnessed(t)
	l := i.ledger("db-0")
	l.acknowledged(50)
	witness, _ := i.keepers()
	i.knowsNothing(witness.Node)
	i.dev("fail-node", witness.Node).run(2 * time.Minute)
	l.acknowledged(50)
	i.twoAndWitness()
	_, other := i.keepers()
	i.dev("fail-node", other.Node).run(2 * time.Minute)
	l.acknowledged(50)
	i.twoAndWitness()

	_, other = i.keepers()
	i.signal(other, syscall.SIGSTOP)
	l.acknowledged(200)
	large := filepath.Join(i.mount("db-0"), "large")
	i.program("", nil, "dd", "if=/dev/urandom", "of="+large, "bs=1M", "count=40", "conv=fsync").run(2 * time.Minute)
	sum := i.program("", nil, "sha256sum", large).run(time.Minute)
	l.acknowledged(50)
	node := i.pod("db-0").Node
	failing := i.dev("fail-node", node).start()
	require.Eventually(t, func() bool {
		_, err := os.Stat(filepath.Join(i.dir, "nodes", node))
		return os.IsNotExist(err)
	}, startLimit, 5*time.Millisecond, "%s", i.out)
	i.signal(other, syscall.SIGCONT)
	require.Contains(t, failing.ok(2*time.Minute), "pod db-0 is mounted again")
	l.check()
	require.Equal(t, sum, i.program("", nil, "sha256sum", large).run(time.Minute))
	i.twoAndWitness()
	require.Contains(t, i.program("", nil, programs.Remora, "verify", "data-db-0", "--scrub", "--dir", i.dir).run(time.Minute), "2 replicas: the replicas are the same")

	bad := i.dev("replicas", "data-db-0", "3").start()
	require.Error(t, bad.wait(time.Minute))
	require.Contains(t, bad.out.String(), "two copies and a witness")
	i.stop()
	i.program("", nil, programs.Remora, "check", i.dir).run(time.Minute)
	i.again()
	i.twoAndWitness()
}

// knowsNothing looks through a node's disks: there is no content, no metadata and no key.
func (i *instance) knowsNothing(node string) {
	i.t.Helper()
	key, err := os.ReadFile(filepath.Join(i.dir, "keys", "default", "data-db-0.key"))
	require.NoError(i.t, err)
	read := 0
	require.NoError(i.t, filepath.WalkDir(filepath.Join(i.dir, "nodes", node), func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		b, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		read += len(b)
		require.NotContains(i.t, []string{"arena", "salts"}, d.Name(), path)
		require.False(i.t, bytes.Contains(b, key) || bytes.Contains(b, bytes.TrimSpace(key)), path)
		require.False(i.t, bytes.Contains(b, []byte("ledger")) || bytes.Contains(b, []byte("line 1\n")), path)
		return nil
	}))
	require.Positive(i.t, read)
}

// TestOneCopy: a copy that is away for too long is given up, and status says so; the next one makes two again.
func TestOneCopy(t *testing.T) {
	t.Parallel()
	i := witnessed(t, "--sidecar-arg=--witness-bytes=1048576")
	l := i.ledger("db-0")
	l.acknowledged(20)
	_, other := i.keepers()
	i.dev("fail-node", other.Node, "--keep-disk", "--replace-after", "1h").run(time.Minute)
	i.program("", nil, "dd", "if=/dev/urandom", "of="+filepath.Join(i.mount("db-0"), "large"), "bs=1M", "count=20", "conv=fsync").run(2 * time.Minute)
	table := func() string { return i.program("", nil, programs.Remora, "status", "--dir", i.dir).run(time.Minute) }
	require.Eventually(t, func() bool { return strings.Contains(table(), "1/2 (1 Missing) + witness (learner, InSync), one copy") }, 2*startLimit, 50*time.Millisecond, "%s", i.out)
	l.acknowledged(50)
	i.dev("return-node", other.Node).run(time.Minute) // what it had is of no use any more
	i.twoAndWitness()
	l.acknowledged(50)
	i.dev("fail-node", i.pod("db-0").Node).run(2 * time.Minute)
	l.check()
	i.twoAndWitness()
}
