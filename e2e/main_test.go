package e2e

import (
	"os"
	"testing"

	"github.com/remora-storage/remora/e2e/supervisor"
)

// programs are what the tests start. TestMain sets them once.
var programs supervisor.Programs

// TestMain builds the binary, or plays a worker: "worker NAME ARGS...".
func TestMain(m *testing.M) {
	os.Exit(supervisor.Main(m, "e2e", "../cmd/remora", &programs, workers()))
}
