package conformance

import (
	"golang.org/x/sys/unix"
)

// unlinkTypes: unlink removes names of everything but directories.
func unlinkTypes(c *check) {
	c.each(notDirs, func(c *check, k kind) {
		c.make(k, "file")
		c.unlink("file")
		c.gone("file")
		c.unlink("file", unix.ENOENT)
		c.make(k, "file")
		c.rmdir("file", unix.ENOTDIR)
		c.call("unlink file/", func() error { return unix.Unlink("file/") }, []error{unix.ENOTDIR, unix.ENOENT})
		c.at("file").kind(k)
	})
	c.part("dir", func(c *check) {
		c.make(dir, "dir")
		c.unlink("dir", unix.EPERM)
		c.as(nobody).unlink("dir", unix.EPERM, unix.EACCES)
		c.at("dir").kind(dir)
		c.rmdir("dir")
	})
	c.part("symlink to a directory", func(c *check) {
		c.make(dir, "dir")
		c.symlink("dir", "way")
		c.rmdir("way", unix.ENOTDIR)
		c.unlink("way")
		c.at("dir").kind(dir)
	})
}

// rmdirTypes: rmdir removes empty directories.
func rmdirTypes(c *check) {
	c.each(kinds, func(c *check, k kind) {
		c.make(dir, "dir")
		c.make(k, "dir/file")
		c.rmdir("dir", unix.ENOTEMPTY, unix.EEXIST)
		c.at("dir").kind(dir)
		c.at("dir/file").kind(k)
		c.remove(k, "dir/file")
		c.rmdir("dir")
		c.gone("dir")
		c.rmdir("dir", unix.ENOENT)
	})
	c.part("dots", func(c *check) {
		c.make(dir, "dir")
		c.make(dir, "dir/dir")
		c.rmdir("dir/dir/.", unix.EINVAL)
		c.rmdir("dir/dir/..", unix.ENOTEMPTY, unix.EEXIST)
		c.rmdir(".", unix.EINVAL)
		c.rmdir("/", unix.EBUSY)
	})
	c.part("links", func(c *check) {
		c.make(dir, "dir")
		for n, name := range []string{"a", "b", "c"} {
			c.at("dir").nlink(uint64(2 + n))
			c.make(dir, "dir/"+name)
		}
		c.make(regular, "dir/file")
		c.at("dir").nlink(5)
		for n, name := range []string{"c", "a", "b"} {
			c.rmdir("dir/" + name)
			c.at("dir").nlink(uint64(4 - n))
		}
	})
	c.part("working directory", func(c *check) {
		c.make(dir, "dir")
		c.must(unix.Chdir("dir"))
		c.rmdir("../dir")
		c.mkdir("new", 0o755, unix.ENOENT)
		c.open("new", unix.O_CREAT|unix.O_WRONLY, 0o644, unix.ENOENT)
		c.at(".").kind(dir).nlink(0)
		c.must(unix.Chdir(c.dir))
	})
}
