package replication_test

import (
	"flag"
	"maps"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/remora-storage/remora/sidecar/replication/replicationtest"
)

var points = flag.Int("points", 1000, "crash points of TestCrashPoints")

// TestCrashPoints crashes random histories at every sync and at many calls between, and recoveries too.
func TestCrashPoints(t *testing.T) {
	first := uint64(1)
	if *seed != 0 {
		first = *seed
	}
	start, found := time.Now(), &replicationtest.Found{}
	s := first
	for ; found.Points < *points && len(found.Violations) == 0; s++ {
		found.Add(replicationtest.Crashes{Seed: s, Points: *points - found.Points}.Run(t))
		if *seed != 0 {
			break
		}
	}
	report(t, found, first, s-1, start)
}

// report prints what was found, and fails the test if anything was.
func report(t *testing.T, found *replicationtest.Found, first, last uint64, start time.Time) {
	t.Logf("seeds %d to %d: %d crash points of %d histories in %v, %d nonces used once", first, last, found.Points, found.Histories,
		time.Since(start).Round(time.Second), found.Nonces)
	for _, k := range slices.Sorted(maps.Keys(found.Kinds)) {
		t.Logf("%8d %s", found.Kinds[k], k)
	}
	t.Logf("violations: %d", len(found.Violations))
	for _, v := range found.Violations {
		t.Log(v)
	}
	require.Empty(t, found.Violations)
}

// TestRotInTheLastBatch turns bits over in the batch that was synced last, which looks like a torn end: what it had is lost, and
// nothing else.
func TestRotInTheLastBatch(t *testing.T) {
	first, want := uint64(1), *points/4
	if *seed != 0 {
		first, want = *seed, 1
	}
	start, found := time.Now(), &replicationtest.Found{}
	s := first
	for ; found.Points < want && len(found.Violations) == 0; s++ {
		found.Add(replicationtest.LastBatches{Seed: s, StopEarly: true}.Run(t))
	}
	report(t, found, first, s-1, start)
}
