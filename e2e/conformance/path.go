package conformance

import (
	"fmt"
	"strings"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// pathNotDirectory: ENOTDIR when a name on the way is not a directory.
func pathNotDirectory(c *check) {
	c.each(notSymlink, func(c *check, k kind) {
		if k == dir {
			return
		}
		c.place(root, k, "file")
		c.place(root, regular, "partner")
		for _, call := range calls() {
			call.at(c.actor, "file/test", unix.ENOTDIR)
			call.at(c.as(nobody), "file/test", unix.ENOTDIR)
		}
		c.at("file").kind(k)
	})
	c.part("symlink", func(c *check) {
		c.place(root, regular, "file")
		c.place(root, regular, "partner")
		c.symlink("file", "way")
		for _, call := range calls() {
			call.at(c.actor, "way/test", unix.ENOTDIR)
		}
	})
	c.part("rmdir", func(c *check) {
		for _, k := range notDirs {
			c.make(k, "file")
			c.rmdir("file", unix.ENOTDIR)
			c.unlink("file")
		}
	})
}

// pathMissing: ENOENT when a name on the way, or at the end, is not there, or leads nowhere.
func pathMissing(c *check) {
	c.must(unix.Mkdir("dir", 0o777))
	c.must(unix.Symlink("dir/nowhere", "dangling"))
	c.place(nobody, regular, "partner")
	for _, a := range []actor{c.actor, c.as(nobody)} {
		for _, call := range calls() {
			call.at(a, "dir/missing/test", unix.ENOENT)
			call.at(a, "dangling/test", unix.ENOENT)
			call.at(a, "", unix.ENOENT)
			if call.on != nothing {
				call.at(a, "dir/missing", unix.ENOENT)
				if call.is(follows) {
					call.at(a, "dangling", unix.ENOENT)
				}
			}
		}
	}
}

// pathLongName: a name may have 255 bytes.
func pathLongName(c *check) {
	longest := strings.Repeat("n", 255)
	var st unix.Statfs_t
	c.must(unix.Statfs(".", &st))
	c.result(st.Namelen == 255, "statfs: longest name 255", fmt.Sprintf("got %d", st.Namelen))
	pathLong(c, longest, longest+"x")
	c.part("on the way", func(c *check) {
		c.mkdir(longest, 0o755)
		c.place(root, regular, "partner")
		for _, call := range calls() {
			call.at(c.actor, longest+"x/test", unix.ENAMETOOLONG)
		}
		c.make(regular, longest+"/test")
		c.at(longest + "/test").kind(regular)
	})
	c.part("content of a symlink", func(c *check) { // it becomes a name only when it is followed
		c.symlink(longest+"x", "way")
		c.at("way").kind(symlink).size(256)
		c.open("way", unix.O_RDONLY, 0, unix.ENAMETOOLONG)
		c.symlink(longest, "dangling")
		c.open("dangling", unix.O_RDONLY, 0, unix.ENOENT)
	})
}

// pathLongPath: a path may have 4095 bytes and its NUL.
func pathLongPath(c *check) {
	pathLong(c, "", "")
}

// deepPath makes the directories of a relative path of exactly 4095 bytes.
func deepPath(c *check) string {
	const most = unix.PathMax - 1
	path := ""
	for len(path)+100 < most {
		path += strings.Repeat("d", 99) + "/"
		c.must(unix.Mkdir(path, 0o755))
	}
	return path + strings.Repeat("f", most-len(path))
}

// pathLong: with the longest path that is allowed every call does its work; with one byte more none does.
func pathLong(c *check, longest, longer string) {
	for _, call := range calls() {
		c.part(call.name, func(c *check) {
			longest, longer := longest, longer
			if longest == "" {
				longest = deepPath(c)
				longer = longest + "x"
			}
			call.prepare(c, root, longest)
			call.at(c.actor, longest)
			if call.is(partner) && call.name == "rename to" {
				c.place(root, regular, "partner")
			}
			call.at(c.actor, longer, unix.ENAMETOOLONG)
			switch {
			case call.on == nothing:
				c.result(unix.Access(longest, unix.F_OK) == nil || unix.Lstat(longest, new(unix.Stat_t)) == nil, "the name is there", "it is not")
			case call.is(enters):
				c.gone(longest)
			default:
				c.at(longest).kind(call.on)
			}
		})
	}
}

// pathLoop: ELOOP for symlinks that lead to each other, and for more than 40 on the way.
func pathLoop(c *check) {
	c.symlink("a", "b")
	c.symlink("b", "a")
	c.place(root, regular, "partner")
	for _, call := range calls() {
		call.at(c.actor, "a/test", unix.ELOOP)
		call.at(c.actor, "b/test", unix.ELOOP)
		call.at(c.as(nobody), "a/test", unix.ELOOP)
		if call.is(follows) {
			call.at(c.actor, "a", unix.ELOOP)
			call.at(c.actor, "b", unix.ELOOP)
		}
	}
	const most = 40
	c.make(regular, "0")
	for n := range most + 1 {
		c.must(unix.Symlink(fmt.Sprint(n), fmt.Sprint(n+1)))
	}
	c.chmod(fmt.Sprint(most), 0o600)
	c.through(fmt.Sprint(most)).mode(0o600).is(c.at("0"))
	c.chmod(fmt.Sprint(most+1), 0o644, unix.ELOOP)
	c.open(fmt.Sprint(most+1), unix.O_RDONLY, 0, unix.ELOOP)
	c.at("0").mode(0o600)
}

// pathTrailingSlash: a slash at the end asks for a directory. Linux looks at it before it looks at the type of a new name.
func pathTrailingSlash(c *check) {
	made := map[string][]error{"open O_CREAT": {unix.EISDIR}, "open O_CREAT|O_EXCL": {unix.EISDIR, unix.EEXIST, unix.EINVAL},
		"mkdir": nil, "rename to": {unix.ENOTDIR}}
	for _, call := range calls() {
		c.part(call.name, func(c *check) {
			call.prepare(c, root, "file")
			switch want, ok := made[call.name]; {
			case call.on == regular:
				call.at(c.actor, "file/", unix.ENOTDIR)
				call.at(c.actor, "file/.", unix.ENOTDIR)
				c.at("file").kind(regular)
			case call.on == dir:
				call.at(c.actor, "file/")
			case call.on == symlink:
				call.at(c.actor, "file/", unix.ENOENT, unix.ENOTDIR)
				c.at("file").kind(symlink)
			case ok:
				call.at(c.actor, "file/", want...)
			default:
				call.at(c.actor, "file/", unix.ENOENT)
				c.gone("file")
			}
		})
	}
}

// pathBadAddress: EFAULT for a path that is not in the address space.
func pathBadAddress(c *check) {
	c.make(regular, "file")
	file := unsafe.Pointer(unsafe.StringData("file\x00"))
	const cwd = ^uintptr(99) // AT_FDCWD
	for _, bad := range []uintptr{0, 0xdeadc0de} {
		other := bad ^ 0xdeadc0de
		for _, t := range []struct {
			name string
			trap uintptr
			args [6]uintptr
		}{
			{"chmod", unix.SYS_FCHMODAT, [6]uintptr{cwd, bad, 0o644}},
			{"chown", unix.SYS_FCHOWNAT, [6]uintptr{cwd, bad, 1, 1, 0}},
			{"lchown", unix.SYS_FCHOWNAT, [6]uintptr{cwd, bad, 1, 1, unix.AT_SYMLINK_NOFOLLOW}},
			{"truncate", unix.SYS_TRUNCATE, [6]uintptr{bad, 123}},
			{"open", unix.SYS_OPENAT, [6]uintptr{cwd, bad, unix.O_RDONLY}},
			{"open O_CREAT", unix.SYS_OPENAT, [6]uintptr{cwd, bad, unix.O_CREAT, 0o644}},
			{"mkdir", unix.SYS_MKDIRAT, [6]uintptr{cwd, bad, 0o755}},
			{"mkfifo", unix.SYS_MKNODAT, [6]uintptr{cwd, bad, unix.S_IFIFO | 0o644}},
			{"mknod", unix.SYS_MKNODAT, [6]uintptr{cwd, bad, unix.S_IFCHR | 0o644, uintptr(device)}},
			{"unlink", unix.SYS_UNLINKAT, [6]uintptr{cwd, bad, 0}},
			{"rmdir", unix.SYS_UNLINKAT, [6]uintptr{cwd, bad, unix.AT_REMOVEDIR}},
			{"link from", unix.SYS_LINKAT, [6]uintptr{cwd, bad, cwd, uintptr(file), 0}},
			{"link to", unix.SYS_LINKAT, [6]uintptr{cwd, uintptr(file), cwd, bad, 0}},
			{"link from and to", unix.SYS_LINKAT, [6]uintptr{cwd, bad, cwd, other, 0}},
			{"rename from", unix.SYS_RENAMEAT2, [6]uintptr{cwd, bad, cwd, uintptr(file), 0}},
			{"rename to", unix.SYS_RENAMEAT2, [6]uintptr{cwd, uintptr(file), cwd, bad, 0}},
			{"rename from and to", unix.SYS_RENAMEAT2, [6]uintptr{cwd, bad, cwd, other, 0}},
			{"symlink target", unix.SYS_SYMLINKAT, [6]uintptr{bad, cwd, uintptr(file)}},
			{"symlink", unix.SYS_SYMLINKAT, [6]uintptr{uintptr(file), cwd, bad}},
			{"symlink both", unix.SYS_SYMLINKAT, [6]uintptr{bad, cwd, other}},
			{"readlink", unix.SYS_READLINKAT, [6]uintptr{cwd, bad, bad, 1}},
			{"utimensat times", unix.SYS_UTIMENSAT, [6]uintptr{cwd, uintptr(file), 0xdeadc0de, 0}},
		} {
			_, _, errno := syscall.Syscall6(t.trap, t.args[0], t.args[1], t.args[2], t.args[3], t.args[4], t.args[5])
			c.returned(errnoOf(errno), fmt.Sprintf("%s at %#x", t.name, bad), []error{unix.EFAULT})
		}
	}
	c.at("file").kind(regular).nlink(1).size(0)
}

func errnoOf(errno syscall.Errno) error {
	if errno == 0 {
		return nil
	}
	return errno
}
