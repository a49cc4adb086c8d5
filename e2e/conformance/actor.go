package conformance

import (
	"fmt"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// user is whom the kernel takes a caller for.
type user struct {
	uid, gid uint32
	groups   string // supplementary ones, one character each; see (user).list
}

// The users of the checks. None of them needs to be in /etc/passwd.
var (
	root   = user{}
	nobody = user{uid: 65534, gid: 65534}
	other  = user{uid: 65533, gid: 65533}
)

// in returns the user as a member of more groups.
func (u user) in(groups ...uint32) user {
	for _, g := range groups {
		u.groups += string(rune(g))
	}
	return u
}

// with returns the user with another first group.
func (u user) with(gid uint32) user { u.gid = gid; return u }

func (u user) list() []uint32 {
	var all []uint32
	for _, g := range u.groups {
		all = append(all, uint32(g))
	}
	return all
}

func (u user) String() string {
	s := fmt.Sprintf("%d:%d", u.uid, u.gid)
	for _, g := range u.groups {
		s += fmt.Sprintf(",%d", g)
	}
	return s
}

// become changes the effective IDs of this thread alone; the real and saved ones stay root's, for the way back. The kernel checks
// permissions with the effective ones, and takes the effective capabilities away while the user ID is not 0. (The functions of
// package syscall would change all threads.)
func (s *suite) become(u user) {
	if s.user == u {
		return
	}
	const keep = ^uintptr(0)
	ids := func(trap, id uintptr) {
		if _, _, errno := syscall.RawSyscall(trap, keep, id, keep); errno != 0 {
			panic(fmt.Sprintf("become %v: %v", u, errno))
		}
	}
	ids(unix.SYS_SETRESUID, 0)
	groups := append(u.list(), 0)
	_, _, errno := syscall.RawSyscall(unix.SYS_SETGROUPS, uintptr(len(groups)-1), uintptr(unsafe.Pointer(&groups[0])), 0)
	if errno != 0 {
		panic(fmt.Sprintf("become %v: %v", u, errno))
	}
	ids(unix.SYS_SETRESGID, uintptr(u.gid))
	ids(unix.SYS_SETRESUID, uintptr(u.uid))
	s.user = u
}

// actor makes calls as a user. Each method is one call and one expectation: without want the call must succeed, otherwise it must
// return one of want.
type actor struct {
	check *check
	user  user
}

// do makes calls as the user, without any expectation.
func (a actor) do(f func() error) error {
	s := a.check.suite
	s.become(a.user)
	err := f()
	s.become(root)
	return err
}

// call is an expectation of what f returns.
func (a actor) call(what string, f func() error, want []error) {
	if a.user != root {
		what += " as " + a.user.String()
	}
	a.check.returned(a.do(f), what, want)
}

// umask sets the mask of modes for the calls in f.
func (a actor) umask(mask int, f func()) {
	unix.Umask(mask)
	f()
	unix.Umask(0)
}

func (a actor) chmod(path string, mode uint32, want ...error) {
	a.call(fmt.Sprintf("chmod %s %04o", short(path), mode), func() error { return unix.Chmod(path, mode) }, want)
}

func (a actor) chown(path string, uid, gid int, want ...error) {
	a.call(fmt.Sprintf("chown %s %d %d", short(path), uid, gid), func() error { return unix.Chown(path, uid, gid) }, want)
}

func (a actor) lchown(path string, uid, gid int, want ...error) {
	a.call(fmt.Sprintf("lchown %s %d %d", short(path), uid, gid), func() error { return unix.Lchown(path, uid, gid) }, want)
}

func (a actor) mkdir(path string, mode uint32, want ...error) {
	a.call(fmt.Sprintf("mkdir %s %04o", short(path), mode), func() error { return unix.Mkdir(path, mode) }, want)
}

func (a actor) mknod(path string, mode uint32, dev uint64, want ...error) {
	a.call(fmt.Sprintf("mknod %s %06o %#x", short(path), mode, dev), func() error { return unix.Mknod(path, mode, int(dev)) }, want)
}

func (a actor) symlink(target, path string, want ...error) {
	a.call(fmt.Sprintf("symlink %s %s", short(target), short(path)), func() error { return unix.Symlink(target, path) }, want)
}

func (a actor) link(old, path string, want ...error) {
	a.call(fmt.Sprintf("link %s %s", short(old), short(path)), func() error { return unix.Link(old, path) }, want)
}

func (a actor) rename(old, path string, want ...error) {
	a.call(fmt.Sprintf("rename %s %s", short(old), short(path)), func() error { return unix.Rename(old, path) }, want)
}

func (a actor) unlink(path string, want ...error) {
	a.call("unlink "+short(path), func() error { return unix.Unlink(path) }, want)
}

func (a actor) rmdir(path string, want ...error) {
	a.call("rmdir "+short(path), func() error { return unix.Rmdir(path) }, want)
}

func (a actor) truncate(path string, size int64, want ...error) {
	a.call(fmt.Sprintf("truncate %s %d", short(path), size), func() error { return unix.Truncate(path, size) }, want)
}

func (a actor) utimens(path string, atime, mtime unix.Timespec, flags int, want ...error) {
	what := fmt.Sprintf("utimensat %s %s %s flags %#x", short(path), ofTime(atime), ofTime(mtime), flags)
	a.call(what, func() error { return unix.UtimesNanoAt(unix.AT_FDCWD, path, []unix.Timespec{atime, mtime}, flags) }, want)
}

// open opens and closes a file.
func (a actor) open(path string, flags int, mode uint32, want ...error) {
	a.opened(path, flags, mode, func(int) {}, want...)
}

// opened opens a file and gives the descriptor to use, which acts for itself.
func (a actor) opened(path string, flags int, mode uint32, use func(fd int), want ...error) {
	fd := -1
	a.call(fmt.Sprintf("open %s %s %04o", short(path), openFlags(flags), mode), func() (err error) {
		fd, err = unix.Open(path, flags|unix.O_CLOEXEC, mode)
		return err
	}, want)
	if fd >= 0 {
		use(fd)
		a.check.must(unix.Close(fd))
	}
}

// short keeps what people read short.
func short(path string) string {
	if len(path) > 40 {
		return fmt.Sprintf("<%d bytes>", len(path))
	}
	return path
}

func openFlags(flags int) string {
	s := [...]string{"O_RDONLY", "O_WRONLY", "O_RDWR", "O_RDWR|O_WRONLY"}[flags&unix.O_ACCMODE]
	for _, f := range []struct {
		bit  int
		name string
	}{{unix.O_CREAT, "O_CREAT"}, {unix.O_EXCL, "O_EXCL"}, {unix.O_TRUNC, "O_TRUNC"}, {unix.O_APPEND, "O_APPEND"},
		{unix.O_NONBLOCK, "O_NONBLOCK"}, {unix.O_NOFOLLOW, "O_NOFOLLOW"}, {unix.O_DIRECTORY, "O_DIRECTORY"}} {
		if flags&f.bit != 0 {
			s += "|" + f.name
		}
	}
	return s
}

func ofTime(t unix.Timespec) string {
	switch t.Nsec {
	case unix.UTIME_NOW:
		return "now"
	case unix.UTIME_OMIT:
		return "omit"
	}
	return fmt.Sprintf("%d.%09d", t.Sec, t.Nsec)
}
