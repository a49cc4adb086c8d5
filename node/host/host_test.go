package host

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"unsafe"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

func needRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root, to mount")
	}
}

func root(t *testing.T) (*Dir, string) {
	t.Helper()
	path := t.TempDir()
	d, err := Root(path)
	require.NoError(t, err)
	t.Cleanup(func() { d.Close() })
	return d, path
}

func TestPathsStayBelow(t *testing.T) {
	d, path := root(t)
	require.NoError(t, os.MkdirAll(filepath.Join(path, "a/b"), 0o755))
	require.NoError(t, os.Symlink("/etc", filepath.Join(path, "link")))
	require.NoError(t, os.Symlink("b", filepath.Join(path, "a/link")))
	for _, rel := range []string{"..", "a/../..", "/etc", "link", "link/ssl", "a/link", "a/link/x"} {
		_, err := d.Open(rel)
		require.Error(t, err, rel)
	}
	b, err := d.Open("a/b")
	require.NoError(t, err)
	require.NoError(t, b.Close())
	for _, name := range []string{"", ".", "..", "a/b", "/etc", "x\x00y"} {
		_, err := d.Make(name, 0o700, 0, 0)
		require.ErrorContains(t, err, "is not the name of a directory", name)
		require.ErrorContains(t, d.Remove(name), "is not the name of a directory", name)
	}
	_, err = d.Make("link", 0o700, os.Getuid(), os.Getgid())
	require.ErrorIs(t, err, os.ErrExist)
	_, err = d.Ensure("link", 0o700, os.Getuid(), os.Getgid())
	require.Error(t, err)
	require.Error(t, d.Remove("link"))
	require.NoError(t, d.Remove("none"))
}

func TestMakeAndEnsure(t *testing.T) {
	d, path := root(t)
	defer unix.Umask(unix.Umask(0o077))
	a, err := d.Make("a", 0o751, os.Getuid(), os.Getgid())
	require.NoError(t, err)
	require.NoError(t, a.Close())
	info, err := os.Stat(filepath.Join(path, "a"))
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o751), info.Mode().Perm(), "whatever the umask says")
	again, err := d.Ensure("a", 0o700, os.Getuid(), os.Getgid())
	require.NoError(t, err)
	require.NoError(t, errors.Join(again.Close(), d.Sync()))
	info, err = os.Stat(filepath.Join(path, "a"))
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o751), info.Mode().Perm(), "one that is there is left as it is")
	require.NoError(t, d.Remove("a"))
	require.NoDirExists(t, filepath.Join(path, "a"))
}

// TestSwappedForALink: a name changes between a directory and a link to another tenant's while it is opened. The directory is opened or
// nothing is, never what the link names.
func TestSwappedForALink(t *testing.T) {
	d, path := root(t)
	outside := t.TempDir()
	victim, err := os.Stat(outside)
	require.NoError(t, err)
	name, other := filepath.Join(path, "x"), filepath.Join(path, "y")
	require.NoError(t, os.Mkdir(name, 0o755))
	require.NoError(t, os.Symlink(outside, other))
	var stop atomic.Bool
	var swaps int
	var swapper sync.WaitGroup
	swapper.Go(func() {
		for !stop.Load() {
			if err := unix.Renameat2(unix.AT_FDCWD, name, unix.AT_FDCWD, other, unix.RENAME_EXCHANGE); err != nil {
				t.Error(err)
				return
			}
			swaps++
		}
	})
	opened := 0
	for range 20_000 {
		x, err := d.Open("x")
		if err != nil {
			continue
		}
		opened++
		info, err := x.Stat()
		require.NoError(t, err)
		require.False(t, os.SameFile(info, victim))
		require.NoError(t, x.Close())
	}
	stop.Store(true)
	swapper.Wait()
	t.Logf("%d of 20,000 opened, %d swaps", opened, swaps)
}

func TestShow(t *testing.T) {
	needRoot(t)
	d, path := root(t)
	for _, name := range []string{"a", "b", "dst"} {
		require.NoError(t, os.Mkdir(filepath.Join(path, name), 0o755))
	}
	open := func(name string) *Dir {
		x, err := d.Open(name)
		require.NoError(t, err)
		t.Cleanup(func() { x.Close() })
		return x
	}
	dst := filepath.Join(path, "dst")
	t.Cleanup(func() { require.NoError(t, Detach(dst)) })
	err := Show(open("dst"), []Tree{{"one", open("a"), 0}, {"one", open("b"), 0}})
	require.ErrorIs(t, err, os.ErrExist)
	found, err := MountsBelow(dst)
	require.NoError(t, err)
	require.Empty(t, found, "nothing is left of what failed")

	require.NoError(t, Show(open("dst"), []Tree{{"one", open("a"), NoExec}, {"two", open("b"), ReadOnly}}))
	require.NoError(t, os.WriteFile(filepath.Join(dst, "one/file"), []byte("#!/bin/sh\n"), 0o700))
	require.FileExists(t, filepath.Join(path, "a/file"))
	require.ErrorIs(t, exec.Command(filepath.Join(dst, "one/file")).Run(), unix.EACCES)
	require.ErrorIs(t, os.WriteFile(filepath.Join(dst, "two/file"), nil, 0o600), unix.EROFS)
	require.ErrorIs(t, os.Mkdir(filepath.Join(dst, "three"), 0o700), unix.EROFS)
	require.Error(t, os.Remove(filepath.Join(dst, "one")))
	require.NoError(t, Detach(dst))
	require.NoError(t, Detach(dst))
	found, err = MountsBelow(dst)
	require.NoError(t, err)
	require.Empty(t, found)
	require.FileExists(t, filepath.Join(path, "a/file"))
}

// TestLimit: this kernel may have no project quotas at all. Then nothing is changed, and the error says so.
func TestLimit(t *testing.T) {
	needRoot(t)
	d, path := root(t)
	a, err := d.Make("a", 0o700, 0, 0)
	require.NoError(t, err)
	defer a.Close()
	err = Limit(a, ProjectID("default/disk-0"), 1<<20)
	if err != nil {
		require.ErrorIs(t, err, ErrNoQuota)
		t.Log("no limit here: ", err)
		return
	}
	f, err := os.Create(filepath.Join(path, "a/file"))
	require.NoError(t, err)
	defer f.Close()
	_, err = f.Write(make([]byte, 2<<20))
	require.True(t, errors.Is(err, unix.EDQUOT) || errors.Is(err, unix.ENOSPC), "%v", err)
}

func TestProjectID(t *testing.T) {
	require.Equal(t, ProjectID("default/disk-0"), ProjectID("default/disk-0"))
	require.NotEqual(t, ProjectID("default/disk-0"), ProjectID("default/disk-1"))
	require.GreaterOrEqual(t, ProjectID(""), uint32(1<<30))
}

// TestSizes are those of the kernel's structures (gcc on linux/quota.h, linux/dqblk_xfs.h and linux/fs.h).
func TestSizes(t *testing.T) {
	require.EqualValues(t, 72, unsafe.Sizeof(ifDqblk{}))
	require.EqualValues(t, 112, unsafe.Sizeof(fsDiskQuota{}))
	require.EqualValues(t, 28, unsafe.Sizeof(fsxattr{}))
	var q fsDiskQuota
	require.EqualValues(t, 8, unsafe.Offsetof(q.blkHard))
	require.EqualValues(t, 72, unsafe.Offsetof(q.rtbHard))
}
