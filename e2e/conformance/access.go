package conformance

import "golang.org/x/sys/unix"

// class is how a user meets a file or directory: as its owner, by a group, or as none of these.
type class struct {
	name  string
	user  user
	file  user   // who owns the file
	shift uint32 // of the three bits that count
}

func classes() []class {
	return []class{
		{"owner", nobody, nobody, 6},
		{"owner, not of its group", nobody, nobody.with(65533), 6},
		{"group", other.with(65532), nobody.with(65532), 3},
		{"supplementary group", other.in(65531, 65532), nobody.with(65532), 3},
		{"others", other, nobody, 0},
		{"others in groups", other.in(65531), nobody, 0},
	}
}

// mode gives the class the bits and all others the opposite ones.
func (cl class) mode(bits uint32) uint32 {
	return 0o777&^(7<<cl.shift) | bits<<cl.shift
}

// only gives the class the bits and nobody else any.
func (cl class) only(bits uint32) uint32 { return bits << cl.shift }

// accessDirectory: who may not search a directory gets EACCES from every call in it; who may not write it, from those that change its
// names. What others may does not count.
func accessDirectory(c *check) {
	const w, x = 2, 1
	for _, cl := range classes() {
		c.part(cl.name, func(c *check) {
			c.chmod(".", 0o777)
			c.must(unix.Mkdir("dir", 0o777))
			c.must(unix.Chown("dir", int(cl.file.uid), int(cl.file.gid)))
			try := func(call call, a actor, mode uint32, want ...error) {
				call.prepare(c, a.user, "dir/f")
				c.must(unix.Chmod("dir", mode))
				call.at(a, "dir/f", want...)
				c.must(unix.Chmod("dir", 0o777))
				for _, left := range []string{"dir/f", "new", "partner"} {
					c.must(clear(left))
				}
			}
			for _, call := range calls() {
				var allowed, noWrite []error
				if call.is(privilege) {
					allowed = []error{unix.EPERM}
				}
				if noWrite = allowed; call.is(enters) {
					noWrite = []error{unix.EACCES}
				}
				user := c.as(cl.user)
				try(call, user, cl.mode(7&^x), unix.EACCES)
				try(call, user, cl.mode(7&^w), noWrite...)
				try(call, user, cl.mode(0), unix.EACCES)
				try(call, user, cl.only(w|x), allowed...)
				if cl.shift == 6 {
					try(call, c.actor, 0)
				}
			}
		})
	}
}

// clear removes what a call has left, of any type.
func clear(path string) error {
	err := unix.Unlink(path)
	if err == unix.EISDIR {
		err = unix.Rmdir(path)
	}
	if err == unix.ENOENT {
		err = nil
	}
	return err
}

// accessFile: the nine bits of a file's mode decide how it may be opened, for each class alone.
func accessFile(c *check) {
	const r, w = 4, 2
	flags := []struct{ flags, need int }{{unix.O_RDONLY, r}, {unix.O_WRONLY, w}, {unix.O_RDWR, r | w}, {unix.O_RDONLY | unix.O_TRUNC, r | w}}
	for _, k := range []kind{regular, dir, fifo} {
		for _, cl := range classes() {
			c.part(k.String()+" as "+cl.name, func(c *check) {
				c.makeFor(cl.file, k, "file")
				for bits := range uint32(8) {
					for _, mode := range []uint32{cl.mode(bits), cl.only(bits)} {
						c.chmod("file", mode)
						for _, f := range flags {
							want := openWant(k, f.flags, f.need, int(bits))
							c.as(cl.user).open("file", f.flags|unix.O_NONBLOCK, 0, want...)
						}
						if k == regular {
							var want []error
							if bits&w == 0 {
								want = []error{unix.EACCES}
							}
							c.as(cl.user).truncate("file", 0, want...)
						}
					}
				}
				c.at("file").kind(k).of(cl.file)
			})
		}
	}
}

// openWant is what open returns for a file that grants bits. O_NONBLOCK is set: without a reader a fifo has none to write to.
func openWant(k kind, flags, need, bits int) []error {
	switch {
	case k == dir && flags != unix.O_RDONLY:
		return []error{unix.EISDIR}
	case k == fifo && flags == unix.O_RDONLY|unix.O_TRUNC && need&bits == need:
		return nil
	case need&bits != need:
		return []error{unix.EACCES}
	case k == fifo && flags == unix.O_WRONLY:
		return []error{unix.ENXIO}
	}
	return nil
}

// accessForeign: what only the owner may do, others may not, whatever the mode allows them; what changes content needs the write bit.
func accessForeign(c *check) {
	then := unix.Timespec{Sec: 1_000_000_000}
	c.each(notSymlink, func(c *check, k kind) {
		for _, owner := range []user{root, nobody} {
			c.makeFor(owner, k, "file")
			for _, mode := range []uint32{0o644, 0o666, 0o777} {
				c.must(unix.Chmod("file", mode))
				a := c.as(other.in(65531))
				a.chmod("file", 0o640, unix.EPERM)
				a.chown("file", 65533, -1, unix.EPERM)
				a.chown("file", -1, 65531, unix.EPERM)
				a.lchown("file", 65533, 65533, unix.EPERM)
				a.utimens("file", then, then, 0, unix.EPERM)
				if mode == 0o644 {
					a.truncate("file", 5, truncateWant(k, unix.EACCES)...)
				}
				c.at("file").mode(mode).of(owner)
			}
			c.remove(k, "file")
		}
	})
}

// truncateWant: only a regular file can be truncated by its name; the type of a directory is looked at before its mode.
func truncateWant(k kind, err ...error) []error {
	switch k {
	case regular:
		return err
	case dir:
		return []error{unix.EISDIR}
	}
	return []error{unix.EINVAL}
}
