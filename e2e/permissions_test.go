package e2e

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

const ofRoot = `set -e
umask 022
echo secret >secret; chmod 0600 secret
echo shared >shared
mkdir private; echo x >private/file; chmod 0700 private
mkdir plain; echo x >plain/file
mkdir sticky; chmod 1777 sticky; echo x >sticky/file; chmod 0666 sticky/file
mkdir open; chmod 0777 open
`

// TestPermissions: what an unprivileged user may and may not do beside root's files.
func TestPermissions(t *testing.T) {
	t.Parallel()
	i := startOne(t)
	dir := i.mount("db-0")
	i.program("", nil, "sh", "-c", `cd "$0" && `+ofRoot, dir).run(time.Minute)
	i.worker("nobody", "permissions", dir).run(time.Minute)
	i.worker("", "sgid", dir).run(time.Minute)
	i.killSidecar("db-0")
	i.program("", nil, "sh", "-c", `rm -r "$0"/open/* "$0"/group`, dir).run(time.Minute)
	i.worker("nobody", "permissions", dir).run(time.Minute)
	i.worker("", "sgid", dir).run(time.Minute)
}

// tryPermissions is run by an unprivileged user.
func tryPermissions(args []string) error {
	in := func(name string) string { return filepath.Join(args[0], name) }
	open := func(name string, flags int) error {
		f, err := os.OpenFile(in(name), flags, 0o644)
		if err == nil {
			err = f.Close()
		}
		return err
	}
	list := func(name string) error { _, err := os.ReadDir(in(name)); return err }
	xattr := func(name, key string) error { return unix.Setxattr(in(name), key, []byte("1"), 0) }
	var allowed error
	return errors.Join(
		wantErr(open("secret", os.O_RDONLY), syscall.EACCES, "read a 0600 file of root"),
		wantErr(open("secret", os.O_WRONLY), syscall.EACCES, "write a 0600 file of root"),
		wantErr(open("shared", os.O_RDONLY), allowed, "read a 0644 file"),
		wantErr(open("shared", os.O_WRONLY), syscall.EACCES, "write a 0644 file"),
		wantErr(open("shared", os.O_RDONLY|os.O_TRUNC), syscall.EACCES, "open a 0644 file with O_TRUNC"),
		wantErr(os.Truncate(in("shared"), 0), syscall.EACCES, "truncate a 0644 file"),
		wantErr(os.Chmod(in("shared"), 0o666), syscall.EPERM, "chmod a file of root"),
		wantErr(os.Chtimes(in("shared"), time.Unix(1, 0), time.Unix(1, 0)), syscall.EPERM, "set times of a file of root"),
		wantErr(xattr("shared", "user.a"), syscall.EACCES, "setxattr of a 0644 file"),
		wantErr(xattr("sticky/file", "trusted.a"), syscall.EPERM, "setxattr trusted"),
		wantErr(open("private/file", os.O_RDONLY), syscall.EACCES, "read in a 0700 directory"),
		wantErr(list("private"), syscall.EACCES, "list a 0700 directory"),
		wantErr(list("plain"), allowed, "list a 0755 directory"),
		wantErr(open("plain/new", os.O_CREATE|os.O_WRONLY), syscall.EACCES, "create in a 0755 directory"),
		wantErr(os.Mkdir(in("plain/new"), 0o755), syscall.EACCES, "mkdir in a 0755 directory"),
		wantErr(os.Remove(in("plain/file")), syscall.EACCES, "remove from a 0755 directory"),
		wantErr(open("sticky/file", os.O_RDWR), allowed, "write a 0666 file"),
		wantErr(unix.Unlink(in("sticky/file")), syscall.EPERM, "unlink a file of root in a sticky directory"),
		wantErr(os.Rename(in("sticky/file"), in("open/file")), syscall.EPERM, "rename a file of root out of a sticky directory"),
		wantErr(unix.Mknod(in("open/device"), syscall.S_IFCHR|0o666, 0x103), syscall.EPERM, "mknod of a device"),
		tryOwn(in("open/own")),
	)
}

// tryOwn: what the owner of a file may do, and what takes its suid bit away.
func tryOwn(file string) error {
	f, err := os.OpenFile(file, os.O_CREATE|os.O_RDWR|os.O_EXCL, 0o640)
	if err != nil {
		return err
	}
	mode := func(want uint32) error {
		var st unix.Stat_t
		err := unix.Fstat(int(f.Fd()), &st)
		return errors.Join(err, check(st.Mode&0o7777 == want, "mode of own file is %o, want %o", st.Mode&0o7777, want))
	}
	write := func() error { _, err := f.WriteString("x"); return err }
	return errors.Join(
		mode(0o640),
		wantErr(os.Chown(file, 0, -1), syscall.EPERM, "give a file away"),
		wantErr(os.Chown(file, -1, 0), syscall.EPERM, "give a file to a foreign group"),
		unix.Fchmod(int(f.Fd()), 0o6755), mode(0o6755),
		write(), mode(0o755),
		unix.Fchmod(int(f.Fd()), 0o4755), f.Truncate(0), mode(0o755),
		os.Chtimes(file, time.Unix(1, 0), time.Unix(2, 0)),
		f.Close(),
	)
}

// trySetGroupID is run by root: set-group-ID directories hand their group on, and chown takes suid and sgid away.
func trySetGroupID(args []string) error {
	dir := filepath.Join(args[0], "group")
	const group = 12345
	stat := func(name string, mode uint32, gid int) error {
		var st unix.Stat_t
		err := unix.Lstat(filepath.Join(dir, name), &st)
		got := fmt.Sprintf("mode %o, group %d", st.Mode&0o7777, st.Gid)
		return errors.Join(err, check(st.Mode&0o7777 == mode && int(st.Gid) == gid, "%s: %s, want mode %o, group %d", name, got, mode, gid))
	}
	unix.Umask(0o027)
	return errors.Join(
		os.Mkdir(dir, 0o755), stat("", 0o750, 0),
		os.WriteFile(filepath.Join(dir, "before"), nil, 0o666), stat("before", 0o640, 0),
		os.Chown(dir, 0, group), unix.Chmod(dir, 0o2775), stat("", 0o2775, group),
		os.WriteFile(filepath.Join(dir, "file"), nil, 0o666), stat("file", 0o640, group),
		os.Mkdir(filepath.Join(dir, "dir"), 0o777), stat("dir", 0o2750, group),
		os.Symlink("x", filepath.Join(dir, "symlink")), stat("symlink", 0o777, group),
		unix.Chmod(filepath.Join(dir, "file"), 0o6755), os.Chown(filepath.Join(dir, "file"), 1, 1), stat("file", 0o755, 1),
	)
}
