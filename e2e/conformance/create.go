package conformance

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// maker makes a new file of a type with a mode.
type maker struct {
	name string
	kind kind
	make func(path string, mode uint32) error
}

func makers() []maker {
	mknod := func(k kind, dev uint64) func(string, uint32) error {
		return func(p string, mode uint32) error { return unix.Mknod(p, uint32(k)|mode, int(dev)) }
	}
	return []maker{
		{"open", regular, func(p string, mode uint32) error { return opens(unix.O_CREAT|unix.O_WRONLY, mode)(root, p) }},
		{"open O_EXCL", regular, func(p string, mode uint32) error { return opens(unix.O_CREAT|unix.O_EXCL|unix.O_RDONLY, mode)(root, p) }},
		{"mkdir", dir, unix.Mkdir},
		{"mkfifo", fifo, unix.Mkfifo},
		{"mknod regular", regular, mknod(regular, 0)},
		{"mknod fifo", fifo, mknod(fifo, 0)},
		{"mknod socket", socket, mknod(socket, 0)},
		{"mknod block", block, mknod(block, device)},
		{"mknod char", char, mknod(char, device)},
	}
}

// createMode: the mode of a new file is the one of the call without the bits of the umask.
func createMode(c *check) {
	for _, m := range makers() {
		c.part(m.name, func(c *check) {
			for _, t := range []struct{ mode, mask uint32 }{{0o755, 0}, {0o151, 0}, {0o151, 0o077}, {0o345, 0o070}, {0o345, 0o501},
				{0o777, 0o777}, {0, 0}, {0o640, 0o022}} {
				c.umask(int(t.mask), func() {
					c.call(fmt.Sprintf("%s %04o with umask %03o", m.name, t.mode, t.mask), func() error { return m.make("new", t.mode) }, nil)
				})
				c.at("new").kind(m.kind).mode(t.mode &^ t.mask).nlink(nlinkOf(m.kind))
				c.remove(m.kind, "new")
				c.gone("new")
			}
		})
	}
	c.part("open for what the mode forbids", func(c *check) { // the mode counts from the next open on
		for _, flags := range []int{unix.O_RDONLY, unix.O_WRONLY, unix.O_RDWR} {
			c.must(unix.Chmod(".", 0o777))
			c.as(nobody).open("new", unix.O_CREAT|flags, 0)
			c.at("new").kind(regular).mode(0)
			c.as(nobody).open("new", flags, 0, unix.EACCES)
			c.unlink("new")
		}
	})
}

func nlinkOf(k kind) uint64 {
	if k == dir {
		return 2
	}
	return 1
}

// createOwner: a new file belongs to its maker, and to the maker's group or, in a set-group-ID directory, to the directory's.
func createOwner(c *check) {
	all := append(makers(), maker{"symlink", symlink, func(p string, _ uint32) error { return unix.Symlink("test", p) }},
		maker{"bind", socket, func(p string, _ uint32) error { return bindSocket(p) }})
	for _, m := range all {
		c.part(m.name, func(c *check) {
			c.must(unix.Mkdir("dir", 0o777))
			c.must(unix.Chown("dir", 65534, 65534))
			for _, u := range []user{root, nobody, nobody.with(65533), other.with(65532), other.in(65534)} {
				for _, mode := range []uint32{0o777, 0o2777} {
					if u != root && (m.kind == block || m.kind == char) {
						continue
					}
					c.must(unix.Chmod("dir", mode))
					c.as(u).call(fmt.Sprintf("%s in %04o", m.name, mode), func() error { return m.make("dir/new", 0o755) }, nil)
					owner := u
					if mode == 0o2777 {
						owner = u.with(65534)
					}
					v := c.at("dir/new").of(owner)
					if m.kind == dir {
						v.mode(0o755 | mode&0o2000)
					}
					c.remove(m.kind, "dir/new")
				}
			}
		})
	}
}

