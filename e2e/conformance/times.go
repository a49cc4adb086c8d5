package conformance

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// effect is a call that succeeds and which times it marks: those of the file, of the directory "from" that it is in, and of the
// directory "to" that it goes to. It may leave the file under another name.
type effect struct {
	name           string
	do             func() error
	file, from, to string
	left           string // where the file is then; empty: "from/file"
	kinds          []kind
}

func effects() []effect {
	one := func(k kind) []kind { return []kind{k} }
	open := func(flags int, use func(fd int) error) func() error {
		return func() error {
			fd, err := unix.Open("from/file", flags|unix.O_CLOEXEC, 0)
			if err != nil {
				return err
			}
			defer unix.Close(fd)
			return use(fd)
		}
	}
	now := []unix.Timespec{{Nsec: unix.UTIME_NOW}, {Nsec: unix.UTIME_NOW}}
	var onlyM, onlyA, none [2]unix.Timespec
	onlyM[0].Nsec, onlyM[1].Nsec = unix.UTIME_OMIT, unix.UTIME_NOW
	onlyA[0].Nsec, onlyA[1].Nsec = unix.UTIME_NOW, unix.UTIME_OMIT
	none[0].Nsec, none[1].Nsec = unix.UTIME_OMIT, unix.UTIME_OMIT
	times := func(ts []unix.Timespec) func() error {
		return func() error { return unix.UtimesNanoAt(unix.AT_FDCWD, "from/file", ts, unix.AT_SYMLINK_NOFOLLOW) }
	}
	const punch = unix.FALLOC_FL_PUNCH_HOLE | unix.FALLOC_FL_KEEP_SIZE
	allocate := func(mode uint32, off, n int64) func() error {
		return open(unix.O_WRONLY, func(fd int) error { return unix.Fallocate(fd, mode, off, n) })
	}
	size := func(n int64) func() error { return func() error { return unix.Truncate("from/file", n) } }
	return []effect{
		{"chmod", func() error { return unix.Chmod("from/file", 0o111) }, "c", "", "", "", notSymlink},
		{"chmod to what it is", func() error { return unix.Chmod("from/file", 0o644) }, "c", "", "", "", notSymlink},
		{"chown", func() error { return unix.Chown("from/file", 1, 2) }, "c", "", "", "", notSymlink},
		{"chown of the group", func() error { return unix.Chown("from/file", -1, 2) }, "c", "", "", "", notSymlink},
		{"lchown", func() error { return unix.Lchown("from/file", 1, 2) }, "c", "", "", "", kinds},
		{"lchown of nothing", func() error { return unix.Lchown("from/file", -1, -1) }, "", "", "", "", kinds},
		{"utimensat now", times(now), "amc", "", "", "", kinds},
		{"utimensat mtime", times(onlyM[:]), "mc", "", "", "", kinds},
		{"utimensat atime", times(onlyA[:]), "ac", "", "", "", kinds},
		{"utimensat of nothing", times(none[:]), "", "", "", "", kinds},
		{"link", func() error { return unix.Link("from/file", "to/new") }, "c", "", "mc", "", notSymlink[:1]},
		{"link of any type", func() error { return unix.Link("from/file", "to/new") }, "c", "", "mc", "", linkable},
		{"rename", func() error { return unix.Rename("from/file", "to/new") }, "c", "mc", "mc", "to/new", kinds},
		{"rename in place", func() error { return unix.Rename("from/file", "from/new") }, "c", "mc", "", "from/new", kinds},
		{"rename to itself", func() error { return unix.Rename("from/file", "from/file") }, "", "", "", "", kinds},
		{"stat", func() error { return unix.Lstat("from/file", new(unix.Stat_t)) }, "", "", "", "", kinds},
		{"truncate to more", size(5000), "mc", "", "", "", one(regular)},
		{"truncate to less", size(1), "mc", "", "", "", one(regular)},
		{"truncate to nothing", size(0), "mc", "", "", "", one(regular)},
		{"open O_TRUNC", open(unix.O_WRONLY|unix.O_TRUNC, func(int) error { return nil }), "mc", "", "", "", one(regular)},
		{"open", open(unix.O_RDWR, func(int) error { return nil }), "", "", "", "", one(regular)},
		{"ftruncate", open(unix.O_WRONLY, func(fd int) error { return unix.Ftruncate(fd, 3) }), "mc", "", "", "", one(regular)},
		{"write", open(unix.O_WRONLY, func(fd int) error { _, err := unix.Write(fd, []byte("x")); return err }), "mc", "", "", "", one(regular)},
		{"write of nothing", open(unix.O_WRONLY, func(fd int) error { _, err := unix.Write(fd, nil); return err }), "", "", "", "", one(regular)},
		{"read", open(unix.O_RDONLY, func(fd int) error { _, err := unix.Read(fd, make([]byte, 9)); return err }), "a", "", "", "", one(regular)},
		{"fallocate", allocate(0, 0, 9000), "mc", "", "", "", one(regular)},
		{"fallocate of what is there", allocate(0, 0, 3), "mc", "", "", "", one(regular)},
		{"fallocate KEEP_SIZE", allocate(unix.FALLOC_FL_KEEP_SIZE, 4096, 4096), "mc", "", "", "", one(regular)},
		{"fallocate PUNCH_HOLE", allocate(punch, 1, 3), "mc", "", "", "", one(regular)},
		{"fallocate PUNCH_HOLE beyond the end", allocate(punch, 4096, 4096), "mc", "", "", "", one(regular)},
		{"fallocate ZERO_RANGE", allocate(unix.FALLOC_FL_ZERO_RANGE, 3, 9000), "mc", "", "", "", one(regular)},
		{"setxattr", func() error { return unix.Setxattr("from/file", "user.a", []byte("b"), 0) }, "c", "", "", "", []kind{regular, dir}},
		{"create in it", func() error { return makeFile(regular, "from/file/new") }, "mc", "", "", "", one(dir)},
		{"readlink", func() error { _, err := unix.Readlink("from/file", make([]byte, 9)); return err }, "a", "", "", "", one(symlink)},
	}
}

