package e2e

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// What `make extremes` makes 100,000 and 1,000,000.
var (
	openFiles  = flag.Int("open-files", 2000, "files that TestManyOpenFiles has open at once")
	dirEntries = flag.Int("entries", 20_000, "entries of the directory of TestLargeDirectory")
)

// residentMiB is the memory that the pod's sidecar uses.
func (i *instance) residentMiB(pod string) int { return i.residentOf(i.served(pod, 0)) }

// residentOf is the memory that a process uses, in MiB.
func (i *instance) residentOf(pid int) int {
	i.t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	require.NoError(i.t, err)
	for line := range strings.Lines(string(b)) {
		if f := strings.Fields(line); len(f) > 1 && f[0] == "VmRSS:" {
			kib, err := strconv.Atoi(f[1])
			require.NoError(i.t, err)
			return kib >> 10
		}
	}
	require.FailNow(i.t, "no VmRSS")
	return 0
}

// TestManyOpenFiles: so many files are open at once, and then without names, while sidecars die. They belong to several processes where one
// may not have so many.
func TestManyOpenFiles(t *testing.T) {
	t.Parallel()
	needRoot(t)
	i := start(t, filepath.Join(tempDir(t), "dev"), statefulSet(1, "16Gi"))
	var limit unix.Rlimit
	require.NoError(t, unix.Getrlimit(unix.RLIMIT_NOFILE, &limit))
	most := int(min(limit.Max, 1<<20)) - 100
	var workers []*child
	for left := *openFiles; left > 0; left -= most {
		dir := filepath.Join(i.mount("db-0"), fmt.Sprint("open", len(workers)))
		workers = append(workers, i.worker("", "many-open", dir, strconv.Itoa(min(left, most))).dialog())
	}
	for _, step := range []string{"open", "unlinked"} {
		began := time.Now()
		for _, c := range workers {
			c.expectWithin(step, 10*time.Minute)
		}
		t.Logf("%s: %d files after %v, sidecar %d MiB", step, *openFiles, time.Since(began).Round(time.Millisecond), i.residentMiB("db-0"))
		i.killSidecar("db-0")
		for _, c := range workers {
			c.tell("go on")
		}
	}
	for _, c := range workers {
		c.ok(10 * time.Minute)
	}
	require.Eventually(t, func() bool { return i.pod("db-0").Volumes[0].Used == 0 }, 5*time.Minute, 20*time.Millisecond,
		"the space of files that nobody has open any more does not come back")
}

// TestLargeDirectory: a directory of so many entries is listed whole, from any place, and while it changes.
func TestLargeDirectory(t *testing.T) {
	t.Parallel()
	needRoot(t)
	i := start(t, filepath.Join(tempDir(t), "dev"), statefulSet(1, "16Gi"))
	dir := filepath.Join(i.mount("db-0"), "dir")
	c := i.worker("", "large-directory", dir, strconv.Itoa(*dirEntries)).dialog()
	for _, step := range []string{"made", "half listed"} {
		c.expectWithin(step, 10*time.Minute)
		t.Logf("%s: sidecar %d MiB", step, i.residentMiB("db-0"))
		i.killSidecar("db-0")
		c.tell("go on")
	}
	c.ok(30 * time.Minute)
	t.Log(strings.TrimSpace(c.out.String()))
}

// TestKilledInAWrite: a process is killed in the middle of a write(2) of 1 GiB. What the file has then is the first part of it, also when
// the sidecar dies at the same time, and the volume has the space that this takes.
func TestKilledInAWrite(t *testing.T) {
	t.Parallel()
	i := startOne(t)
	file := filepath.Join(i.mount("db-0"), "file")
	size := func() int64 {
		n, err := strconv.ParseInt(strings.TrimSpace(i.program("", nil, "stat", "-c", "%s", file).run(time.Minute)), 10, 64)
		require.NoError(t, err)
		return n
	}
	for _, sidecarToo := range []bool{false, true} {
		c := i.worker("", "write-1g", file).start()
		// The kernel shows the new size at the end of the call alone.
		require.Eventually(t, func() bool { return i.pod("db-0").Volumes[0].Used > 20<<20 }, time.Minute, time.Millisecond)
		pid := i.served("db-0", 0)
		require.NoError(t, c.cmd.Process.Kill())
		if sidecarToo {
			require.NoError(t, syscall.Kill(pid, syscall.SIGKILL))
			i.served("db-0", pid)
		}
		require.Error(t, c.wait(time.Minute), "killed")
		t.Log(strings.TrimSpace(i.worker("", "check-1g", file).run(2 * time.Minute)))
		left := size()
		i.program("", nil, "sync", file).run(time.Minute)
		require.EqualValues(t, (left+4095)/4096*4096, i.pod("db-0").Volumes[0].Used)
		i.program("", nil, "rm", file).run(time.Minute)
		require.Eventually(t, func() bool { return i.pod("db-0").Volumes[0].Used == 0 }, time.Minute, 20*time.Millisecond)
	}
}
