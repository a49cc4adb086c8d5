package conformance

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// TestRuler runs the suite on file systems that are right by definition: what they fail, the suite or the table has wrong.
func TestRuler(t *testing.T) {
	for _, fs := range []struct {
		name, size string
		mkfs       []string
	}{
		{"ext4", "256M", []string{"mkfs.ext4", "-q", "-F", "-b", "4096"}},
		{"xfs", "400M", []string{"mkfs.xfs", "-q", "-f"}},
	} {
		t.Run(fs.name, func(t *testing.T) {
			rep, err := Run(Options{Dir: mounted(t, fs.size, fs.mkfs), FileSystem: fs.name, Slow: fs.name == "ext4"})
			met(t, rep, err)
			require.Greater(t, rep.Expectations, 19_000)
		})
	}
	t.Run("full ext4", func(t *testing.T) {
		rep, err := Run(Options{Dir: mounted(t, "4M", []string{"mkfs.ext4", "-q", "-F", "-N", "64"}), Small: true})
		met(t, rep, err)
		require.Greater(t, rep.Expectations, 60)
	})
}

func met(t *testing.T, rep Report, err error) {
	t.Helper()
	require.NoError(t, err)
	for _, f := range rep.Failures {
		t.Error(f)
	}
	t.Logf("%d expectations, %d explained, %d failed", rep.Expectations, rep.Explained, len(rep.Failures))
}

// mounted makes a file system in a file and mounts it, for as long as the test takes.
func mounted(t *testing.T, size string, mkfs []string) (dir string) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: only root can mount, and act as several users")
	}
	base := t.TempDir()
	image, dir := filepath.Join(base, "image"), filepath.Join(base, "mount")
	program(t, "truncate", "-s", size, image)
	program(t, mkfs[0], append(mkfs[1:], image)...)
	require.NoError(t, os.Mkdir(dir, 0o755))
	program(t, "mount", "-o", "loop", image, dir)
	t.Cleanup(func() { require.NoError(t, unix.Unmount(dir, 0)) })
	return dir
}

func program(t *testing.T, name string, args ...string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	out, err := exec.CommandContext(ctx, name, args...).CombinedOutput()
	require.NoError(t, err, "%s: %s", name, out)
}

// TestJudgement: what counts as a failure.
func TestJudgement(t *testing.T) {
	s := &suite{explanations: []*explanation{
		{check: re("a/b"), expectation: re("x = .*"), reason: "it is so"},
		{check: re("a/c"), expectation: re(".*"), reason: "nobody needs it"},
	}}
	judge := func(name string, err error, want ...error) {
		c := &check{suite: s, name: name}
		c.returned(err, "x", want)
	}
	judge("a", nil)
	judge("a", unix.EPERM, unix.EACCES, unix.EPERM)
	judge("a", os.NewSyscallError("x", unix.EPERM), unix.EPERM)
	require.Equal(t, Report{Expectations: 3}, s.report)

	judge("a", unix.EPERM)
	judge("a", nil, unix.EPERM)
	judge("a", unix.EACCES, unix.EPERM)
	judge("a", errors.New("other"), unix.EPERM)
	judge("a/b", unix.EACCES, unix.EPERM) // explained
	judge("a/b", unix.EPERM, unix.EPERM)  // explained, and met
	s.unusedExplanations()
	require.Equal(t, Report{Expectations: 9, Explained: 1, Failures: []Failure{
		{"a", "x", "got EPERM"},
		{"a", "x = EPERM", "got success"},
		{"a", "x = EPERM", "got EACCES"},
		{"a", "x = EPERM", "got other"},
		{"a/b", "x = EPERM", "is met, but explained.go says: it is so"},
		{"explained.go", "^(?:a/c)$ ^(?:.*)$", "matches no expectation"},
	}}, s.report)
}

// TestUsers: the thread of a run has the IDs that it should, and the others keep theirs.
func TestUsers(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: only root can act as several users")
	}
	s := &suite{}
	c := &check{suite: s}
	done := make(chan struct{})
	var uid, gid, back int
	var groups []int
	go func() {
		defer close(done)
		lockThread()
		err := c.as(nobody.with(65531).in(65530, 7)).do(func() (err error) {
			uid, gid = unix.Geteuid(), unix.Getegid()
			groups, err = unix.Getgroups()
			return err
		})
		c.must(err)
		back = unix.Geteuid()
	}()
	<-done
	require.NoError(t, c.broken)
	require.Equal(t, []int{65534, 65531, 0}, []int{uid, gid, back})
	require.ElementsMatch(t, []int{65530, 7}, groups)
	require.Zero(t, unix.Geteuid())
}
