package conformance

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// chmodMode: all twelve bits are taken, through symlinks, too, and nothing else changes.
func chmodMode(c *check) {
	c.each(notSymlink, func(c *check, k kind) {
		c.makeFor(nobody, k, "file")
		was := c.at("file")
		for _, mode := range []uint32{0o111, 0o222, 0o444, 0, 0o7777, 0o1621, 0o4755, 0o2755, 0o640} {
			c.chmod("file", mode)
			c.at("file").kind(k).mode(mode).of(nobody).nlink(nlinkOf(k)).is(was)
		}
		c.symlink("file", "way")
		c.chmod("way", 0o222)
		c.through("way").mode(0o222).is(was)
		c.at("file").mode(0o222)
		c.at("way").kind(symlink).mode(0o777)
		c.unlink("way")
		c.call("fchmodat 0321", func() error { return unix.Fchmodat(unix.AT_FDCWD, "file", 0o321, 0) }, nil)
		c.at("file").mode(0o321)
		if k == regular || k == dir {
			c.opened("file", unix.O_RDONLY, 0, func(fd int) {
				c.returned(unix.Fchmod(fd, 0o705), "fchmod 0705", nil)
				c.openFile(fd).mode(0o705)
			})
		}
		c.remove(k, "file")
	})
}

// chmodOwner: the owner may, by any way to the file, and nobody else but root.
func chmodOwner(c *check) {
	c.each(notSymlink, func(c *check, k kind) {
		c.must(unix.Chmod(".", 0o777))
		c.makeFor(nobody, k, "file")
		c.as(nobody).chmod("file", 0o642)
		c.at("file").mode(0o642)
		c.as(nobody.with(65533)).chmod("file", 0o421)
		c.at("file").mode(0o421)
		for _, u := range []user{other, other.with(65534), other.in(65534)} {
			c.as(u).chmod("file", 0o641, unix.EPERM)
			c.at("file").mode(0o421)
		}
		c.as(nobody).symlink("file", "way")
		c.as(nobody).chmod("way", 0o602)
		c.at("file").mode(0o602).of(nobody)
		c.as(other).chmod("way", 0o641, unix.EPERM)
		c.chown("way", 0, 0)
		c.as(nobody).chmod("way", 0o641, unix.EPERM)
		c.as(nobody).chmod("file", 0o641, unix.EPERM)
		c.at("file").mode(0o602).owner(0, 0)
		c.at("way").of(nobody)
	})
}

// chmodSticky: on Linux the sticky bit may be set on any file by its owner.
func chmodSticky(c *check) {
	c.each(notSymlink, func(c *check, k kind) {
		c.makeFor(nobody, k, "file")
		c.symlink("file", "way")
		for _, a := range []actor{c.actor, c.as(nobody)} {
			a.chmod("file", 0o1621)
			c.at("file").mode(0o1621)
			a.chmod("way", 0o1700)
			c.at("file").mode(0o1700)
		}
	})
}

// chmodSetID: the set-group-ID bit goes when a user sets it on a file of a group that is not the user's; and both bits go when
// somebody without privileges writes or truncates the file.
func chmodSetID(c *check) {
	c.each(notSymlink, func(c *check, k kind) {
		c.makeFor(nobody, k, "file")
		for _, t := range []struct {
			user user
			want uint32
		}{{nobody, 0o6755}, {nobody.with(65533), 0o4755}, {nobody.with(65533).in(65534), 0o6755}, {root, 0o6755}} {
			c.must(unix.Chmod("file", 0o755))
			c.as(t.user).chmod("file", 0o6755)
			c.at("file").mode(t.want)
		}
	})
	changes := []struct {
		name string
		do   func(fd int) error
	}{
		{"write", func(fd int) error { _, err := unix.Write(fd, []byte("x")); return err }},
		{"pwrite", func(fd int) error { _, err := unix.Pwrite(fd, []byte("x"), 9999); return err }},
		{"ftruncate", func(fd int) error { return unix.Ftruncate(fd, 5) }},
		{"fallocate", func(fd int) error { return unix.Fallocate(fd, 0, 0, 20000) }},
		{"fallocate PUNCH_HOLE", func(fd int) error {
			return unix.Fallocate(fd, unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, 0, 2)
		}},
		{"fallocate ZERO_RANGE", func(fd int) error { return unix.Fallocate(fd, unix.FALLOC_FL_ZERO_RANGE, 0, 8192) }},
	}
	for _, t := range []struct{ mode, want uint32 }{{0o4777, 0o777}, {0o2777, 0o777}, {0o6777, 0o777}, {0o6767, 0o2767}, {0o7777, 0o1777}} {
		for _, u := range []user{nobody, other, other.in(65534)} {
			for _, ch := range changes {
				c.part(fmt.Sprintf("%s %04o by %v", ch.name, t.mode, u), func(c *check) {
					c.makeFor(nobody, regular, "file")
					c.chmod("file", t.mode)
					a := c.as(u)
					fd := -1
					a.call("open", func() (err error) {
						fd, err = unix.Open("file", unix.O_RDWR|unix.O_CLOEXEC, 0)
						return err
					}, nil)
					a.call(ch.name, func() error { return ch.do(fd) }, nil)
					want := t.want
					if t.want == 0o2767 && !inGroup(u, 65534) { // without execution by the group the bit is no set-ID bit, but outsiders lose it
						want = 0o767
					}
					c.openFile(fd).mode(want)
					c.at("file").mode(want)
					c.must(unix.Close(fd))
				})
			}
		}
	}
	c.part("root", func(c *check) {
		c.make(regular, "file")
		c.chmod("file", 0o6777)
		c.must(appendByte("file"))
		c.opened("file", unix.O_WRONLY, 0, func(fd int) { c.returned(unix.Fallocate(fd, 0, 0, 9000), "fallocate", nil) })
		c.truncate("file", 0)
		c.at("file").mode(0o6777)
	})
	c.part("read", func(c *check) {
		c.make(regular, "file")
		c.chmod("file", 0o6777)
		c.as(nobody).open("file", unix.O_RDWR, 0)
		c.at("file").mode(0o6777)
	})
	c.part("open O_TRUNC", func(c *check) {
		c.make(regular, "file")
		c.must(appendByte("file"))
		c.chmod("file", 0o6777)
		c.as(nobody).open("file", unix.O_WRONLY|unix.O_TRUNC, 0)
		c.at("file").mode(0o777).size(0)
	})
	c.part("truncate", func(c *check) {
		c.make(regular, "file")
		c.chmod("file", 0o6777)
		c.as(nobody).truncate("file", 10)
		c.at("file").mode(0o777).size(10)
	})
}

func inGroup(u user, gid uint32) bool {
	for _, g := range u.list() {
		if g == gid {
			return true
		}
	}
	return u.gid == gid
}