// timesSuccess: a call that succeeds marks just the times that it should.
func timesSuccess(c *check) {
	for _, e := range effects() {
		for _, k := range e.kinds {
			c.part(e.name+"/"+k.String(), func(c *check) {
				c.must(unix.Mkdir("from", 0o755))
				c.must(unix.Mkdir("to", 0o755))
				c.place(root, k, "from/file")
				if k == regular {
					c.must(writeFile("from/file", []byte("content")))
				}
				was := c.remember("from/file", "from", "to")
				c.call(e.name, e.do, nil)
				left := e.left
				if left == "" {
					left = "from/file"
				}
				c.at(left).marks(was["from/file"], e.file)
				c.at("from").marks(was["from"], e.from)
				c.at("to").marks(was["to"], e.to)
			})
		}
	}
	c.each(kinds, timesOfRemoval)
	c.each(linkable, timesOfOverwriting)
}

// timesOfRemoval: removing a name marks its directory, and the ctime of a file that has another name.
func timesOfRemoval(c *check, k kind) {
	c.must(unix.Mkdir("from", 0o755))
	c.place(root, k, "from/file")
	names := []string{"from"}
	if k != dir {
		c.must(unix.Link("from/file", "name"))
		names = append(names, "name")
	}
	was := c.remember(names...)
	c.remove(k, "from/file")
	c.at("from").marks(was["from"], "mc").nlink(2)
	if k != dir {
		c.at("name").marks(was["name"], "c").nlink(1)
	}
}

// timesOfOverwriting: a file that loses a name to a rename is marked.
func timesOfOverwriting(c *check, k kind) {
	c.place(root, k, "from")
	c.place(root, k, "to")
	c.must(unix.Link("to", "name"))
	was := c.remember("name", "from", ".")
	c.rename("from", "to")
	c.at("name").kind(k).nlink(1).marks(was["name"], "c")
	c.at("to").is(was["from"]).marks(was["from"], "c")
	c.at(".").marks(was["."], "mc")
}

// timesFailure: a call that fails marks nothing.
func timesFailure(c *check) {
	c.each(kinds, func(c *check, k kind) {
		c.make(k, "file")
		c.place(root, dir, "empty")
		was := c.remember("file", ".", "empty")
		a := c.as(nobody)
		if k != symlink {
			a.chmod("file", 0o111, unix.EPERM)
			a.chown("file", 65534, -1, unix.EPERM)
			a.chown("file", 65534, 65534, unix.EPERM)
			a.truncate("file", 123, truncateWant(k, unix.EACCES)...)
			a.utimens("file", unix.Timespec{Nsec: unix.UTIME_NOW}, unix.Timespec{Nsec: unix.UTIME_NOW}, 0, unix.EACCES)
		}
		a.lchown("file", 65534, -1, unix.EPERM)
		a.lchown("file", -1, 65534, unix.EPERM)
		a.rename("file", "new", unix.EACCES)
		a.remove(k, "file", unix.EACCES)
		if k != dir {
			c.link("file", "empty", unix.EEXIST)
			c.rename("file", "empty", unix.EISDIR)
			c.rename("empty", "file", unix.ENOTDIR)
			a.link("file", "new", unix.EACCES, unix.EPERM)
		}
		c.at("file").kind(k).is(was["file"]).marks(was["file"], "")
		c.at("empty").marks(was["empty"], "")
		c.at(".").marks(was["."], "")
	})
	c.part("open file", func(c *check) {
		c.make(regular, "file")
		was := c.remember("file")
		c.as(nobody).opened("file", unix.O_RDONLY, 0, func(fd int) {
			c.returned(unix.Ftruncate(fd, 123), "ftruncate of a file open for reading", []error{unix.EINVAL})
			c.returned(unix.Fallocate(fd, 0, 0, 123), "fallocate of a file open for reading", []error{unix.EBADF})
			_, err := unix.Write(fd, []byte("x"))
			c.returned(err, "write to a file open for reading", []error{unix.EBADF})
		})
		c.opened("file", unix.O_WRONLY, 0, func(fd int) {
			c.returned(unix.Ftruncate(fd, -1), "ftruncate -1", []error{unix.EINVAL})
			c.returned(unix.Fallocate(fd, 0, 0, 0), "fallocate 0 0", []error{unix.EINVAL})
			_, err := unix.Read(fd, make([]byte, 1))
			c.returned(err, "read from a file open for writing", []error{unix.EBADF})
		})
		c.at("file").size(0).marks(was["file"], "")
	})
}

func writeFile(path string, b []byte) error {
	fd, err := unix.Open(path, unix.O_WRONLY|unix.O_CREAT|unix.O_CLOEXEC, 0o644)
	if err != nil {
		return err
	}
	n, err := unix.Write(fd, b)
	if err == nil && n != len(b) {
		err = fmt.Errorf("%d of %d bytes written", n, len(b))
	}
	if closeErr := unix.Close(fd); err == nil {
		err = closeErr
	}
	return err
}
