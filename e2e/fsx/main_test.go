package fsx

import (
	"flag"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/remora-storage/remora/e2e/supervisor"
)

var (
	seeds    = flag.Int("seeds", 4, "of TestFiles and TestLanes, and of their rulers")
	ops      = flag.Int("ops", 500, "operations of each seed")
	names    = flag.Int("names", 400, "operations of each process of TestNames")
	rounds   = flag.Int("rounds", 1, "rounds of TestNames")
	kills    = flag.Int("kills", 4, "how often each test kills the sidecar, at most; every second batch or round has none")
	jobs     = flag.Int("jobs", 4, "processes of TestFiles at a time")
	workTime = flag.Duration("work-time", 10*time.Minute, "how long a batch or a round may take")
	firstArg = flag.Uint64("seed", 0, "the first seed; 0 draws one")
)

// programs are what the tests start. TestMain sets them once.
var programs supervisor.Programs

// workers are what this binary does as a process of its own: only they touch a mount.
func workers() supervisor.Workers {
	all := supervisor.Workers{
		"exercise":    exercise,
		"verify":      verify,
		"drive":       drive,
		"verifylanes": verifyLanes,
		"tree":        growTree,
		"sametree":    sameTree,
		"makeshared":  makeShared,
		"sameshared":  sameShared,
		"removein":    removeIn,
	}
	for name, do := range all {
		all[name] = func(args []string) error {
			unix.Umask(0)
			return do(args)
		}
	}
	return all
}

// TestMain builds the binary, or plays a worker: "worker NAME ARGS...".
func TestMain(m *testing.M) {
	os.Exit(supervisor.Main(m, "fsx", "../../cmd/remora", &programs, workers()))
}
