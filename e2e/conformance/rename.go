package conformance

import (
	"golang.org/x/sys/unix"
)

// renameTypes: a rename moves one name of a file and nothing else.
func renameTypes(c *check) {
	c.each(kinds, func(c *check, k kind) {
		c.make(k, "n0")
		was := c.at("n0")
		c.rename("n0", "n1")
		c.gone("n0")
		c.at("n1").kind(k).mode(k.mode()).nlink(nlinkOf(k)).is(was)
		if k == dir {
			return
		}
		c.link("n1", "n0")
		for _, name := range []string{"n0", "n1"} {
			c.at(name).kind(k).nlink(2).is(was)
		}
		c.rename("n1", "n2")
		c.gone("n1")
		for _, name := range []string{"n0", "n2"} {
			c.at(name).kind(k).nlink(2).is(was)
		}
		c.rename("n0", "n2") // two names of one file: nothing happens
		for _, name := range []string{"n0", "n2"} {
			c.at(name).kind(k).nlink(2).is(was)
		}
		c.unlink("n0")
		c.at("n2").nlink(1)
	})
	c.part("symlink stays one", func(c *check) {
		c.make(regular, "file")
		c.symlink("file", "way")
		file, way := c.at("file"), c.at("way")
		c.rename("way", "new")
		c.gone("way")
		c.at("new").kind(symlink).is(way)
		c.through("new").kind(regular).is(file)
		c.make(regular, "over")
		c.rename("over", "new") // the symlink goes, not what it leads to
		c.at("new").kind(regular).isNot(file)
		c.at("file").is(file)
	})
}

// renameOver: which types replace which, and what is left.
func renameOver(c *check) {
	for _, from := range kinds {
		for _, to := range kinds {
			c.part(from.String()+" over "+to.String(), func(c *check) {
				c.make(from, "from")
				c.make(to, "to")
				source, target := c.at("from"), c.at("to")
				switch {
				case from == dir && to != dir:
					c.rename("from", "to", unix.ENOTDIR)
				case from != dir && to == dir:
					c.rename("from", "to", unix.EISDIR)
				default:
					c.rename("from", "to")
					c.gone("from")
					c.at("to").kind(from).nlink(nlinkOf(from)).is(source)
					return
				}
				c.at("from").kind(from).is(source)
				c.at("to").kind(to).is(target)
			})
		}
	}
	c.each(linkable, func(c *check, k kind) {
		c.make(k, "from")
		c.make(k, "to")
		c.link("to", "kept")
		target := c.at("to")
		c.rename("from", "to")
		c.at("kept").kind(k).nlink(1).is(target)
	})
}

