package e2e

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// bad makes a manifest of the good one by replacing a part.
func bad(old, replacement string) string {
	good := statefulSet(1, "4Gi")
	if !strings.Contains(good, old) {
		panic("the manifest has no " + old)
	}
	return strings.Replace(good, old, replacement, 1)
}

// TestBadManifests: each is refused at once with a message that says what, where, what is allowed and how to mend it, and the data
// of DIR stays as it is.
func TestBadManifests(t *testing.T) {
	t.Parallel()
	i := startOne(t)
	file := filepath.Join(i.mount("db-0"), "file")
	i.program("", nil, "sh", "-c", `echo precious >"$0"`, file).run(time.Minute)
	i.stop()
	for _, c := range []struct {
		name, manifest string
		says           []string
	}{
		{"unknown annotation", bad("data.remora.dev/size: 4Gi", "data.remora.dev/size: 4Gi\n        data.remora.dev/sice: 4Gi"),
			[]string{"StatefulSet", "db", "data.remora.dev/sice", "size"}},
		{"size with a wrong unit", bad("4Gi", "20GiB"), []string{"data.remora.dev/size", "20GiB", "20Gi"}},
		{"negative size", bad("4Gi", `"-1"`), []string{"data.remora.dev/size", "-1", "1Mi"}},
		{"unknown class", bad("class: default", "class: gold"),
			[]string{"data.remora.dev/class", "gold", "default"}},
		{"mount path twice", bad("[{name: data, mountPath: /data}]}", "[{name: data, mountPath: /data}, {name: tmp, mountPath: /data}]}\n      volumes: [{name: tmp, emptyDir: {}}]"),
			[]string{"/data", "tmp"}},
		{"not a DNS label", bad("remora.dev/volumes: data", "remora.dev/volumes: Data_1"), []string{"remora.dev/volumes", "Data_1", "DNS"}},
		{"not YAML", "kind: [StatefulSet\n", []string{"manifest", "not YAML", "line 1"}},
		{"smaller than it is", statefulSet(1, "1Gi"), []string{"data-db-0", "data.remora.dev/size", "4Gi", "shrink"}},
	} {
		manifest := filepath.Join(tempDir(t), "bad.yaml")
		require.NoError(t, os.WriteFile(manifest, []byte(c.manifest), 0o644))
		text := i.refused("dev", "-f", manifest, "--dir", i.dir)
		for _, want := range append(c.says, "bad.yaml") {
			if want == "bad.yaml" && strings.HasPrefix(c.name, "smaller") {
				continue // the manifest alone is right; DIR says otherwise
			}
			require.Contains(t, text, want, c.name)
		}
		require.Contains(t, text, "fix:", c.name)
	}
	i.again()
	require.Equal(t, "precious\n", i.program("", nil, "cat", file).run(time.Minute))
}

