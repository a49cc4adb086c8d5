package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// capability is the value of a security.capability that allows cap_net_bind_service.
const capability = "\x01\x00\x00\x02\x00\x04\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"

// changes are what may take suid, sgid and capabilities away, and what must not. Not among them: chown(-1, -1), which Linux does not pass
// on to FUSE servers.
var changes = map[string]func(path string) error{
	"write": func(p string) error {
		return onFile(p, 0, func(fd int) error { return errOf(unix.Write(fd, []byte("x"))) })
	},
	"write 0": func(p string) error { return onFile(p, 0, func(fd int) error { return errOf(unix.Write(fd, nil)) }) },
	"append": func(p string) error {
		return onFile(p, unix.O_APPEND, func(fd int) error { return errOf(unix.Write(fd, []byte("x"))) })
	},
	"direct": func(p string) error {
		return onFile(p, unix.O_DIRECT, func(fd int) error { return errOf(unix.Pwrite(fd, aligned(4096), 0)) })
	},
	"ftruncate":     func(p string) error { return onFile(p, 0, func(fd int) error { return unix.Ftruncate(fd, 1) }) },
	"same size":     func(p string) error { return onFile(p, 0, func(fd int) error { return unix.Ftruncate(fd, 10000) }) },
	"truncate":      func(p string) error { return unix.Truncate(p, 20000) },
	"same, by name": func(p string) error { return unix.Truncate(p, 10000) },
	"open trunc":    func(p string) error { return onFile(p, unix.O_TRUNC, func(int) error { return nil }) },
	"open":          func(p string) error { return onFile(p, 0, func(int) error { return nil }) },
	"allocate": func(p string) error {
		return onFile(p, 0, func(fd int) error { return unix.Fallocate(fd, 0, 0, 20000) })
	},
	"keep size": func(p string) error {
		return onFile(p, 0, func(fd int) error { return unix.Fallocate(fd, unix.FALLOC_FL_KEEP_SIZE, 0, 1) })
	},
	"punch": func(p string) error {
		return onFile(p, 0, func(fd int) error {
			return unix.Fallocate(fd, unix.FALLOC_FL_KEEP_SIZE|unix.FALLOC_FL_PUNCH_HOLE, 0, 5000)
		})
	},
	"zero": func(p string) error {
		return onFile(p, 0, func(fd int) error { return unix.Fallocate(fd, unix.FALLOC_FL_ZERO_RANGE, 0, 50000) })
	},
	"copy to":  func(p string) error { return onFile(p, 0, func(fd int) error { return copyOver(p, fd) }) },
	"map":      func(p string) error { return onFile(p, 0, mapAndChange) },
	"chmod":    func(p string) error { return unix.Chmod(p, 0o6711) },
	"chown":    func(p string) error { return unix.Chown(p, os.Getuid(), os.Getgid()) },
	"chgrp":    func(p string) error { return unix.Chown(p, -1, os.Getgid()) },
	"utimes":   func(p string) error { return os.Chtimes(p, time.Unix(1, 0), time.Unix(2, 0)) },
	"setxattr": func(p string) error { return unix.Setxattr(p, "user.x", []byte("1"), 0) },
	"link":     func(p string) error { return unix.Link(p, p+".link") },
	"rename":   func(p string) error { return unix.Rename(p, p) },
	"read":     func(p string) error { return errOf(os.ReadFile(p)) },
}

func onFile(path string, flags int, do func(fd int) error) error {
	fd, err := unix.Open(path, unix.O_RDWR|flags, 0)
	if err != nil {
		return err
	}
	if err := do(fd); err != nil {
		return err
	}
	return unix.Close(fd)
}

func aligned(n int) []byte {
	return must(unix.Mmap(-1, 0, n, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE))
}

func copyOver(path string, fd int) error {
	off, toOff := int64(5000), int64(0)
	return errOf(unix.CopyFileRange(must(unix.Open(path, unix.O_RDONLY, 0)), &off, fd, &toOff, 1000, 0))
}

func mapAndChange(fd int) error {
	b, err := unix.Mmap(fd, 0, 4096, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return err
	}
	b[0]++
	return unix.Msync(b, unix.MS_SYNC)
}

// doChange takes CHANGE PATH, does it and prints what the file is then; run by some user.
func doChange(args []string) error {
	err := changes[args[0]](args[1])
	(&comparer{}).say(args[0], err)
	return nil
}

// privileges: what each change leaves of a file's suid and sgid bits and its capabilities.
func (c *comparer) privileges() {
	cases := []struct {
		mode     uint32
		uid, gid int
	}{{0o6755, 0, 0}, {0o6755, 1001, 1001}, {0o6745, 1001, 1001}, {0o6777, 1002, 1001}, {0o2766, 1002, 1002}}
	for _, change := range slices.Sorted(keysOf(changes)) {
		for _, t := range cases {
			for _, withCap := range []bool{false, true} {
				path := c.in("f")
				mustDo(os.WriteFile(path, pattern(10000), 0o600))
				mustDo(os.Chown(path, 1001, 1001))
				mustDo(unix.Chmod(path, t.mode))
				if withCap {
					mustDo(unix.Setxattr(path, "security.capability", []byte(capability), 0))
				}
				cmd := exec.Command("/proc/self/exe", "worker", "compare-change", change, path)
				cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(t.uid), Gid: uint32(t.gid), Groups: []uint32{}}}
				out, err := cmd.CombinedOutput()
				var st unix.Stat_t
				mustDo(unix.Stat(path, &st))
				left, _ := unix.Getxattr(path, "security.capability", make([]byte, 100))
				c.say(fmt.Sprintf("%o %d:%d %v", t.mode, t.uid, t.gid, withCap), strings.TrimSpace(string(out)), err, fmt.Sprintf("%o", st.Mode), left)
				mustDo(os.Remove(path))
				_ = os.Remove(path + ".link")
			}
		}
	}
}

func keysOf[V any](m map[string]V) func(func(string) bool) {
	return func(yield func(string) bool) {
		for k := range m {
			if !yield(k) {
				return
			}
		}
	}
}

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
