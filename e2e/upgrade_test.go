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

// upgrade runs `remora dev upgrade`.
func (i *instance) upgrade(args ...string) *child {
	return i.program("", nil, programs.Remora, append([]string{"dev", "upgrade", "--dir", i.dir}, args...)...)
}

// wrapped is a binary that does what the script says and then goes on as remora, with more arguments.
func wrapped(t *testing.T, script, args string) string {
	t.Helper()
	path := filepath.Join(tempDir(t), "remora")
	require.NoError(t, os.WriteFile(path, fmt.Appendf(nil, "#!/bin/sh\n%s\nexec %s \"$@\" %s\n", script, programs.Remora, args), 0o755))
	return path
}

// TestUpgrade exchanges the binary while programs work and have unlinked files open: they notice nothing.
func TestUpgrade(t *testing.T) {
	t.Parallel()
	i := startOne(t)
	mount := i.mount("db-0")
	stop := filepath.Join(tempDir(t), "stop")
	i.program("", nil, "mkdir", mount+"/r").run(time.Minute)
	unlinked := i.worker("", "unlinked", mount+"/file").dialog()
	unlinked.expect("unlinked")
	random := i.worker("", "random", mount+"/r", stop, "1").start()
	before := i.served("db-0", 0)

	marker := filepath.Join(tempDir(t), "marker")
	said := i.upgrade("--binary", wrapped(t, "[ $2 = --help ] || echo started >>"+marker, "")).run(time.Minute)
	require.Regexp(t, `^pod db-0 upgraded: a pause of \d`, said)
	t.Log(strings.TrimSpace(said))
	unlinked.tell("go on")
	unlinked.expect("used")
	pid := i.served("db-0", before)
	require.NoError(t, syscall.Kill(pid, syscall.SIGKILL))
	i.served("db-0", pid)
	b, err := os.ReadFile(marker)
	require.NoError(t, err)
	require.Equal(t, "started\nstarted\n", string(b), "after an upgrade, a killed sidecar is followed by the upgraded binary")

	for range 5 {
		t.Log(strings.TrimSpace(i.upgrade("db-0").run(time.Minute)))
	}
	require.NotContains(t, i.out.String(), "did not end cleanly")
	unlinked.tell("go on")
	unlinked.ok(time.Minute)
	require.NoError(t, os.WriteFile(stop, nil, 0o644))
	random.ok(time.Minute)
}

// TestUpgradeToAnotherProtocol: a binary that would have negotiated another connection cannot take this one over. It says so, and the
// old one goes on.
func TestUpgradeToAnotherProtocol(t *testing.T) {
	t.Parallel()
	i := startOne(t)
	c := i.worker("", "unlinked", i.mount("db-0")+"/file").dialog()
	c.expect("unlinked")
	u := i.upgrade("--binary", wrapped(t, "", "--no-resend")).start()
	require.Error(t, u.wait(time.Minute))
	require.Contains(t, u.out.String(), "the FUSE connection was negotiated by another version of the program")
	require.Contains(t, u.out.String(), "the old one is back and serves")
	t.Log(strings.TrimSpace(u.out.String()))
	c.tell("go on")
	c.expect("used")
	i.killSidecar("db-0")
	c.tell("go on")
	c.ok(time.Minute)
}

// TestGrowth: a larger size takes effect with a new start, with restart-pod, and with upgrade while programs have files open. A smaller
// one is refused, and nothing is lost.
func TestGrowth(t *testing.T) {
	t.Parallel()
	i := startOne(t)
	mount, manifest := i.mount("db-0"), i.dir+".yaml"
	size := func(want string) {
		require.NoError(t, os.WriteFile(manifest, []byte(statefulSet(1, want)), 0o644))
	}
	df := func(want int) {
		t.Helper()
		out := i.program("", nil, "df", "--output=size", "-B1", mount).run(time.Minute)
		require.Equal(t, strconv.Itoa(want<<30), strings.Fields(out)[1])
		require.Equal(t, uint64(want<<30), i.pod("db-0").Volumes[0].Size)
	}
	c := i.worker("", "unlinked", mount+"/file").dialog()
	c.expect("unlinked")
	df(4)
	size("5Gi")
	i.upgrade("db-0").run(time.Minute)
	df(5)
	c.tell("go on")
	c.expect("used")
	c.tell("go on")
	c.ok(time.Minute)

	size("6Gi")
	restart := func() *child {
		return i.program("", nil, programs.Remora, "dev", "restart-pod", "db-0", "--dir", i.dir)
	}
	restart().run(time.Minute)
	df(6)
	pid := i.served("db-0", 0)
	for _, bad := range []struct{ manifest, says string }{
		{statefulSet(1, "2Gi"), "a volume cannot shrink; allowed: 6Gi or more"},
		{"nonsense: [", "not YAML"},
		{strings.ReplaceAll(statefulSet(1, "6Gi"), "{name: db}", "{name: web}"), "pod db-0 is not in the manifests any more"},
	} {
		require.NoError(t, os.WriteFile(manifest, []byte(bad.manifest), 0o644))
		for _, c := range []*child{restart().start(), i.upgrade().start()} {
			require.Error(t, c.wait(time.Minute), c.name)
			require.Contains(t, c.out.String(), bad.says, c.name)
		}
		require.Equal(t, pid, i.served("db-0", 0), bad.says)
	}
	df(6)
	i.stop()
	size("7Gi")
	i.again()
	df(7)
	require.Equal(t, "another file", i.program("", nil, "cat", mount+"/file").run(time.Minute))
}

