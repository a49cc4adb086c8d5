package e2e

import (
	"errors"
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

// cgroup is a memory cgroup (v1) that the test made.
type cgroup struct {
	t   *testing.T
	dir string
}

func newCgroup(t *testing.T) *cgroup {
	t.Helper()
	const root = "/sys/fs/cgroup/memory"
	if _, err := os.Stat(root + "/cgroup.procs"); err != nil {
		dir := tempDir(t)
		if err := unix.Mount("cgroup", dir, "cgroup", 0, "memory"); err != nil {
			t.Skipf("needs the memory controller of cgroup v1: %v", err)
		}
		t.Cleanup(func() { require.NoError(t, unix.Unmount(dir, 0)) })
		return makeCgroup(t, dir)
	}
	return makeCgroup(t, root)
}

func makeCgroup(t *testing.T, root string) *cgroup {
	t.Helper()
	g := &cgroup{t: t, dir: filepath.Join(root, fmt.Sprintf("remora-e2e-%d", os.Getpid()))}
	if err := os.Mkdir(g.dir, 0o755); err != nil {
		t.Skipf("needs to make a cgroup: %v", err)
	}
	t.Cleanup(func() {
		require.Eventually(t, func() bool {
			err := unix.Rmdir(g.dir) // processes that have just ended are still in it
			return err == nil || errors.Is(err, syscall.ENOENT)
		}, time.Minute, 20*time.Millisecond)
	})
	return g
}

func (g *cgroup) read(name string) string {
	g.t.Helper()
	b, err := os.ReadFile(filepath.Join(g.dir, name))
	require.NoError(g.t, err)
	return strings.TrimSpace(string(b))
}

// limit sets the limit; false if the kernel cannot make the processes that small.
func (g *cgroup) limit(n int) bool {
	err := os.WriteFile(filepath.Join(g.dir, "memory.limit_in_bytes"), []byte(strconv.Itoa(n)), 0)
	return err == nil
}

// kills is how many processes the kernel has killed in it.
func (g *cgroup) kills() int {
	g.t.Helper()
	return number(g.t, g.read("memory.oom_control")+"\n", "oom_kill ")
}

// TestOutOfMemory lets the kernel kill the sidecar again and again because it uses more memory than its cgroup may, under the load of
// TestStorm: no application gets an error, and nothing that was answered is lost.
func TestOutOfMemory(t *testing.T) {
	t.Parallel()
	const much = 1 << 30
	kills := max(3, *stormKills/10)
	i := startOne(t)
	g := newCgroup(t)
	require.True(t, g.limit(much))
	i.upgrade("--binary", wrapped(t, "[ $2 = --help ] || echo $$ >"+g.dir+"/cgroup.procs", "")).run(time.Minute)
	s := startStorm(t, i)
	first := len(servedAgain.FindAllString(i.out.String(), -1))
	for n := range kills {
		time.Sleep(200 * time.Millisecond) // of work between two deaths
		g.squeeze(n + 1)
		require.True(t, g.limit(much))
		i.restarts(first + n + 1)
		s.alive()
	}
	restarts := i.restarts(1)
	s.finish()
	t.Logf("%d kills by the kernel, %s", kills, s.pauses(restarts))
}

// squeeze lowers the limit below what the sidecar needs until the kernel has killed n of them.
func (g *cgroup) squeeze(n int) {
	g.t.Helper()
	for deadline := time.Now().Add(startLimit); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		if g.kills() >= n {
			return
		}
		used, err := strconv.Atoi(g.read("memory.usage_in_bytes"))
		require.NoError(g.t, err)
		g.limit(used - 1<<20) // what the kernel can take back, it does
	}
	require.FailNow(g.t, "the sidecar uses no memory", g.read("memory.stat"))
}
