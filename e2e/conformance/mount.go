package conformance

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// clone is the directory of the check as a mount of its own, which no name leads to: it goes with its descriptor.
func (c *check) clone(readOnly bool) (fd int) {
	fd, err := unix.OpenTree(unix.AT_FDCWD, ".", unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	if err == nil && readOnly {
		err = unix.MountSetattr(fd, "", unix.AT_EMPTY_PATH, &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY})
	}
	c.must(err)
	return fd
}

// mountReadOnly: EROFS from every call that changes something, and from no other.
func mountReadOnly(c *check) {
	for _, call := range calls() {
		c.part(call.name, func(c *check) {
			call.prepare(c, root, "file")
			was := c.remember(".")["."]
			fd := c.clone(true)
			c.must(unix.Fchdir(fd))
			if call.is(readsOnly) {
				call.at(c.actor, "file")
			} else {
				call.at(c.actor, "file", unix.EROFS)
			}
			c.must(unix.Chdir(c.dir))
			c.must(unix.Close(fd))
			c.at(".").marks(was, "")
			if call.on == nothing {
				c.gone("file")
			} else {
				c.at("file").kind(call.on).mode(call.on.mode())
			}
			c.gone("new")
			call.at(c.actor, "file") // where it may be written the same call succeeds
		})
	}
	c.part("exists", func(c *check) { // what needs no change is no error
		c.make(regular, "file")
		c.make(dir, "dir")
		fd := c.clone(true)
		c.must(unix.Fchdir(fd))
		c.open("file", unix.O_CREAT|unix.O_RDONLY, 0o644)
		c.open("file", unix.O_CREAT|unix.O_WRONLY, 0o644, unix.EROFS)
		c.open("file", unix.O_CREAT|unix.O_EXCL|unix.O_WRONLY, 0o644, unix.EEXIST)
		c.mkdir("dir", 0o755, unix.EEXIST)
		c.unlink("missing", unix.ENOENT, unix.EROFS)
		c.must(unix.Chdir(c.dir))
		c.must(unix.Close(fd))
	})
}

// mountOtherDevice: EXDEV for a link or rename to another file system, or to another mount of this one.
func mountOtherDevice(c *check) {
	c.each(kinds, func(c *check, k kind) {
		c.make(k, "file")
		c.must(unix.Mkdir("dir", 0o755))
		fd := c.clone(false)
		try := func(where string) {
			want := []error{unix.EXDEV}
			c.call("rename to "+where, func() error { return unix.Renameat(unix.AT_FDCWD, "file", fd, "new") }, want)
			c.call("rename from "+where, func() error { return unix.Renameat(fd, "file", unix.AT_FDCWD, "new") }, want)
			c.call("link to "+where, func() error { return unix.Linkat(unix.AT_FDCWD, "file", fd, "new", 0) }, want)
			c.call("link from "+where, func() error { return unix.Linkat(fd, "file", unix.AT_FDCWD, "new", 0) }, want)
			c.at("file").kind(k)
			c.gone("new")
		}
		try("another mount")
		c.must(unix.Close(fd))
		c.withTmpfs("dir", func() {
			var err error
			fd, err = unix.Open("dir", unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
			c.must(err)
			c.must(makeFile(k, "dir/file"))
			try("another file system")
			c.must(unix.Close(fd))
		})
	})
}

// withTmpfs mounts another file system at a directory.
func (c *check) withTmpfs(at string, use func()) {
	if err := unix.Mount("tmpfs", at, "tmpfs", 0, "size=1m"); err != nil {
		c.must(fmt.Errorf("mount a tmpfs: %w", err))
		return
	}
	use()
	if err := unix.Unmount(at, 0); err != nil {
		c.must(errors.Join(err, unix.Unmount(at, unix.MNT_DETACH)))
	}
}

// mountBusy: EBUSY when something is mounted on what is to go.
func mountBusy(c *check) {
	c.make(dir, "dir")
	c.make(dir, "empty")
	c.withTmpfs("dir", func() {
		c.rmdir("dir", unix.EBUSY)
		c.rename("dir", "new", unix.EBUSY)
		c.rename("empty", "dir", unix.EBUSY)
	})
	c.at("dir").kind(dir)
	c.rmdir("dir")
}
