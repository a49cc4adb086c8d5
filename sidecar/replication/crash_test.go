package replication_test

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/remora-storage/remora/sidecar/replication/replicationtest"
)

var (
	seeds = flag.Int("seeds", 12, "random histories")
	seed  = flag.Uint64("seed", 0, "run this history alone")
)

// TestCrashes runs random histories, crashes the disk again and again, and checks what is left: after the death of the process,
// everything that was answered; after a power cut, a prefix of the history that has everything that fsync acknowledged.
func TestCrashes(t *testing.T) {
	for i := range *seeds {
		s := uint64(i + 1)
		if *seed != 0 {
			s = *seed
		}
		t.Run(fmt.Sprintf("seed=%d", s), func(t *testing.T) {
			rng := rand.New(rand.NewPCG(s, 0))
			h := replicationtest.NewMemHistory(t, rng)
			defer func() { h.Stop() }()
			for range 6 {
				for range rng.IntN(120) {
					h.Step()
				}
				h.CrashAndCheck()
			}
		})
		if *seed != 0 {
			return
		}
	}
}
