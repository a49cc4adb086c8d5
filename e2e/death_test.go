package e2e

import (
	"math/rand/v2"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// TestDeath kills sidecars in the middle of what programs do: listing 5,000 entries, working through handles of what has no name any
// more, large writes, syncs, maps. Each of them knows what must come of it.
func TestDeath(t *testing.T) {
	t.Parallel()
	i := startOne(t)
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	var all []*child
	for _, role := range []string{"getdents", "handles", "big-writes", "syncs", "maps"} {
		dir := filepath.Join(i.mount("db-0"), role)
		i.program("", nil, "mkdir", dir).run(time.Minute)
		all = append(all, i.worker("", role, dir, "1").start())
	}
	kills, r := 0, rand.New(rand.NewPCG(seed, 0))
	for pid := i.served("db-0", 0); running(all); kills++ {
		time.Sleep(time.Duration(r.IntN(100)) * time.Millisecond) // of work between two deaths
		said := len(servedAgain.FindAllString(i.out.String(), -1))
		require.NoError(t, syscall.Kill(pid, syscall.SIGKILL))
		restarts := i.restarts(said + 1)
		pid = restarts[len(restarts)-1].pid
		require.Less(t, kills, 500, "some worker does not end")
	}
	t.Logf("%d kills", kills)
	require.Greater(t, kills, 10)
	require.Eventually(t, func() bool { return i.pod("db-0").Volumes[0].Used < 1<<16 }, time.Minute, 20*time.Millisecond,
		"the space of what was deleted does not come back")
}

// running is true while one of the programs runs; each that has ended must have succeeded.
func running(all []*child) bool {
	running := false
	for _, c := range all {
		select {
		case <-c.done:
			c.ok(time.Minute)
		default:
			running = true
		}
	}
	return running
}
