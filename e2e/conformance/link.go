package conformance

import (
	"fmt"
	"strconv"

	"golang.org/x/sys/unix"
)

// linkCount: all names of a file show the same file, and how many they are.
func linkCount(c *check) {
	c.each(append([]kind{symlink}, linkable...), func(c *check, k kind) {
		names := []string{"n0", "n1", "n2"}
		c.make(k, "n0")
		c.at("n0").kind(k).nlink(1)
		was := c.at("n0")
		for n := 1; n < len(names); n++ {
			c.link(names[n-1], names[n])
			for _, name := range names[:n+1] {
				c.at(name).kind(k).nlink(uint64(n + 1)).is(was)
			}
		}
		mode := k.mode()
		if k != symlink {
			mode = 0o201
			c.chmod("n1", mode)
		}
		c.lchown("n1", 65534, 65533)
		for n, name := range names {
			for _, left := range names[n:] {
				c.at(left).kind(k).mode(mode).nlink(uint64(len(names)-n)).owner(65534, 65533).is(was)
			}
			c.unlink(name)
			c.gone(name)
		}
	})
}

// linkErrors are those that the table of calls does not have.
func linkErrors(c *check) {
	c.part("missing", func(c *check) {
		c.make(regular, "file")
		c.link("file", "new")
		c.unlink("file")
		c.unlink("new")
		c.link("file", "new", unix.ENOENT)
		c.link("dir/file", "new", unix.ENOENT)
	})
	c.part("directory", func(c *check) {
		c.make(dir, "dir")
		c.link("dir", "new", unix.EPERM)
		c.chown("dir", 65534, 65534)
		c.chmod(".", 0o777)
		c.as(nobody).link("dir", "new", unix.EPERM)
		c.as(nobody).link("dir", "dir/new", unix.EPERM)
		c.gone("new")
		c.at("dir").nlink(2)
	})
	c.each(linkable, func(c *check, k kind) {
		c.makeFor(nobody, k, "file")
		c.make(dir, "dir")
		for _, mode := range []uint32{0o755, 0o555, 0o644} {
			c.chmod("dir", mode)
			c.as(nobody).link("file", "dir/new", unix.EACCES)
		}
		c.chown("dir", 65534, 65534)
		c.chmod("dir", 0o755)
		c.as(nobody).link("file", "dir/new")
		c.at("file").nlink(2)
		c.as(nobody).link("file", "dir/new", unix.EEXIST)
		c.as(nobody).unlink("dir/new")
		c.at("file").nlink(1)
	})
	c.part("symlink", func(c *check) { // link(2) of Linux takes the symlink itself
		c.make(regular, "file")
		c.symlink("file", "way")
		c.link("way", "new")
		c.at("new").kind(symlink).nlink(2).is(c.at("way"))
		c.call("linkat AT_SYMLINK_FOLLOW", func() error {
			return unix.Linkat(unix.AT_FDCWD, "way", unix.AT_FDCWD, "new2", unix.AT_SYMLINK_FOLLOW)
		}, nil)
		c.at("new2").kind(regular).nlink(2).is(c.at("file"))
	})
}

// linkMost: EMLINK beyond 65,000 names.
func linkMost(c *check) {
	const most = 65000
	c.make(regular, "file")
	for n := 1; n < most; n++ {
		if err := unix.Link("file", strconv.Itoa(n)); err != nil {
			c.result(false, "65,000 links", fmt.Sprintf("link %d: %v", n, err))
			return
		}
	}
	c.at("file").nlink(most)
	c.link("file", "new", unix.EMLINK)
	c.gone("new")
	c.unlink("1")
	c.link("file", "new")
	c.at("new").nlink(most)
}

// symlinkTarget: a symlink holds its target as it was given, and lstat shows its length.
func symlinkTarget(c *check) {
	c.make(regular, "file")
	c.symlink("file", "way")
	c.at("way").kind(symlink).size(4).mode(0o777).nlink(1)
	c.through("way").kind(regular).mode(0o644).is(c.at("file"))
	c.unlink("file")
	var st unix.Stat_t
	c.returned(unix.Stat("way", &st), "stat of a dangling symlink", []error{unix.ENOENT})
	c.unlink("way")
	for _, n := range []int{1, 59, 60, 255, 256, 1000, 4095} {
		c.part(fmt.Sprintf("%d bytes", n), func(c *check) {
			target := fmt.Sprintf("%0*d", n, 7)
			c.symlink(target, "way")
			c.at("way").size(int64(n))
			b := make([]byte, 5000)
			got, err := unix.Readlink("way", b)
			c.result(err == nil && string(b[:max(got, 0)]) == target, "readlink", fmt.Sprintf("%d bytes, %v", got, err))
		})
	}
	c.symlink(fmt.Sprintf("%04096d", 7), "way", unix.ENAMETOOLONG)
	c.symlink("", "way", unix.ENOENT)
	c.gone("way")
	c.each(append([]kind{nothing}, notSymlink...), func(c *check, k kind) {
		if k != nothing {
			c.make(k, "file")
		}
		_, err := unix.Readlink("file", make([]byte, 9))
		want := unix.EINVAL
		if k == nothing {
			want = unix.ENOENT
		}
		c.returned(err, "readlink of no symlink", []error{want})
	})
}
