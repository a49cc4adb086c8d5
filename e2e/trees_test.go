package e2e

import (
	"encoding/json"
	"flag"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// What people do with a file system: `make realwork`, docs/testing.md. `make test` has a small part of it.
var (
	linuxSource = flag.String("linux", "", "tarball of Linux's source, the tree of TestTrees; without it, a part of Go's own")
	lsmSteps    = flag.Int("lsm", 200, "steps of TestLSM")
)

// realWork does the same on a volume and on a directory beside it.
type realWork struct {
	t     *testing.T
	i     *instance
	mount string
	plain string
}

func newRealWork(t *testing.T) *realWork {
	t.Helper()
	needRoot(t)
	i := start(t, filepath.Join(tempDir(t), "dev"), statefulSet(1, "16Gi"))
	return &realWork{t: t, i: i, mount: i.mount("db-0"), plain: tempDir(t)}
}

// sh runs a script in a directory and returns what it wrote. $0 is the directory; args are $1 and so on.
func (w *realWork) sh(limit time.Duration, dir, script string, args ...string) string {
	w.t.Helper()
	return w.script(dir, script, args...).run(limit)
}

func (w *realWork) script(dir, script string, args ...string) *child {
	return w.i.program("", nil, "sh", append([]string{"-euc", `cd "$0"; ` + script, dir}, args...)...)
}

// both runs a script on the plain directory and on the volume, and says how long each has taken. What it writes must be the same.
func (w *realWork) both(title string, limit time.Duration, script string, args ...string) string {
	w.t.Helper()
	began := time.Now()
	want := w.sh(limit, w.plain, script, args...)
	plain := time.Since(began)
	began = time.Now()
	got := w.sh(limit, w.mount, script, args...)
	w.t.Logf("%-48s plain %6.1f s, volume %6.1f s", title, plain.Seconds(), time.Since(began).Seconds())
	require.Equal(w.t, want, got, title)
	return got
}

// forget makes the kernel ask for everything again.
func (w *realWork) forget() {
	w.t.Helper()
	require.NoError(w.t, os.WriteFile("/proc/sys/vm/drop_caches", []byte("3"), 0))
}

// tree unpacks a source tree as "tree" on both sides: Linux's, or without the flag a part of Go's own.
func (w *realWork) tree() {
	w.t.Helper()
	tarball := *linuxSource
	if tarball == "" {
		tarball = filepath.Join(tempDir(w.t), "go.tar")
		root := strings.TrimSpace(w.i.program("", nil, "go", "env", "GOROOT").run(time.Minute))
		w.i.program("", nil, "tar", "-C", filepath.Join(root, "src"), "-cf", tarball, "--transform=s,^,go/,", "crypto", "encoding").run(time.Minute)
	}
	w.both("untar", 20*time.Minute, `mkdir tree; tar -C tree --strip-components=1 -xf "$1"`, tarball)
}

// TestTrees unpacks, lists, compares, copies and removes a source tree.
func TestTrees(t *testing.T) {
	t.Parallel()
	w := newRealWork(t)
	w.tree()
	w.forget()
	count := w.both("find -type f | wc -l, cold", 5*time.Minute, `find tree -type f | wc -l`)
	t.Logf("%s files", strings.TrimSpace(count))
	// Directories' times are left out: tar does not set those of directories that are not in the tarball themselves.
	w.both("find: names, modes, links, sizes, times", 5*time.Minute, `{ find tree ! -type d -printf '%p %M %n %s %T@ %l\n'
		find tree -type d -printf '%p %M %n\n'; } | LC_ALL=C sort | sha256sum`)
	w.both("du --apparent-size of files", 5*time.Minute, `find tree -type f -printf '%s\n' | awk '{n += $1} END {print n}'`)
	w.forget()
	w.both("sha256sum of every file, cold", 15*time.Minute, `find tree -type f -print0 | LC_ALL=C sort -z | xargs -0 sha256sum | sha256sum`)
	w.forget()
	began := time.Now()
	w.sh(20*time.Minute, w.plain, `diff -r --no-dereference tree "$1"/tree`, w.mount)
	t.Logf("%-48s %.1f s", "diff -r of volume and directory, cold", time.Since(began).Seconds())
	w.both("cp -a", 20*time.Minute, `cp -a tree copy`)
	w.both("find: the copy has the same times", 5*time.Minute, `list() { cd "$1"; find . -printf '%p %M %n %T@ %l\n' | LC_ALL=C sort | sha256sum; }
		[ "$(list tree)" = "$(list copy)" ]`)
	w.both("diff -r of the two", 20*time.Minute, `diff -r --no-dereference tree copy`)
	w.both("tar -c | tar -d", 20*time.Minute, `tar -cf - tree | tar -df - 2>&1`)
	w.both("rm -rf", 20*time.Minute, `rm -rf copy; ls`)
	began = time.Now()
	w.i.stop()
	w.i.again()
	t.Logf("%-48s %.1f s", "stop, start", time.Since(began).Seconds())
	w.sh(20*time.Minute, w.plain, `diff -r --no-dereference tree "$1"/tree`, w.mount)
	w.both("rm -rf", 20*time.Minute, `rm -rf tree; ls -A | grep -v lost+found || true`)
}

// killEvery kills the pod's sidecar every so often, until the program has ended; how often is sent then.
func (i *instance) killEvery(pause time.Duration, c *child) <-chan int {
	killed := make(chan int, 1)
	go func() {
		kills := 0
		defer func() { killed <- kills }()
		for {
			select {
			case <-c.done:
				return
			case <-time.After(pause):
			}
			if pid := i.pid(); pid > 0 && syscall.Kill(pid, syscall.SIGKILL) == nil {
				kills++
			}
		}
	}()
	return killed
}

// pid is the process of the first sidecar, 0 while there is none. It fails no test, so any goroutine may ask.
func (i *instance) pid() int {
	var st status
	out, err := exec.Command(programs.Remora, "status", "--dir", i.dir, "-o", "json").Output()
	if err != nil || json.Unmarshal(out, &st) != nil || len(st.Pods) == 0 || st.Pods[0].PID == nil {
		return 0
	}
	return *st.Pods[0].PID
}
