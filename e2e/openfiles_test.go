package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// TestUnlinkedFile: a file that is open and has no name any more lives through the death of a sidecar, and its space comes back.
func TestUnlinkedFile(t *testing.T) {
	t.Parallel()
	i := startOne(t)
	c := i.worker("", "unlinked", filepath.Join(i.mount("db-0"), "file")).dialog()
	c.expect("unlinked")
	i.killSidecar("db-0")
	c.tell("go on")
	c.expect("used")
	require.Greater(t, i.pod("db-0").Volumes[0].Used, uint64(9<<20))
	i.killSidecar("db-0")
	c.tell("go on")
	c.ok(time.Minute)
	require.Eventually(t, func() bool { return i.pod("db-0").Volumes[0].Used < 1<<20 }, time.Minute, 20*time.Millisecond,
		"the space of an unlinked file does not come back")
}

// TestUnlinkedFileOfADeadSession: what was open and unlinked when the mount itself went away is removed by the next one.
func TestUnlinkedFileOfADeadSession(t *testing.T) {
	t.Parallel()
	i := startOne(t)
	c := i.worker("", "unlinked", filepath.Join(i.mount("db-0"), "file")).dialog()
	c.expect("unlinked")
	require.True(t, i.end(syscall.SIGKILL))
	c.kill()
	i.again()
	require.Eventually(t, func() bool { return i.pod("db-0").Volumes[0].Used < 1<<20 }, time.Minute, 20*time.Millisecond,
		"the space of an unlinked file does not come back")
	require.Equal(t, "another file", i.program("", nil, "cat", filepath.Join(i.mount("db-0"), "file")).run(time.Minute))
}

// TestListing: a directory that changes while it is listed, and while the sidecar dies in between.
func TestListing(t *testing.T) {
	t.Parallel()
	i := startOne(t)
	c := i.worker("", "list", filepath.Join(i.mount("db-0"), "dir")).dialog()
	for _, step := range []string{"begun", "half"} {
		c.expect(step)
		i.killSidecar("db-0")
		c.tell("go on")
	}
	c.ok(time.Minute)
}

// TestMemoryMap: what was written to a shared map before and after the death of a sidecar is in the file.
func TestMemoryMap(t *testing.T) {
	t.Parallel()
	i := startOne(t)
	file := filepath.Join(i.mount("db-0"), "file")
	c := i.worker("", "map", file).dialog()
	c.expect("dirty")
	i.killSidecar("db-0")
	c.tell("go on")
	c.expect("synced")
	sum := func() string { return strings.Fields(i.program("", nil, "sha256sum", file).run(time.Minute))[0] }
	want := sum()
	c.tell("go on")
	require.Contains(t, c.ok(time.Minute), want) // what the map has
	i.stop()
	i.again()
	require.Equal(t, want, sum())
}

// TestAppend: records that processes append without locks are whole, complete and in order.
func TestAppend(t *testing.T) {
	t.Parallel()
	const processes, records = 4, 4000
	i := startOne(t)
	file := filepath.Join(i.mount("db-0"), "log")
	var all []*child
	for p := range processes {
		all = append(all, i.worker("", "append", file, strconv.Itoa(p), strconv.Itoa(records)).start())
	}
	for range 3 {
		i.killSidecar("db-0")
		time.Sleep(100 * time.Millisecond) // of work between two deaths
	}
	for _, c := range all {
		c.ok(2 * time.Minute)
	}
	var next [processes]int
	for n, line := range lines(i.program("", nil, "cat", file).run(time.Minute)) {
		var p, record int
		_, err := fmt.Sscanf(line, "%d %d ", &p, &record)
		require.NoError(t, err, "line %d: %q", n, line)
		require.Equal(t, appended(p, next[p]), line+"\n", "line %d", n)
		next[p]++
	}
	require.Equal(t, [processes]int{records, records, records, records}, next)
}

// TestLocks: flock and fcntl locks are the kernel's, so no death of a sidecar gives them to another process.
func TestLocks(t *testing.T) {
	t.Parallel()
	i := startOne(t)
	file, released := filepath.Join(i.mount("db-0"), "lock"), filepath.Join(tempDir(t), "released")
	holder := i.worker("", "flock", "hold", file).dialog()
	holder.expect("locked")
	waiter := i.worker("", "flock", "wait", file, released).start()
	require.Equal(t, "busy busy\n", i.worker("", "flock", "try", file).run(time.Minute))
	i.killSidecar("db-0")
	require.Equal(t, "busy busy\n", i.worker("", "flock", "try", file).run(time.Minute))
	require.NoError(t, os.WriteFile(released, nil, 0o644)) // the waiter looks for it once it has the lock
	holder.tell("release")
	holder.ok(time.Minute)
	waiter.ok(time.Minute)
	require.Equal(t, "free free\n", i.worker("", "flock", "try", file).run(time.Minute))
}
