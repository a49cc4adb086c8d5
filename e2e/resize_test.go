package e2e

import (
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// TestGrowsAndShrinks gives a volume of one copy three, and then one again, while a program writes: no call of its fails, and no line that was
// acknowledged is missing. In between its sidecars are killed, and its node is lost.
func TestGrowsAndShrinks(t *testing.T) {
	t.Parallel()
	needRoot(t)
	i := start(t, filepath.Join(tempDir(t), "dev"), statefulSet(1, "1Gi"))
	l := i.ledger("db-0")
	l.acknowledged(50)
	require.Contains(t, i.dev("replicas", "data-db-0", "3").run(time.Minute), "gets 3 replicas, and had 1")
	i.crash("db-0") // in the middle
	l.acknowledged(50)
	i.voters("db-0", 3)
	l.acknowledged(50)
	for _, c := range []struct{ args, what string }{
		{"2", "allowed: 1, 3, 5"}, {"3", "has 3 replicas already"}, {"7", "allowed: 1, 3, 5"}, {"many", "allowed: 1, 3, 5"},
	} {
		bad := i.dev("replicas", "data-db-0", c.args).start()
		require.Error(t, bad.wait(time.Minute))
		require.Contains(t, bad.out.String(), c.what)
	}

	i.dev("fail-node", i.pod("db-0").Node).run(2 * time.Minute) // what the new copies are for
	l.check()
	l = i.ledger("db-0")
	l.acknowledged(50)
	i.voters("db-0", 3)

	i.dev("replicas", "data-db-0", "1").run(time.Minute)
	i.voters("db-0", 1)
	require.Equal(t, i.pod("db-0").Node, i.nodesOf("db-0")[0])
	l.acknowledged(50)
	i.crash("db-0")
	l.acknowledged(50)
	i.stop()
	_ = l.wait(time.Minute)
	i.again()
	l.check()
	require.Len(t, i.nodesOf("db-0"), 1)
	i.dev("replicas", "data-db-0", "3").run(time.Minute)
	i.voters("db-0", 3)
}

// voters waits until the pod's volume has n replicas, all of them voters that are in sync.
func (i *instance) voters(pod string, n int) {
	i.t.Helper()
	require.Eventually(i.t, func() bool {
		all := i.pod(pod).Volumes[0].Replicas
		good := 0
		for _, r := range all {
			if r.Role == "voter" && r.State == "InSync" {
				good++
			}
		}
		return good == n && len(all) == n
	}, 2*startLimit, 20*time.Millisecond, "%s", i.out)
}