// renameErrors are those that the table of calls does not have.
func renameErrors(c *check) {
	c.each(kinds, func(c *check, k kind) {
		c.make(dir, "from")
		c.make(dir, "to")
		c.make(k, "to/file")
		c.rename("from", "to", unix.EEXIST, unix.ENOTEMPTY)
		c.at("to/file").kind(k)
		c.at("from").kind(dir)
	})
	c.part("into itself", func(c *check) {
		c.make(dir, "dir")
		c.make(dir, "dir/sub")
		c.rename("dir", "dir/sub", unix.EINVAL)
		c.rename("dir", "dir/sub/new", unix.EINVAL)
		c.rename("dir", "dir/new", unix.EINVAL)
		c.rename("dir/sub", "dir", unix.ENOTEMPTY, unix.EEXIST)
	})
	c.part("dots", func(c *check) {
		c.make(dir, "dir")
		c.make(dir, "dir/sub")
		for _, p := range []string{"dir/sub/.", "dir/sub/.."} {
			c.rename(p, "new", unix.EINVAL, unix.EBUSY)
			c.rename("dir/sub", p, unix.EINVAL, unix.EBUSY)
		}
		c.gone("new")
	})
	c.part("names", func(c *check) {
		c.make(regular, "file")
		c.rename("file", "missing/new", unix.ENOENT)
		c.rename("missing/file", "new", unix.ENOENT)
		c.rename("missing", "file", unix.ENOENT)
		c.at("file").kind(regular)
	})
	for _, k := range notDirs {
		c.part("not a directory/"+k.String(), func(c *check) {
			c.make(k, "file")
			c.make(regular, "other")
			want := []error{unix.ENOTDIR}
			if k == symlink {
				want = []error{unix.ENOENT}
			}
			c.rename("file/test", "new", want...)
			c.rename("other", "file/test", want...)
			c.link("other", "file/test", want...)
		})
	}
	c.part("flags", func(c *check) {
		c.make(regular, "a")
		c.make(dir, "b")
		a, b := c.at("a"), c.at("b")
		rename := func(from, to string, flags uint, want ...error) {
			c.call("renameat2 "+from+" "+to, func() error { return unix.Renameat2(unix.AT_FDCWD, from, unix.AT_FDCWD, to, flags) }, want)
		}
		rename("a", "b", unix.RENAME_NOREPLACE, unix.EEXIST)
		rename("a", "missing", unix.RENAME_EXCHANGE, unix.ENOENT)
		rename("a", "b", unix.RENAME_EXCHANGE|unix.RENAME_NOREPLACE, unix.EINVAL)
		rename("a", "b", unix.RENAME_EXCHANGE)
		c.at("a").kind(dir).is(b).nlink(2)
		c.at("b").kind(regular).is(a).nlink(1)
		rename("b", "c", unix.RENAME_NOREPLACE)
		c.at("c").is(a)
	})
}

// renameDirectories: a directory that moves takes what is in it along, and its ".." with it; who moves it must be allowed to write it
// only where its parent changes.
func renameDirectories(c *check) {
	c.part("parents", func(c *check) {
		c.make(dir, "from")
		c.make(dir, "to")
		c.make(dir, "from/dir")
		c.make(regular, "from/dir/file")
		c.at("from").nlink(3)
		c.at("to").nlink(2)
		c.at("from/dir/..").is(c.at("from"))
		c.rename("from/dir", "to/dir")
		c.at("from").nlink(2)
		c.at("to").nlink(3)
		c.at("to/dir/..").is(c.at("to"))
		c.at("to/dir/file").kind(regular)
		c.make(dir, "from/dir")
		c.rename("from/dir", "to/empty")
		c.at("to").nlink(4)
		c.unlink("to/dir/file")
		c.rename("to/empty", "to/dir")
		c.at("to").nlink(3)
	})
	c.part("foreign directory", func(c *check) {
		c.must(unix.Mkdir("from", 0o777))
		c.must(unix.Mkdir("to", 0o777))
		c.mkdir("from/dir", 0o700)
		c.as(nobody).rename("from/dir", "from/new")
		c.as(nobody).rename("from/new", "from/dir")
		c.as(nobody).rename("from/dir", "to/dir", unix.EACCES)
		c.at("from/dir").kind(dir)
		c.make(regular, "from/file")
		c.as(nobody).rename("from/file", "to/file")
		c.at("to/file").kind(regular).of(root)
	})
	c.part("two directories", func(c *check) { // both must be writable and searchable
		for _, t := range []struct {
			from, to uint32
			want     []error
		}{{0o755, 0o755, nil}, {0o644, 0o755, []error{unix.EACCES}}, {0o755, 0o644, []error{unix.EACCES}}, {0o555, 0o755, []error{unix.EACCES}},
			{0o755, 0o555, []error{unix.EACCES}}, {0o300, 0o300, nil}} {
			for _, over := range []kind{nothing, regular} {
				c.must(unix.Mkdir("from", t.from))
				c.must(unix.Mkdir("to", t.to))
				c.must(unix.Chown("from", 65534, 65534))
				c.must(unix.Chown("to", 65534, 65534))
				c.place(nobody, regular, "from/file")
				c.place(nobody, over, "to/file")
				c.as(nobody).rename("from/file", "to/file", t.want...)
				for _, p := range []string{"from/file", "to/file", "from", "to"} {
					c.must(clear(p))
				}
			}
		}
	})
}
