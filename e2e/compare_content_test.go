package e2e

import (
	"fmt"
	"strings"

	"golang.org/x/sys/unix"
)

// sizeAndSum is state without the segments, which depend on where blocks begin: zeros that were allocated are data here and a hole there.
func sizeAndSum(fd int) string { return strings.Split(state(fd), " data")[0] }

func (c *comparer) allocate() {
	const (
		keep   = unix.FALLOC_FL_KEEP_SIZE
		punch  = unix.FALLOC_FL_PUNCH_HOLE
		zero   = unix.FALLOC_FL_ZERO_RANGE
		shrink = unix.FALLOC_FL_COLLAPSE_RANGE
		insert = unix.FALLOC_FL_INSERT_RANGE
	)
	const mib = 1 << 20
	for _, a := range []struct {
		mode   uint32
		off, n int64
	}{
		{0, 0, 100}, {0, 0, 3 * mib}, {0, 3 * mib, 10}, {0, 3*mib + 100, 5000}, {keep, 0, 10}, {keep, 4 * mib, 4 * mib},
		{0, -1, 10}, {0, 0, 0}, {0, 10, -1}, {0, 1 << 62, 1 << 62}, {0, 1 << 45, 1}, {keep, 0, 0},
		{punch | keep, 0, 4096}, {punch | keep, 100, 5000}, {punch | keep, 10, 20}, {punch | keep, mib - 5000, 10000}, {punch | keep, 0, 64 * mib},
		{punch | keep, 64 * mib, 10}, {punch | keep, 0, 0}, {punch, 0, 10}, {punch | keep | zero, 0, 10},
		{zero, 0, 4096}, {zero, 4095, 4098}, {zero | keep, 8192, 8192}, {zero | keep, 0, 8 * mib}, {zero, 3*mib - 10, 20}, {zero, 0, 5 * mib},
		{zero | keep, 32 * mib, 10}, {shrink | keep, 0, 4096}, {shrink | insert, 0, 4096}, {0x1000, 0, 4096},
	} {
		for _, size := range []int{3 * mib, 100} {
			fd := c.file("f", pattern(size))
			err := unix.Fallocate(fd, a.mode, a.off, a.n)
			c.say(fmt.Sprintf("fallocate %#x %d %d of %d", a.mode, a.off, a.n, size), err, sizeAndSum(fd))
			if err == nil { // what is behind the end must not come back
				mustDo(unix.Ftruncate(fd, 8*mib))
				c.say("  longer", sizeAndSum(fd))
			}
			mustDo(unix.Close(fd))
		}
	}
	ro := must(unix.Open(c.in("f"), unix.O_RDONLY, 0))
	c.say("read-only", unix.Fallocate(ro, 0, 0, 1), unix.Fallocate(ro, punch|keep, 0, 1))
	c.say("of a directory", unix.Fallocate(must(unix.Open(c.dir, unix.O_RDONLY, 0)), 0, 0, 1))
	appending := must(unix.Open(c.in("f"), unix.O_WRONLY|unix.O_APPEND, 0))
	c.say("appending", unix.Fallocate(appending, 0, 0, 1), unix.Fallocate(appending, punch|keep, 0, 1))
}

