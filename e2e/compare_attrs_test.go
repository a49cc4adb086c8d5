package e2e

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// times: which calls change the times of a file, and of its directory.
func (c *comparer) times() {
	all := map[string]func(path string) error{
		"unlink":      func(p string) error { return unix.Unlink(p) },
		"rename away": func(p string) error { return unix.Rename(p, c.in("elsewhere")) },
		"rename over": func(p string) error { return unix.Rename(c.in("spare"), p) },
		"exchange": func(p string) error {
			return unix.Renameat2(unix.AT_FDCWD, p, unix.AT_FDCWD, c.in("spare"), unix.RENAME_EXCHANGE)
		},
		"create":      func(p string) error { return errOf(unix.Open(c.in("d/new"), unix.O_CREAT, 0o600)) },
		"mkdir":       func(p string) error { return unix.Mkdir(c.in("d/sub"), 0o700) },
		"symlink":     func(p string) error { return unix.Symlink("x", c.in("d/link")) },
		"mknod":       func(p string) error { return unix.Mkfifo(c.in("d/fifo"), 0o600) },
		"unnamed":     func(p string) error { return errOf(unix.Open(c.in("d"), unix.O_TMPFILE|unix.O_RDWR, 0o600)) },
		"removexattr": func(p string) error { return unix.Removexattr(p, "user.y") },
		"acl": func(p string) error {
			return unix.Setxattr(p, "system.posix_acl_access", []byte("\x02\x00\x00\x00\x01\x00\x07\x00\xff\xff\xff\xff\x04\x00\x05\x00\xff\xff\xff\xff\x20\x00\x05\x00\xff\xff\xff\xff"), 0)
		},
		"utimes now": func(p string) error { return unix.UtimesNanoAt(unix.AT_FDCWD, p, nil, 0) },
		"utimes omit": func(p string) error {
			return unix.UtimesNanoAt(unix.AT_FDCWD, p, []unix.Timespec{{Nsec: unix.UTIME_OMIT}, {Nsec: unix.UTIME_OMIT}}, 0)
		},
		"utimes half": func(p string) error {
			return unix.UtimesNanoAt(unix.AT_FDCWD, p, []unix.Timespec{{Sec: -5, Nsec: 7}, {Nsec: unix.UTIME_OMIT}}, 0)
		},
		"link the other": func(p string) error { return unix.Link(c.in("spare"), c.in("d/linked")) },
	}
	for name, do := range changes {
		all[name] = do
	}
	delete(all, "read") // atime
	for _, name := range slices.Sorted(keysOf(all)) {
		mustDo(os.Mkdir(c.in("d"), 0o755))
		path := c.in("d/f")
		mustDo(os.WriteFile(path, pattern(10000), 0o644))
		mustDo(os.WriteFile(c.in("spare"), nil, 0o644))
		mustDo(unix.Setxattr(path, "user.y", nil, 0))
		fd := must(unix.Open(path, unix.O_RDONLY, 0))
		stat := func() (f, d unix.Stat_t) {
			mustDo(unix.Fstat(fd, &f))
			mustDo(unix.Stat(c.in("d"), &d))
			return f, d
		}
		f0, d0 := stat()
		time.Sleep(12 * time.Millisecond) // ext4's clock moves each 4 ms
		err := all[name](path)
		f, d := stat()
		c.say(name, err, "file", f.Mtim != f0.Mtim, f.Ctim != f0.Ctim, "directory", d.Mtim != d0.Mtim, d.Ctim != d0.Ctim, "nlink", f.Nlink, d.Nlink)
		mustDo(unix.Close(fd))
		mustDo(os.RemoveAll(c.in("d")))
		_ = os.Remove(c.in("spare"))
		_ = os.Remove(c.in("elsewhere"))
	}
	for _, at := range []int64{-1<<31 + 1, -1, 0, 1<<31 - 1, 1 << 31, 1<<33 + 5} {
		path := c.in("f")
		mustDo(os.WriteFile(path, nil, 0o644))
		err := unix.UtimesNanoAt(unix.AT_FDCWD, path, []unix.Timespec{{Sec: at, Nsec: 999_999_999}, {Sec: at + 1, Nsec: 1}}, 0)
		var st unix.Stat_t
		mustDo(unix.Stat(path, &st))
		c.say(fmt.Sprintf("time %d", at), err, st.Atim, st.Mtim)
	}
}

func (c *comparer) xattrs() {
	path := c.in("f")
	mustDo(os.WriteFile(path, nil, 0o644))
	set := func(name string, n, flags int) {
		c.say(fmt.Sprintf("set %.20s (%d) %d %d", name, len(name), n, flags), unix.Setxattr(path, name, pattern(n), flags))
	}
	get := func(name string, n int) {
		b := make([]byte, n)
		k, err := unix.Getxattr(path, name, b)
		c.say(fmt.Sprintf("get %.20s %d", name, n), k, err, b[:max(min(k, n), 0)])
	}
	list := func() {
		b := make([]byte, 1<<16)
		n, err := unix.Listxattr(path, b)
		names := strings.Split(string(b[:max(n, 0)]), "\x00")
		slices.Sort(names)
		for i := range names {
			names[i] = fmt.Sprintf("%.20s", names[i])
		}
		c.say("list", n, err, names)
	}
	for _, name := range []string{"user.a", "trusted.a", "security.a", "system.a", "other.a", "a", "", "user.", "user", "trusted.", "security.",
		"user." + strings.Repeat("x", 250), "user." + strings.Repeat("x", 251), "user.\xff", "user.a.b", "USER.a"} {
		set(name, 3, 0)
		get(name, 10)
		set(name, 4, unix.XATTR_CREATE)
		set(name, 5, unix.XATTR_REPLACE)
		get(name, 10)
		get(name, 4)
		get(name, 0)
		c.say("remove", unix.Removexattr(path, name), unix.Removexattr(path, name))
		set(name, 1, unix.XATTR_REPLACE)
		set(name, 0, unix.XATTR_CREATE)
		get(name, 1)
	}
	list()
	c.say("short list", errOf(unix.Listxattr(path, make([]byte, 3))))
	set("user.big", 1<<16+1, 0)
	set("user.a", 1, 3)
	set("user.a", 1, 4)
	mustDo(os.Symlink("f", c.in("link")))
	mustDo(unix.Mkfifo(c.in("fifo"), 0o600))
	for _, n := range []string{"link", "fifo"} {
		c.say("special "+n, unix.Lsetxattr(c.in(n), "user.a", nil, 0), unix.Lsetxattr(c.in(n), "trusted.a", []byte("1"), 0))
		k, err := unix.Lgetxattr(c.in(n), "user.a", nil)
		c.say("  get", k, err)
		k, err = unix.Llistxattr(c.in(n), make([]byte, 100))
		c.say("  list", k, err)
	}
	c.say("of a directory", unix.Setxattr(c.dir, "user.d", []byte("1"), 0), unix.Removexattr(c.dir, "user.d"))
	mustDo(os.Link(path, c.in("hard")))
	k, err := unix.Getxattr(c.in("hard"), "user.a", make([]byte, 10))
	c.say("through a link", k, err)
}
