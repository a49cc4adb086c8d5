package conformance

import (
	"fmt"

	"golang.org/x/sys/unix"
)

var (
	timeNow  = unix.Timespec{Nsec: unix.UTIME_NOW}
	timeOmit = unix.Timespec{Nsec: unix.UTIME_OMIT}
)

// utimensSet: times become what was asked for, to the nanosecond, before 1970 and after 2106; the other one stays, and ctime is new.
func utimensSet(c *check) {
	const nofollow = unix.AT_SYMLINK_NOFOLLOW
	c.each(kinds, func(c *check, k kind) {
		c.make(k, "file")
		was := c.remember("file")["file"]
		for _, t := range [][2]unix.Timespec{
			{{Sec: 1900000000}, {Sec: 1950000000}}, {{Sec: 200000000}, {Sec: 100000000}},
			{{Sec: 100000000, Nsec: 100000000}, {Sec: 200000000, Nsec: 200000000}},
			{{Sec: 1 << 31}, {Sec: 1 << 32}}, {{Sec: 1<<33 + 5, Nsec: 999999999}, {Sec: 7, Nsec: 1}},
			{{}, {Nsec: 1}}, {{Sec: -1, Nsec: 5}, {Sec: -1000000000}},
		} {
			c.utimens("file", t[0], t[1], nofollow)
			c.at("file").atime(t[0]).mtime(t[1]).kind(k).mode(k.mode()).is(was)
		}
		a, m := unix.Timespec{Sec: 11, Nsec: 12}, unix.Timespec{Sec: 13, Nsec: 14}
		c.utimens("file", a, m, nofollow)
		c.utimens("file", timeOmit, unix.Timespec{Sec: 15}, nofollow)
		c.at("file").atime(a).mtime(unix.Timespec{Sec: 15})
		c.utimens("file", unix.Timespec{Sec: 16}, timeOmit, nofollow)
		c.at("file").atime(unix.Timespec{Sec: 16}).mtime(unix.Timespec{Sec: 15})
		was = c.remember("file")["file"]
		c.utimens("file", timeNow, timeOmit, nofollow)
		c.at("file").marks(was, "ac")
		c.utimens("file", timeNow, timeNow, nofollow)
		v := c.at("file")
		v.expect("atime and mtime are one", v.st.Atim == v.st.Mtim, fmt.Sprint(v.st.Atim, v.st.Mtim))
		v.expect("time is of these days", v.st.Mtim.Sec-was.st.Ctim.Sec < 300, ofTime(v.st.Mtim))
		c.utimens("file", unix.Timespec{Nsec: 1_000_000_000}, m, nofollow, unix.EINVAL)
		c.utimens("file", a, unix.Timespec{Nsec: -1}, nofollow, unix.EINVAL)
	})
	c.part("symlink", func(c *check) {
		c.make(regular, "file")
		c.symlink("file", "way")
		at := func(n int64) unix.Timespec { return unix.Timespec{Sec: n * 100_000_000, Nsec: n} }
		c.utimens("file", at(1), at(2), 0)
		c.utimens("way", at(3), at(4), nofollow)
		c.at("file").atime(at(1)).mtime(at(2))
		c.at("way").atime(at(3)).mtime(at(4))
		c.utimens("way", at(5), at(6), 0)
		c.at("file").atime(at(5)).mtime(at(6))
		v := c.at("way").mtime(at(4))
		v.expect("atime is not the file's", v.st.Atim != at(5), ofTime(v.st.Atim))
	})
	c.part("open file", func(c *check) {
		c.make(regular, "file")
		c.opened("file", unix.O_RDONLY, 0, func(fd int) {
			path := fmt.Sprintf("/proc/self/fd/%d", fd)
			c.utimens(path, unix.Timespec{Sec: 1}, unix.Timespec{Sec: 2}, 0)
			c.openFile(fd).atime(unix.Timespec{Sec: 1}).mtime(unix.Timespec{Sec: 2})
		})
	})
}

// utimensPermission: the owner may set any times; who may write may set them to now.
func utimensPermission(c *check) {
	a, m := unix.Timespec{Sec: 1900000000}, unix.Timespec{Sec: 1950000000}
	sets := [][2]unix.Timespec{{timeOmit, m}, {a, timeOmit}, {a, m}, {timeNow, timeOmit}, {timeOmit, timeNow}, {a, timeNow}}
	c.each(notSymlink, func(c *check, k kind) {
		c.make(k, "file")
		c.as(nobody).utimens("file", timeNow, timeNow, 0, unix.EACCES)
		for _, s := range sets {
			c.as(nobody).utimens("file", s[0], s[1], 0, unix.EPERM)
		}
		c.as(nobody).utimens("file", timeOmit, timeOmit, 0)
		for _, way := range []struct {
			mode uint32
			user user
		}{{0o666, nobody}, {0o020, nobody.with(0)}, {0o020, nobody.in(0)}, {0o002, other}} {
			c.chmod("file", way.mode)
			c.as(way.user).utimens("file", timeNow, timeNow, 0)
			for _, s := range sets {
				c.as(way.user).utimens("file", s[0], s[1], 0, unix.EPERM)
			}
		}
		c.chmod("file", 0o444)
		c.chown("file", 65534, 65534)
		c.as(nobody).utimens("file", timeNow, timeNow, 0)
		for _, s := range sets {
			c.as(nobody).utimens("file", s[0], s[1], 0)
		}
		c.as(nobody).utimens("file", a, m, 0)
		c.at("file").atime(a).mtime(m)
		c.as(other).utimens("file", timeNow, timeNow, 0, unix.EACCES)
		c.utimens("file", m, a, 0)
		c.at("file").atime(m).mtime(a)
	})
}
