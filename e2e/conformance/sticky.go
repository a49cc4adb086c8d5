package conformance

import (
	"golang.org/x/sys/unix"
)

// ownership is who owns a sticky directory and the file in it, and whether "nobody" may take the file's name away: the owner of
// either may.
type ownership struct {
	dir, file user
	allowed   bool
}

func ownerships() []ownership {
	var all []ownership
	for _, d := range []user{root, nobody, other} {
		for _, f := range []user{root, nobody, other} {
			all = append(all, ownership{d, f, d == nobody || f == nobody})
		}
	}
	return all
}

func (o ownership) String() string {
	return "dir of " + o.dir.String() + ", file of " + o.file.String()
}

// want is what a call returns that takes the name away.
func (o ownership) want() []error {
	if o.allowed {
		return nil
	}
	return []error{unix.EPERM, unix.EACCES}
}

// stickyDir makes a directory that everybody may write, with the sticky bit or without.
func (c *check) stickyDir(name string, owner user, mode uint32) {
	c.must(unix.Mkdir(name, 0o755))
	c.must(unix.Chmod(name, mode))
	c.must(unix.Lchown(name, int(owner.uid), int(owner.gid)))
}

// stickyRemove: unlink and rmdir in a sticky directory.
func stickyRemove(c *check) {
	c.each(kinds, func(c *check, k kind) {
		for _, o := range ownerships() {
			c.part(o.String(), func(c *check) {
				c.stickyDir("sticky", o.dir, 0o1777)
				c.makeFor(o.file, k, "sticky/file")
				c.at("sticky/file").kind(k).of(o.file)
				c.as(nobody).remove(k, "sticky/file", o.want()...)
				if o.allowed {
					c.gone("sticky/file")
					return
				}
				c.at("sticky/file").kind(k).of(o.file)
				c.as(nobody.in(o.file.gid, o.dir.gid)).remove(k, "sticky/file", o.want()...) // groups do not count
				c.remove(k, "sticky/file")                                                   // root may
				c.gone("sticky/file")
			})
		}
		c.part("without the bit", func(c *check) {
			c.stickyDir("dir", root, 0o777)
			c.makeFor(root, k, "dir/file")
			c.as(nobody).remove(k, "dir/file")
		})
	})
}

// stickyRenameOut: a rename out of a sticky directory, onto nothing and onto files of each type.
func stickyRenameOut(c *check) {
	for _, from := range notDirs {
		for _, o := range ownerships() {
			c.part(from.String()+", "+o.String(), func(c *check) {
				c.stickyDir("sticky", o.dir, 0o1777)
				c.stickyDir("plain", nobody, 0o755)
				c.makeFor(o.file, from, "sticky/file")
				was := c.at("sticky/file")
				for _, to := range append([]kind{nothing}, notDirs...) {
					c.makeFor(nobody, to, "plain/file")
					c.as(nobody).rename("sticky/file", "plain/file", o.want()...)
					if o.allowed {
						c.gone("sticky/file")
						c.at("plain/file").kind(from).of(o.file).is(was)
						c.as(nobody).rename("plain/file", "sticky/file")
						c.at("sticky/file").is(was)
						c.gone("plain/file")
						continue
					}
					c.at("sticky/file").kind(from).of(o.file).is(was)
					if to != nothing {
						c.at("plain/file").kind(to).of(nobody)
						c.unlink("plain/file")
					}
				}
				c.as(nobody).rename("sticky/file", "sticky/new", o.want()...)
			})
		}
	}
}

// stickyRenameOver: a rename onto a file in a sticky directory takes that file's name away.
func stickyRenameOver(c *check) {
	for _, from := range notDirs {
		for _, o := range ownerships() {
			c.part(from.String()+", "+o.String(), func(c *check) {
				c.stickyDir("sticky", o.dir, 0o1777)
				c.stickyDir("plain", nobody, 0o755)
				c.makeFor(nobody, from, "plain/file")
				was := c.at("plain/file")
				for _, to := range notDirs {
					c.makeFor(o.file, to, "sticky/file")
					c.as(nobody).rename("plain/file", "sticky/file", o.want()...)
					if o.allowed {
						c.gone("plain/file")
						c.at("sticky/file").kind(from).of(nobody).is(was)
						c.as(nobody).rename("sticky/file", "plain/file")
						c.at("plain/file").is(was)
						c.gone("sticky/file")
						continue
					}
					c.at("plain/file").kind(from).is(was)
					c.at("sticky/file").kind(to).of(o.file)
					c.unlink("sticky/file")
				}
			})
		}
	}
}

// stickyDirectories: the same for directories; moving one to another parent needs the permission to write it, too.
func stickyDirectories(c *check) {
	for _, o := range ownerships() {
		c.part("out, "+o.String(), func(c *check) {
			c.stickyDir("sticky", o.dir, 0o1777)
			c.stickyDir("plain", nobody, 0o755)
			c.makeFor(o.file, dir, "sticky/dir")
			was := c.at("sticky/dir")
			want := o.want()
			if o.file != nobody {
				want = []error{unix.EACCES, unix.EPERM}
			}
			for _, to := range []kind{nothing, dir} {
				c.makeFor(nobody, to, "plain/dir")
				c.as(nobody).rename("sticky/dir", "plain/dir", want...)
				if want == nil {
					c.gone("sticky/dir")
					c.at("plain/dir").of(o.file).is(was)
					c.rename("plain/dir", "sticky/dir")
				} else {
					c.at("sticky/dir").kind(dir).of(o.file).is(was)
				}
			}
			for _, to := range []kind{nothing, dir} {
				c.makeFor(nobody, to, "sticky/new")
				c.as(nobody).rename("sticky/dir", "sticky/new", o.want()...)
				if o.allowed {
					c.gone("sticky/dir")
					c.at("sticky/new").of(o.file).is(was)
					c.rename("sticky/new", "sticky/dir")
				} else {
					c.at("sticky/dir").of(o.file).is(was)
				}
			}
		})
		c.part("over, "+o.String(), func(c *check) {
			c.stickyDir("sticky", o.dir, 0o1777)
			c.stickyDir("plain", nobody, 0o755)
			c.makeFor(nobody, dir, "plain/dir")
			was := c.at("plain/dir")
			c.makeFor(o.file, dir, "sticky/dir")
			c.as(nobody).rename("plain/dir", "sticky/dir", o.want()...)
			if o.allowed {
				c.gone("plain/dir")
				c.at("sticky/dir").of(nobody).is(was)
			} else {
				c.at("plain/dir").is(was)
				c.at("sticky/dir").kind(dir).of(o.file)
			}
		})
	}
}
