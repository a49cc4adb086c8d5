package e2e

import (
	"crypto/sha256"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/remora-storage/remora/e2e/supervisor"
)

// TestStopAndStart: after Ctrl-C and a new start everything is there, to the last attribute.
func TestStopAndStart(t *testing.T) {
	t.Parallel()
	i := startOne(t)
	dir := filepath.Join(i.mount("db-0"), "tree")
	i.program("", nil, "mkdir", dir).run(time.Minute)
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	i.worker("", "tree", dir, strconv.FormatUint(seed, 10)).run(time.Minute)
	want := i.worker("", "describe", dir).run(time.Minute)
	require.Greater(t, len(lines(want)), 180)
	same := func(after string) {
		t.Helper()
		require.Equal(t, want, i.worker("", "describe", dir).run(time.Minute), "seed %d, after %s", seed, after)
	}
	same("nothing")
	epoch := i.pod("db-0").Volumes[0].Epoch
	i.killSidecar("db-0")
	same("the death of the sidecar")
	i.stop()
	i.again()
	same("Ctrl-C")
	require.Greater(t, i.pod("db-0").Volumes[0].Epoch, epoch+1) // each owner has its own
	require.Contains(t, i.program("", nil, programs.Remora, "dev", "restart-pod", "db-0", "--dir", i.dir).run(time.Minute), "pod db-0 restarted")
	same("restart-pod")
}

// TestSupervisorKilled: after SIGKILL of the supervisor, which takes the sidecar with it, what was answered is there, fsync or not.
func TestSupervisorKilled(t *testing.T) {
	t.Parallel()
	i := startOne(t)
	dir := i.mount("db-0")
	i.worker("", "tree", dir, "1").run(time.Minute)
	writer := i.worker("", "stream", dir).start()
	require.Eventually(t, func() bool { return strings.Count(writer.out.String(), "\n") > 200 }, time.Minute, 10*time.Millisecond)
	sidecar := i.served("db-0", 0)
	require.True(t, i.end(syscall.SIGKILL))
	made := lines(writer.ok(time.Minute))
	require.Eventually(t, func() bool { return syscall.Kill(sidecar, 0) != nil }, time.Minute, 10*time.Millisecond, "the sidecar lives on")

	i.again()
	mounts, err := supervisor.Mounts(i.dir)
	require.NoError(t, err)
	require.Len(t, mounts, 1)
	found := map[string]string{}
	for _, line := range lines(i.worker("", "describe", dir).run(time.Minute)) {
		name, _, _ := strings.Cut(line, " ")
		found[name] = line
	}
	for n := range made {
		sum := fmt.Sprintf(" %x ", sha256.Sum256(streamed(n)))
		require.Contains(t, found[fmt.Sprintf("%q", "/s"+made[n])], sum, "file s%d of %d was closed, and is not there", n, len(made))
	}
	t.Logf("%d files were closed before the kill", len(made))
	i.stop()
}