// createTimes: all times of a new file are new, and its directory's mtime and ctime.
func createTimes(c *check) {
	for _, m := range makers() {
		c.part(m.name, func(c *check) {
			was := c.remember(".")["."]
			c.call(m.name, func() error { return m.make("new", 0o644) }, nil)
			c.at("new").fresh(was)
			c.at(".").marks(was, "mc")
		})
	}
	c.part("symlink", func(c *check) {
		was := c.remember(".")["."]
		c.symlink("test", "new")
		c.at("new").fresh(was).kind(symlink).mode(0o777).size(4).nlink(1)
		c.at(".").marks(was, "mc")
	})
	c.part("bind", func(c *check) {
		was := c.remember(".")["."]
		c.make(socket, "new")
		c.at("new").fresh(was).kind(socket).mode(0o644).nlink(1)
		c.at(".").marks(was, "mc")
	})
	c.part("open of a file that exists", func(c *check) {
		c.make(regular, "file")
		was := c.remember(".", "file")
		c.open("file", unix.O_CREAT|unix.O_RDONLY, 0o600)
		c.at(".").marks(was["."], "")
		c.at("file").marks(was["file"], "").mode(0o644)
	})
}

// createExists: EEXIST for a name that is taken by a file of any type; the file stays as it is.
func createExists(c *check) {
	c.each(kinds, func(c *check, k kind) {
		c.make(k, "taken")
		c.place(root, regular, "partner")
		was := c.remember("taken", ".")
		for _, call := range calls() {
			if call.is(exclusive) {
				call.at(c.actor, "taken", unix.EEXIST)
			}
		}
		c.at("taken").kind(k).is(was["taken"]).marks(was["taken"], "")
		c.at(".").marks(was["."], "")
		c.open("taken", unix.O_CREAT|unix.O_EXCL|unix.O_RDWR, 0o644, unix.EEXIST)
		c.remove(k, "taken")
	})
	c.part("names that are always there", func(c *check) {
		c.must(unix.Mkdir("dir", 0o755))
		for _, p := range []string{".", "..", "dir/.", "dir/..", "/"} {
			c.mkdir(p, 0o755, unix.EEXIST)
			c.mknod(p, unix.S_IFIFO|0o644, 0, unix.EEXIST)
			c.symlink("test", p, unix.EEXIST)
		}
	})
}

// createDevice: device numbers are kept, and are 0 elsewhere; only root makes devices.
func createDevice(c *check) {
	for _, k := range []kind{block, char} {
		c.part(k.String(), func(c *check) {
			for _, dev := range []uint64{unix.Mkdev(1, 2), unix.Mkdev(0, 0), unix.Mkdev(255, 255), unix.Mkdev(8, 300)} {
				c.mknod("new", uint32(k)|0o755, dev)
				c.at("new").kind(k).mode(0o755).device(dev).size(0)
				c.mknod("new", uint32(k)|0o777, unix.Mkdev(3, 4), unix.EEXIST)
				c.unlink("new")
			}
			c.must(unix.Chmod(".", 0o777))
			c.as(nobody).mknod("new", uint32(k)|0o644, device, unix.EPERM)
			c.gone("new")
		})
		c.part("largest numbers/"+k.String(), func(c *check) {
			largest := unix.Mkdev(4095, 1<<20-1)
			c.mknod("new", uint32(k)|0o755, largest)
			c.at("new").kind(k).device(largest)
		})
	}
	c.part("no device", func(c *check) {
		for _, k := range []kind{regular, fifo, socket} {
			c.mknod("new", uint32(k)|0o600, device)
			c.at("new").kind(k).mode(0o600).device(0)
			c.unlink("new")
		}
		c.mknod("new", unix.S_IFDIR|0o755, 0, unix.EPERM)
		c.mknod("new", unix.S_IFLNK|0o755, 0, unix.EINVAL)
		c.mknod("new", 0o755, 0)
		c.at("new").kind(regular).mode(0o755)
	})
}
