package e2e

import (
	"math/rand/v2"
	"path/filepath"
	"strconv"
	"testing"
	"time"
)

// TestLSM: a log-structured merge tree (Pebble) with its files on the volume, against a model, while sidecars are killed.
func TestLSM(t *testing.T) {
	t.Parallel()
	i := startOne(t)
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	began := time.Now()
	c := i.worker("", "lsm", filepath.Join(i.mount("db-0"), "lsm"), strconv.FormatUint(seed, 10), strconv.Itoa(*lsmSteps)).start()
	killed := i.killEvery(2*time.Second, c)
	out := c.ok(30 * time.Minute)
	t.Logf("%v, %d kills: %s", time.Since(began).Round(time.Millisecond), <-killed, out)
}
