package conformance

import (
	"golang.org/x/sys/unix"
)

// call is a system call with one path under test: a row of the table that the errors of paths and permissions are checked with.
type call struct {
	name string
	do   func(u user, path string) error
	on   kind // what must be at the path; nothing: the call makes the name
	has  traits
}

// traits say what a call does with its path.
type traits uint

const (
	follows   traits = 1 << iota // a symlink at the end of the path
	enters                       // writes the directory of the path
	readsOnly                    // changes nothing
	exclusive                    // fails with EEXIST if the name is taken
	privilege                    // is for root alone
	partner                      // needs a file "partner" in the working directory
	replaces                     // makes the name "new" in the working directory
)

func (c call) is(t traits) bool { return c.has&t == t }

// at makes the call as a user; without want it must succeed.
func (c call) at(a actor, path string, want ...error) {
	a.call(c.name+" "+short(path), func() error { return c.do(a.user, path) }, want)
}

// prepare makes what the call needs, for the user.
func (c call) prepare(k *check, u user, path string) {
	k.place(u, c.on, path)
	if c.is(partner) {
		k.place(u, regular, "partner")
	}
}

// calls is the table.
func calls() []call {
	return append(append(lookingCalls(), changingCalls()...), namingCalls()...)
}

func opens(flags int, mode uint32) func(user, string) error {
	return func(_ user, path string) error {
		fd, err := unix.Open(path, flags|unix.O_CLOEXEC, mode)
		if err == nil {
			err = unix.Close(fd)
		}
		return err
	}
}

func lookingCalls() []call {
	return []call{
		{"stat", func(_ user, p string) error { return unix.Stat(p, new(unix.Stat_t)) }, regular, follows | readsOnly},
		{"lstat", func(_ user, p string) error { return unix.Lstat(p, new(unix.Stat_t)) }, regular, readsOnly},
		{"faccessat", func(_ user, p string) error {
			return unix.Faccessat(unix.AT_FDCWD, p, unix.F_OK, unix.AT_EACCESS)
		}, regular, follows | readsOnly},
		{"readlink", func(_ user, p string) error {
			_, err := unix.Readlink(p, make([]byte, 8))
			return err
		}, symlink, readsOnly},
		{"open O_RDONLY", opens(unix.O_RDONLY, 0), regular, follows | readsOnly},
		{"open O_DIRECTORY", opens(unix.O_RDONLY|unix.O_DIRECTORY, 0), dir, follows | readsOnly},
	}
}

func changingCalls() []call {
	now := []unix.Timespec{{Nsec: unix.UTIME_NOW}, {Nsec: unix.UTIME_NOW}}
	return []call{
		{"chmod", func(_ user, p string) error { return unix.Chmod(p, 0o600) }, regular, follows},
		{"chown", func(u user, p string) error { return unix.Chown(p, int(u.uid), int(u.gid)) }, regular, follows},
		{"lchown", func(u user, p string) error { return unix.Lchown(p, int(u.uid), int(u.gid)) }, regular, 0},
		{"truncate", func(_ user, p string) error { return unix.Truncate(p, 123) }, regular, follows},
		{"open O_WRONLY", opens(unix.O_WRONLY, 0), regular, follows},
		{"open O_RDWR", opens(unix.O_RDWR, 0), regular, follows},
		{"open O_TRUNC", opens(unix.O_RDONLY|unix.O_TRUNC, 0), regular, follows},
		{"utimensat", func(_ user, p string) error { return unix.UtimesNanoAt(unix.AT_FDCWD, p, now, 0) }, regular, follows},
		{"lutimens", func(_ user, p string) error {
			return unix.UtimesNanoAt(unix.AT_FDCWD, p, now, unix.AT_SYMLINK_NOFOLLOW)
		}, regular, 0},
		{"setxattr", func(_ user, p string) error { return unix.Setxattr(p, "user.a", []byte("b"), 0) }, regular, follows},
	}
}

func namingCalls() []call {
	makes := func(k kind, dev uint64) func(user, string) error {
		return func(_ user, p string) error { return unix.Mknod(p, uint32(k)|0o644, int(dev)) }
	}
	return []call{
		{"open O_CREAT", opens(unix.O_CREAT|unix.O_RDONLY, 0o644), nothing, follows | enters},
		{"open O_CREAT|O_EXCL", opens(unix.O_CREAT|unix.O_EXCL|unix.O_WRONLY, 0o644), nothing, enters | exclusive},
		{"mkdir", func(_ user, p string) error { return unix.Mkdir(p, 0o755) }, nothing, enters | exclusive},
		{"mkfifo", func(_ user, p string) error { return unix.Mkfifo(p, 0o644) }, nothing, enters | exclusive},
		{"mknod regular", makes(regular, 0), nothing, enters | exclusive},
		{"mknod fifo", makes(fifo, 0), nothing, enters | exclusive},
		{"mknod socket", makes(socket, 0), nothing, enters | exclusive},
		{"mknod block", makes(block, device), nothing, enters | exclusive | privilege},
		{"mknod char", makes(char, device), nothing, enters | exclusive | privilege},
		{"symlink", func(_ user, p string) error { return unix.Symlink("test", p) }, nothing, enters | exclusive},
		{"link to", func(_ user, p string) error { return unix.Link("partner", p) }, nothing, enters | exclusive | partner},
		{"link from", func(_ user, p string) error { return unix.Link(p, "new") }, regular, replaces},
		{"rename to", func(_ user, p string) error { return unix.Rename("partner", p) }, nothing, enters | partner},
		{"rename from", func(_ user, p string) error { return unix.Rename(p, "new") }, regular, enters | replaces},
		{"rename dir from", func(_ user, p string) error { return unix.Rename(p, "new") }, dir, enters | replaces},
		{"unlink", func(_ user, p string) error { return unix.Unlink(p) }, regular, enters},
		{"unlink symlink", func(_ user, p string) error { return unix.Unlink(p) }, symlink, enters},
		{"rmdir", func(_ user, p string) error { return unix.Rmdir(p) }, dir, enters},
	}
}
