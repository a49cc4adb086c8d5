package conformance

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// view is what lstat or stat shows. Its methods are expectations; all of them fail if there is nothing to see.
type view struct {
	c    *check
	what string
	st   unix.Stat_t
	err  error
}

// at looks at a name itself.
func (c *check) at(path string) *view {
	v := &view{c: c, what: "lstat " + short(path)}
	v.err = unix.Lstat(path, &v.st)
	return v.cached(unix.AT_FDCWD, path, unix.AT_SYMLINK_NOFOLLOW)
}

// through looks at what a name leads to.
func (c *check) through(path string) *view {
	v := &view{c: c, what: "stat " + short(path)}
	v.err = unix.Stat(path, &v.st)
	return v.cached(unix.AT_FDCWD, path, 0)
}

// openFile looks at an open file.
func (c *check) openFile(fd int) *view {
	v := &view{c: c, what: "fstat"}
	v.err = unix.Fstat(fd, &v.st)
	return v.cached(fd, "", unix.AT_EMPTY_PATH)
}

// cached expects that what the kernel showed, and may have had in its cache, is what the file system itself says.
func (v *view) cached(fd int, path string, flags int) *view {
	if v.err != nil {
		return v
	}
	var s unix.Statx_t
	v.c.must(unix.Statx(fd, path, flags|unix.AT_STATX_FORCE_SYNC, unix.STATX_BASIC_STATS, &s))
	at := func(t unix.StatxTimestamp) unix.Timespec { return unix.Timespec{Sec: t.Sec, Nsec: int64(t.Nsec)} }
	is := v.st // with what only write-back changes: blocks
	is.Ino, is.Mode, is.Uid, is.Gid, is.Size = s.Ino, uint32(s.Mode), s.Uid, s.Gid, int64(s.Size)
	is.Rdev, is.Atim, is.Mtim, is.Ctim = unix.Mkdev(s.Rdev_major, s.Rdev_minor), at(s.Atime), at(s.Mtime), at(s.Ctime)
	ok := is == v.st && uint64(s.Nlink) == uint64(v.st.Nlink)
	v.c.result(ok, v.what+" is not outdated", fmt.Sprintf("%+v, and is %+v with %d links", v.st, is, s.Nlink))
	return v
}

func (v *view) expect(what string, ok bool, got string) *view {
	if v.err != nil {
		ok, got = false, "got "+name(v.err)
	}
	v.c.result(ok, v.what+" "+what, got)
	return v
}

func (v *view) kind(k kind) *view {
	is := kind(v.st.Mode & unix.S_IFMT)
	return v.expect("is a "+k.String(), is == k, "is a "+is.String())
}

// mode is any of those given.
func (v *view) mode(want ...uint32) *view {
	var ok bool
	var names []string
	for _, m := range want {
		ok = ok || v.st.Mode&modeBits == m
		names = append(names, fmt.Sprintf("%04o", m))
	}
	return v.expect("mode "+strings.Join(names, " or "), ok, fmt.Sprintf("got %04o", v.st.Mode&modeBits))
}

func (v *view) owner(uid, gid uint32) *view {
	return v.expect(fmt.Sprintf("owner %d:%d", uid, gid), v.st.Uid == uid && v.st.Gid == gid, fmt.Sprintf("got %d:%d", v.st.Uid, v.st.Gid))
}

func (v *view) of(u user) *view { return v.owner(u.uid, u.gid) }

func (v *view) nlink(n uint64) *view {
	return v.expect(fmt.Sprintf("nlink %d", n), uint64(v.st.Nlink) == n, fmt.Sprintf("got %d", v.st.Nlink))
}

func (v *view) size(n int64) *view {
	return v.expect(fmt.Sprintf("size %d", n), v.st.Size == n, fmt.Sprintf("got %d", v.st.Size))
}

func (v *view) device(dev uint64) *view {
	return v.expect(fmt.Sprintf("device %#x", dev), v.st.Rdev == dev, fmt.Sprintf("got %#x", v.st.Rdev))
}

// is compares inode numbers.
func (v *view) is(w *view) *view {
	return v.expect("is the inode of "+w.what, w.err == nil && v.st.Ino == w.st.Ino, fmt.Sprintf("got %d, not %d", v.st.Ino, w.st.Ino))
}

// isNot compares inode numbers.
func (v *view) isNot(w *view) *view {
	return v.expect("is not the inode of "+w.what, v.st.Ino != w.st.Ino, "it is")
}

func (v *view) atime(t unix.Timespec) *view { return v.time("atime", v.st.Atim, t) }
func (v *view) mtime(t unix.Timespec) *view { return v.time("mtime", v.st.Mtim, t) }

func (v *view) time(which string, is, want unix.Timespec) *view {
	return v.expect(which+" "+ofTime(want), is == want, "got "+ofTime(is))
}

// gone expects that the name is free.
func (c *check) gone(path string) {
	var st unix.Stat_t
	c.returned(unix.Lstat(path, &st), "lstat "+short(path), []error{unix.ENOENT})
}

// remember looks at files and returns when the clock of the slowest file system has moved on, so that a later change shows.
func (c *check) remember(paths ...string) map[string]*view {
	seen := map[string]*view{}
	for _, p := range paths {
		seen[p] = c.at(p)
		c.must(seen[p].err)
	}
	c.tick()
	return seen
}

// tick waits until the kernel's coarse clock is past the time of the call. Where the kernel has no finer ones, ext4 takes its times
// from it, and it lags behind the fine clock by up to two ticks.
func (c *check) tick() {
	clock := func(id int32) int64 {
		var t unix.Timespec
		c.must(unix.ClockGettime(id, &t))
		return t.Nano()
	}
	for now := clock(unix.CLOCK_REALTIME); clock(unix.CLOCK_REALTIME_COARSE) <= now && c.broken == nil; {
		time.Sleep(200 * time.Microsecond)
	}
}

// marks expects that of the three times of a file just those in which have changed since then, and that they have grown: "mc" is
// modification and status change, "" none of them.
func (v *view) marks(then *view, which string) *view {
	for _, t := range []struct {
		letter, name string
		was, is      unix.Timespec
	}{{"a", "atime", then.st.Atim, v.st.Atim}, {"m", "mtime", then.st.Mtim, v.st.Mtim}, {"c", "ctime", then.st.Ctim, v.st.Ctim}} {
		got := fmt.Sprintf("was %s, is %s", ofTime(t.was), ofTime(t.is))
		if strings.Contains(which, t.letter) {
			v.expect(t.name+" is marked", t.was.Nano() < t.is.Nano(), got)
		} else {
			v.expect(t.name+" stays", t.was == t.is, got)
		}
	}
	return v
}

// fresh expects that all three times of a new file are later than the ctime of its directory before it was made.
func (v *view) fresh(then *view) *view {
	for _, t := range []struct {
		name string
		is   unix.Timespec
	}{{"atime", v.st.Atim}, {"mtime", v.st.Mtim}, {"ctime", v.st.Ctim}} {
		v.expect(t.name+" is new", then.st.Ctim.Nano() < t.is.Nano(), fmt.Sprintf("was %s, is %s", ofTime(then.st.Ctim), ofTime(t.is)))
	}
	return v
}

// appendByte writes a byte at the end of a file.
func appendByte(path string) error {
	fd, err := unix.Open(path, unix.O_WRONLY|unix.O_APPEND|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	_, err = unix.Write(fd, []byte("x"))
	return errors.Join(err, unix.Close(fd))
}