// TestKernelWithoutResend: there, the death of a sidecar cannot be a pause. The volume is mounted anew, what was answered is there, and
// programs that had files open get errors instead of waiting for ever.
func TestKernelWithoutResend(t *testing.T) {
	t.Parallel()
	needRoot(t)
	i := start(t, filepath.Join(tempDir(t), "dev"), statefulSet(1, "1Gi"), "--sidecar-arg=--no-resend")
	file := i.mount("db-0") + "/file"
	i.program("", nil, "sh", "-c", `echo answered >"$0"`, file).run(time.Minute)
	c := i.program("", nil, "sh", "-c", `exec 3<"$0"; echo open; read go; cat <&3`, file).dialog()
	c.expect("open")
	i.killSidecar("db-0")
	require.Contains(t, i.out.String(), "the kernel cannot send again what an earlier sidecar had read")
	require.Contains(t, i.out.String(), "mounted anew")
	require.Equal(t, "answered\n", i.program("", nil, "cat", file).run(time.Minute))
	c.tell("go on")
	require.Error(t, c.wait(time.Minute))
	require.Contains(t, c.out.String(), "Transport endpoint is not connected", "what was open before")
	i.upgrade().run(time.Minute)
	require.Equal(t, "answered\n", i.program("", nil, "cat", file).run(time.Minute))
}

// TestHangBudget: programs do not wait for ever for a sidecar that does not come back. Once it does, the volume is mounted anew, with
// everything that was answered.
func TestHangBudget(t *testing.T) {
	t.Parallel()
	needRoot(t)
	i := start(t, filepath.Join(tempDir(t), "dev"), statefulSet(1, "1Gi"), "--hang-budget", "2s")
	mount := i.mount("db-0")
	i.program("", nil, "sh", "-c", `echo answered >"$0"/file`, mount).run(time.Minute)
	volumes := filepath.Join(i.dir, "nodes", "node-0", "default")
	aside := volumes + ".aside"
	pid := i.served("db-0", 0)
	require.NoError(t, os.Rename(volumes, aside)) // no sidecar can start
	require.NoError(t, syscall.Kill(pid, syscall.SIGKILL))
	c := i.program("", nil, "cat", mount+"/file2").start()
	require.Error(t, c.wait(time.Minute))
	require.Regexp(t, "Software caused connection abort|Transport endpoint is not connected", c.out.String())
	require.Eventually(t, func() bool { return strings.Contains(i.out.String(), "longer than the hang budget") }, time.Minute, 10*time.Millisecond)
	require.NoError(t, os.RemoveAll(volumes)) // what the sidecars that could not start have made
	require.NoError(t, os.Rename(aside, volumes))
	i.served("db-0", pid)
	require.Equal(t, "answered\n", i.program("", nil, "cat", mount+"/file").run(time.Minute))
	require.Equal(t, 1, strings.Count(i.out.String(), "longer than the hang budget"))
}

// TestDamageIsNoLoop: a sidecar that finds damage says so and stays; another start would find the same.
func TestDamageIsNoLoop(t *testing.T) {
	t.Parallel()
	i := startOne(t)
	mount := i.mount("db-0")
	i.program("", nil, "sh", "-c", `head -c 2000000 /dev/urandom >"$0"/file; sync "$0"/file`, mount).run(time.Minute)
	// Rot in the last batch of a journal looks like a torn end (docs/semantics.md), and on a busy machine all of this is one.
	i.program("", nil, "sh", "-c", `echo more >"$0"/more; sync "$0"/more`, mount).run(time.Minute)
	pid := i.served("db-0", 0)
	require.NoError(t, syscall.Kill(pid, syscall.SIGSTOP))
	segments, err := filepath.Glob(filepath.Join(i.dir, "nodes", "*", "*", "disk-*", "journal", "*"))
	require.NoError(t, err)
	require.NotEmpty(t, segments)
	flipped := false
	for _, s := range segments {
		f, err := os.OpenFile(s, os.O_RDWR, 0)
		require.NoError(t, err)
		b := make([]byte, 1)
		const at = 300 << 10 // in the middle of what was synced
		if _, err := f.ReadAt(b, at); err == nil {
			b[0] ^= 0x10
			_, err = f.WriteAt(b, at)
			require.NoError(t, err)
			flipped = true
		}
		require.NoError(t, f.Close())
	}
	require.True(t, flipped, "no journal to damage: %v", segments)
	require.NoError(t, syscall.Kill(pid, syscall.SIGKILL))
	var damaged int
	require.Eventually(t, func() bool {
		p := i.pod("db-0")
		if p.PID == nil || *p.PID == pid || p.Volumes[0].State != "Damaged" {
			return false
		}
		damaged = *p.PID
		return true
	}, time.Minute, 20*time.Millisecond, "%s", i.out)
	time.Sleep(2 * time.Second) // for a loop to show itself
	require.Equal(t, &damaged, i.pod("db-0").PID)
	require.Regexp(t, `volume is not mounted .*state=Damaged`, i.out.String())
}