// TestBadCommands: commands on a DIR that is served, and on directories that cannot be.
func TestBadCommands(t *testing.T) {
	t.Parallel()
	i := startOne(t)
	file := filepath.Join(i.mount("db-0"), "file")
	i.program("", nil, "sh", "-c", `echo precious >"$0"`, file).run(time.Minute)
	pid := i.served("db-0", 0)

	aside := tempDir(t)
	plain := filepath.Join(aside, "plain")
	require.NoError(t, os.WriteFile(plain, []byte("mine\n"), 0o644))
	readOnly := filepath.Join(aside, "ro")
	require.NoError(t, os.Mkdir(readOnly, 0o755))
	require.NoError(t, unix.Mount(readOnly, readOnly, "", unix.MS_BIND, ""))
	t.Cleanup(func() { require.NoError(t, unix.Unmount(readOnly, unix.MNT_DETACH)) })
	require.NoError(t, unix.Mount("", readOnly, "", unix.MS_BIND|unix.MS_REMOUNT|unix.MS_RDONLY, ""))
	empty := filepath.Join(aside, "empty")
	require.NoError(t, os.Mkdir(empty, 0o755))

	for _, c := range []struct {
		args, says []string
	}{
		{[]string{"dev", "--dir", i.dir}, []string{"--dir", i.dir, "in use", "stop"}},
		{[]string{"dev", "--dir", plain}, []string{"--dir", plain, "directory", "choose another"}},
		{[]string{"dev", "--dir", filepath.Join(readOnly, "dev")}, []string{"--dir", readOnly, "read-only file system", "choose another"}},
		{[]string{"dev", "--dir", readOnly}, []string{"--dir", readOnly, "read-only file system", "choose another"}},
		{[]string{"dev", "--dir", empty, "-f", filepath.Join(empty, "no.yaml")}, []string{"no.yaml", "no such file", "-f"}},
		{[]string{"dev", "--dir", empty, "--nodes", "-1"}, []string{"--nodes", "-1"}},
		{[]string{"status", "--dir", empty}, []string{empty, "no remora dev is running", "remora dev --dir"}},
		{[]string{"status", "--dir", plain}, []string{plain, "no remora dev is running"}},
		{[]string{"status", "--dir", i.dir, "-o", "xml"}, []string{"xml", "table", "json"}},
		{[]string{"dev", "restart-pod", "db-7", "--dir", i.dir}, []string{"db-7", "unknown pod", "db-0"}},
		{[]string{"dev", "restart-pod", "db-0", "--dir", empty}, []string{empty, "no remora dev is running"}},
		{[]string{"dev", "restart-pod", "--dir", i.dir}, []string{"restart-pod", "name"}},
		{[]string{"inject"}, []string{"-f FILE"}},
	} {
		text := i.refused(c.args...)
		for _, want := range c.says {
			require.Contains(t, text, want, strings.Join(c.args, " "))
		}
	}

	entries, err := os.ReadDir(empty)
	require.NoError(t, err)
	require.Empty(t, entries, "a refused command left files")
	mine, err := os.ReadFile(plain)
	require.NoError(t, err)
	require.Equal(t, "mine\n", string(mine))
	require.Equal(t, pid, i.served("db-0", 0), "the sidecar was disturbed")
	require.Equal(t, "precious\n", i.program("", nil, "cat", file).run(time.Minute))
}

// TestBadMountPoints: where a volume is to be mounted, something else is. Each is refused with the path and the fix, nothing is lost, and
// with the fix it starts. A missing directory is made.
func TestBadMountPoints(t *testing.T) {
	t.Parallel()
	i := startOne(t)
	point, pod := i.mount("db-0"), filepath.Dir(i.mount("db-0"))
	i.program("", nil, "sh", "-c", `echo precious >"$0"/file`, point).run(time.Minute)
	i.stop()
	elsewhere := tempDir(t)
	for _, c := range []struct {
		name    string
		make    func() error
		says    []string
		restore func() error
	}{
		{"a file", func() error { return errors.Join(os.Remove(point), os.WriteFile(point, []byte("mine"), 0o600)) },
			[]string{point, "must be a directory", "fix: move it away"}, func() error { return os.Remove(point) }},
		{"a link", func() error { return os.Symlink(elsewhere, point) },
			[]string{point, "must be a directory", "fix: move it away"}, func() error { return os.Remove(point) }},
		{"busy", func() error { return errors.Join(os.Mkdir(point, 0o755), unix.Mount("none", point, "tmpfs", 0, "")) },
			[]string{point, "something is mounted there", "fix: umount " + point}, func() error { return unix.Unmount(point, 0) }},
		{"a pod's directory that is a file", func() error { return errors.Join(os.RemoveAll(pod), os.WriteFile(pod, nil, 0o600)) },
			[]string{pod, "not a directory"}, func() error { return os.Remove(pod) }},
	} {
		require.NoError(t, c.make(), c.name)
		text := i.refused(i.args...)
		for _, want := range append(c.says, "pod db-0") {
			require.Contains(t, text, want, c.name)
		}
		require.NoError(t, c.restore(), c.name)
	}
	i.again()
	require.Equal(t, "precious\n", i.program("", nil, "cat", point+"/file").run(time.Minute))
}

// refused runs the binary, which must end by itself, soon, with exit code 1, and returns what it said.
func (i *instance) refused(args ...string) string {
	i.t.Helper()
	c := i.program("", nil, programs.Remora, args...).start()
	err := c.wait(20 * time.Second)
	var exit *exec.ExitError
	require.ErrorAs(i.t, err, &exit, "%s\n%s", c.name, c.out.String())
	require.Equal(i.t, 1, exit.ExitCode(), "%s\n%s", c.name, c.out.String())
	i.t.Logf("%s\n%s", strings.Join(args, " "), c.out.String())
	return c.out.String()
}
