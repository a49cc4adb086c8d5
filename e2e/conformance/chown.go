package conformance

import (
	"golang.org/x/sys/unix"
)

// chownRoot: root gives a file to anybody; chown follows symlinks and lchown does not.
func chownRoot(c *check) {
	c.each(kinds, func(c *check, k kind) {
		c.make(k, "file")
		was := c.at("file")
		for _, to := range []user{{uid: 123, gid: 456}, {}, nobody, {uid: 1 << 31, gid: 1<<32 - 2}} {
			c.lchown("file", int(to.uid), int(to.gid))
			c.at("file").kind(k).of(to).is(was)
		}
		c.lchown("file", 7, -1)
		c.at("file").owner(7, 1<<32-2)
		c.lchown("file", -1, 8)
		c.at("file").owner(7, 8)
		if k == symlink {
			return
		}
		c.symlink("file", "way")
		c.chown("way", 123, 456)
		c.through("way").owner(123, 456)
		c.at("file").owner(123, 456)
		c.at("way").owner(0, 0)
		c.lchown("way", 65534, 65533)
		c.at("way").owner(65534, 65533)
		c.at("file").owner(123, 456)
		c.chown("file", 0, 0)
		c.at("file").owner(0, 0)
	})
}

// chownGroup: the owner may give a file to each group that the owner is in.
func chownGroup(c *check) {
	member := nobody.with(65532).in(65531)
	c.each(kinds, func(c *check, k kind) {
		for _, call := range []struct {
			name string
			do   func(a actor, uid, gid int, want ...error)
		}{
			{"chown", func(a actor, uid, gid int, want ...error) { a.chown("file", uid, gid, want...) }},
			{"lchown", func(a actor, uid, gid int, want ...error) { a.lchown("file", uid, gid, want...) }},
			{"chown by symlink", func(a actor, uid, gid int, want ...error) { a.chown("way", uid, gid, want...) }},
		} {
			if k == symlink && call.name != "lchown" {
				continue
			}
			c.part(call.name, func(c *check) {
				c.makeFor(nobody.with(65533), k, "file")
				c.symlink("file", "way")
				was := c.remember("file")["file"]
				call.do(c.as(member), -1, 65532)
				c.at("file").owner(65534, 65532).marks(was, "c")
				was = c.remember("file")["file"]
				call.do(c.as(member), 65534, 65531)
				c.at("file").owner(65534, 65531).marks(was, "c")
				call.do(c.as(member), 65534, -1)
				call.do(c.as(member), -1, 65533, unix.EPERM)
				call.do(c.as(member), 65533, 65531, unix.EPERM)
				call.do(c.as(nobody), -1, 65532, unix.EPERM)
				call.do(c.as(member), 0, -1, unix.EPERM)
				c.at("file").owner(65534, 65531)
				if call.name != "chown by symlink" {
					c.at("way").owner(0, 0)
				}
			})
		}
	})
}

// chownNothing: with -1 for both IDs anybody may call it, and nothing changes.
func chownNothing(c *check) {
	c.each(kinds, func(c *check, k kind) {
		c.make(k, "file")
		for _, a := range []actor{c.actor, c.as(nobody), c.as(other.in(65530))} {
			a.lchown("file", -1, -1)
			c.at("file").owner(0, 0)
			if k != symlink {
				a.chown("file", -1, -1)
				c.symlink("file", "way")
				a.chown("way", -1, -1)
				c.at("file").owner(0, 0).mode(k.mode())
				c.at("way").owner(0, 0)
				c.unlink("way")
			}
		}
	})
}

// chownForeign: EPERM for whoever is not the owner, and for an owner who gives the file away.
func chownForeign(c *check) {
	c.each(kinds, func(c *check, k kind) {
		c.makeFor(nobody, k, "file")
		c.as(root).symlink("file", "way")
		c.lchown("way", 65534, 65534)
		for _, t := range []struct {
			user     user
			uid, gid int
		}{{nobody, 65533, 65533}, {other, 65534, 65534}, {other, 65533, 65533}, {nobody, -1, 65533}, {nobody, 0, -1}, {nobody, -1, 0},
			{other, -1, 65533}, {other, 65533, -1}, {other.in(65534), -1, 65534}, {other.with(65534), -1, 65534}, {nobody, 65534, 65533}} {
			a := c.as(t.user)
			a.lchown("file", t.uid, t.gid, unix.EPERM)
			if k != symlink {
				a.chown("file", t.uid, t.gid, unix.EPERM)
				a.chown("way", t.uid, t.gid, unix.EPERM)
			}
			c.at("file").of(nobody)
			c.at("way").of(nobody)
		}
	})
}

// chownSetID: a chown takes the set-user-ID and set-group-ID bits away; when root does it, or nothing changes, they may stay.
func chownSetID(c *check) {
	owner := nobody.with(65533)
	member := owner.in(65532)
	c.each(notSymlink, func(c *check, k kind) {
		ways := []string{"file", "way"}
		c.makeFor(owner, k, "file")
		c.symlink("file", "way")
		bits := func() {
			c.chmod("file", 0o6555)
			c.at("file").mode(0o6555)
		}
		for _, way := range ways {
			bits()
			c.chown(way, 65532, 65531)
			c.at("file").mode(0o6555, 0o555).owner(65532, 65531)
			c.chown(way, 0, 0)
			c.at("file").mode(0o6555, 0o555).owner(0, 0)
			c.chown(way, 65534, 65533)
			bits()
			c.as(member).chown(way, 65534, 65532)
			c.at("file").mode(0o555).owner(65534, 65532)
			bits()
			c.as(member).chown(way, -1, 65533)
			c.at("file").mode(0o555).owner(65534, 65533)
			bits()
			c.as(member).chown(way, -1, -1)
			c.at("file").mode(0o6555, 0o555).owner(65534, 65533)
		}
		bits()
		c.as(member).lchown("file", 65534, 65532)
		c.at("file").mode(0o555).owner(65534, 65532)
		bits()
		c.as(member).lchown("file", -1, 65533)
		c.at("file").mode(0o555).owner(65534, 65533)
		bits()
		c.as(member).lchown("file", -1, -1)
		c.at("file").mode(0o6555, 0o555).owner(65534, 65533)
		c.chmod("file", 0o2745) // not executable by the group: no set-group-ID bit, but one of mandatory locking
		c.as(member).chown("file", -1, 65532)
		c.at("file").mode(0o2745, 0o745)
	})
}