func (c *comparer) copies() {
	const mib = 1 << 20
	src := c.file("src", nil)
	for _, w := range []struct{ off, n int }{{0, 5000}, {mib - 100, 200}, {2 * mib, mib}, {9*mib + 1, 70000}} {
		must(unix.Pwrite(src, pattern(w.n), int64(w.off)))
	}
	all := func(from, to int, off, toOff int64, n int) (total int, err error) {
		for n > 0 {
			k, err := unix.CopyFileRange(from, &off, to, &toOff, n, 0)
			if k <= 0 || err != nil {
				return total, err
			}
			total, n = total+k, n-k
		}
		return total, nil
	}
	for _, a := range []struct {
		off, toOff int64
		n, size    int
	}{
		{0, 0, 100, 0}, {0, 0, 20 * mib, 0}, {1, 0, 20 * mib, 100}, {0, 1, 3 * mib, 10 * mib}, {4096, 8192, 8192, 100000}, {5000, 0, mib, mib},
		{9 * mib, 100, 100000, 0}, {100 * mib, 0, 10, 10}, {0, 5 * mib, 4096, 0}, {4000, 3, 2000, 50}, {0, 0, 0, 10},
	} {
		dst := c.file("dst", pattern(a.size))
		n, err := all(src, dst, a.off, a.toOff, a.n)
		// Holes of the source may become zeros elsewhere: compare the content alone.
		c.say(fmt.Sprintf("copy %d at %d to %d of %d", a.n, a.off, a.toOff, a.size), n, err, sizeAndSum(dst))
		mustDo(unix.Close(dst))
	}
	n, err := all(src, src, 0, 20*mib, 10*mib)
	c.say("within a file", n, err, sizeAndSum(src))
	n, err = all(src, src, 0, 10, 20)
	c.say("overlapping", n, err)
	ro, wo := must(unix.Open(c.in("dst"), unix.O_RDONLY, 0)), must(unix.Open(c.in("dst"), unix.O_WRONLY, 0))
	appending := must(unix.Open(c.in("dst"), unix.O_RDWR|unix.O_APPEND, 0))
	dir := must(unix.Open(c.dir, unix.O_RDONLY, 0))
	mustDo(unix.Mkfifo(c.in("fifo"), 0o600))
	fifo := must(unix.Open(c.in("fifo"), unix.O_RDWR, 0))
	for _, p := range []struct {
		what     string
		from, to int
	}{{"to read-only", src, ro}, {"from write-only", wo, src}, {"to appending", src, appending}, {"to a directory", src, dir},
		{"from a directory", dir, src}, {"from a fifo", fifo, src}} {
		n, err := all(p.from, p.to, 0, 0, 10)
		c.say(p.what, n, err)
	}
	off := int64(0)
	_, err = unix.CopyFileRange(src, &off, wo, nil, 10, 1)
	c.say("flags", err)
	off, toOff := int64(-1), int64(0)
	_, err = unix.CopyFileRange(src, &off, wo, &toOff, 10, 0)
	c.say("negative", err)
	must(unix.Seek(wo, 3, 0))
	must(unix.Seek(src, 7, 0))
	n, err = unix.CopyFileRange(src, nil, wo, nil, 10, 0)
	c.say("positions", n, err, must(unix.Seek(src, 0, 1)), must(unix.Seek(wo, 0, 1)))
}

func (c *comparer) limits() {
	fd := c.file("f", []byte("content"))
	try := func(what string, n any, err error) { c.say(what, n, err, state(fd)) }
	for _, size := range []int64{-1, 1 << 62, 1<<63 - 1, 1 << 45, 1 << 43, 0} {
		try(fmt.Sprintf("ftruncate %d", size), nil, unix.Ftruncate(fd, size))
		try(fmt.Sprintf("truncate %d", size), nil, unix.Truncate(c.in("f"), size))
	}
	for _, off := range []int64{-1, 1 << 62, 1<<63 - 1, 1 << 45, 1 << 43} {
		n, err := unix.Pwrite(fd, []byte("end"), off)
		try(fmt.Sprintf("pwrite at %d", off), n, err)
		n, err = unix.Pread(fd, make([]byte, 10), off)
		try(fmt.Sprintf("pread at %d", off), n, err)
	}
	mustDo(unix.Ftruncate(fd, 1<<43+1))
	for _, off := range []int64{0, 10, 4096, 1 << 43, 1<<43 + 1, -1, 1<<43 + 2} {
		n, err := unix.Seek(fd, off, unix.SEEK_DATA)
		c.say(fmt.Sprintf("data from %d", off), n, err)
		n, err = unix.Seek(fd, off, unix.SEEK_HOLE)
		c.say(fmt.Sprintf("hole from %d", off), n, err)
	}
	n, err := unix.Pwrite(fd, nil, 100)
	try("write nothing", n, err)
	direct := must(unix.Open(c.in("f"), unix.O_RDWR|unix.O_DIRECT, 0))
	n, err = unix.Pread(direct, make([]byte, 0), 0)
	try("read nothing", n, err)
	for _, call := range []uint{0x1234, 0x80041272, 0xc0ffee} {
		c.say(fmt.Sprintf("ioctl %#x", call), unix.IoctlSetInt(fd, call, 0))
	}
	d := must(unix.Open(c.dir, unix.O_RDONLY, 0))
	c.say("ioctl of a directory", unix.IoctlSetInt(d, 0x1234, 0))
	c.say("whence", errOf(unix.Seek(fd, 0, 17)))
	c.say("read a directory", errOf(unix.Read(d, make([]byte, 10))))
	c.say("write read-only", errOf(unix.Write(must(unix.Open(c.in("f"), unix.O_RDONLY, 0)), []byte("x"))))
	c.say("truncate read-only", unix.Ftruncate(must(unix.Open(c.in("f"), unix.O_RDONLY, 0)), 0))
	c.say("truncate a directory", unix.Truncate(c.dir, 0))
	mustDo(unix.Mkfifo(c.in("fifo"), 0o600))
	c.say("truncate a fifo", unix.Truncate(c.in("fifo"), 0))
}

func errOf(_ any, err error) error { return err }
