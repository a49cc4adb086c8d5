package e2e

import (
	_ "embed"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

//go:embed testdata/acl.sh
var aclScript string

// TestACL: setfacl, getfacl, chmod, umask, inheritance and what users then may do are as on ext4, also for the next sidecar.
func TestACL(t *testing.T) {
	t.Parallel()
	i := startOne(t)
	plain := ext4(t)
	mount := i.mount("db-0")
	run := func(dir string) string {
		out := i.program("", nil, "bash", "-c", aclScript, "acl.sh", dir).run(time.Minute)
		require.Contains(t, out, "\nend\n")
		return out
	}
	want := run(plain)
	require.Equal(t, want, run(mount))
	list := func() string {
		return i.program("", nil, "sh", "-c", `cd "$0"/acl && getfacl -RnE . && find . -printf "%P %m\n" | sort`, mount).run(time.Minute)
	}
	before := list()
	i.killSidecar("db-0")
	require.Equal(t, before, list(), "after the death of the sidecar")
	i.program("", nil, "rm", "-r", mount+"/acl").run(time.Minute)
	require.Equal(t, want, run(mount), "by the next sidecar")
	i.stop()
	i.again()
	require.Equal(t, before, list(), "mounted anew")
	i.stop()
	i.program("", nil, programs.Remora, "check", i.dir).run(time.Minute)
}

// ext4 mounts a new ext4 file system, to compare with.
func ext4(t *testing.T) string {
	t.Helper()
	needRoot(t)
	dir := tempDir(t)
	img, mount := filepath.Join(dir, "img"), filepath.Join(dir, "mnt")
	require.NoError(t, os.WriteFile(img, nil, 0o600))
	require.NoError(t, os.Truncate(img, 1<<30))
	require.NoError(t, os.Mkdir(mount, 0o755))
	command := func(name string, args ...string) {
		out, err := exec.Command(name, args...).CombinedOutput()
		require.NoError(t, err, "%s %v\n%s", name, args, out)
	}
	command("mkfs.ext4", "-q", "-m", "0", img)
	command("mount", "-o", "loop", img, mount)
	t.Cleanup(func() { command("umount", mount) })
	require.NoError(t, os.Chmod(mount, 0o777)) // as the root of a volume
	return mount
}
