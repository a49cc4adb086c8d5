package conformance

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// resizes are the ways to change a file's size.
func resizes() []struct {
	name string
	do   func(path string, size int64) error
} {
	open := func(flags int) func(path string, size int64) error {
		return func(path string, size int64) error {
			fd, err := unix.Open(path, flags|unix.O_CLOEXEC, 0)
			if err != nil {
				return err
			}
			defer unix.Close(fd)
			return unix.Ftruncate(fd, size)
		}
	}
	return []struct {
		name string
		do   func(path string, size int64) error
	}{{"truncate", unix.Truncate}, {"ftruncate O_RDWR", open(unix.O_RDWR)}, {"ftruncate O_WRONLY", open(unix.O_WRONLY)}}
}

// truncateSize: the size becomes what was asked for, zeroes come, and what is left stays.
func truncateSize(c *check) {
	for _, r := range resizes() {
		c.part(r.name, func(c *check) {
			content := make([]byte, 12345)
			for n := range content {
				content[n] = byte(n%251 + 1)
			}
			for _, begin := range [][]byte{nil, content, content[:100]} {
				c.must(writeFile("file", begin))
				for _, size := range []int64{1234567, 567, 23456, 4096, 8192, 1, 0, 2048, 2049, 1 << 33} {
					c.call(fmt.Sprintf("%s %d", r.name, size), func() error { return r.do("file", size) }, nil)
					c.at("file").size(size)
					c.contentIs("file", begin, size)
					if int64(len(begin)) > size {
						begin = begin[:size]
					}
				}
				c.unlink("file")
			}
		})
	}
}

// contentIs reads the beginning of a file: it has what is given, and zeroes up to its size.
func (c *check) contentIs(path string, want []byte, size int64) {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	c.must(err)
	b := make([]byte, min(size, 32<<10))
	n, err := unix.Pread(fd, b, 0)
	c.must(err)
	c.must(unix.Close(fd))
	ok := n == len(b)
	for i, got := range b[:max(n, 0)] {
		var w byte
		if i < len(want) {
			w = want[i]
		}
		ok = ok && got == w
	}
	what := fmt.Sprintf("content of %d bytes, then zeroes up to %d", min(int64(len(want)), size), size)
	c.result(ok, what, fmt.Sprintf("%d bytes, or others", n))
}

// truncateErrors: who may, of what, and how far.
func truncateErrors(c *check) {
	for _, r := range resizes() {
		c.part(r.name, func(c *check) {
			to := func(a actor, path string, size int64, want ...error) {
				a.call(fmt.Sprintf("%s %s %d", r.name, path, size), func() error { return r.do(path, size) }, want)
			}
			c.make(regular, "file")
			to(c.actor, "file", -1, unix.EINVAL)
			to(c.actor, "file", -999999, unix.EINVAL)
			c.at("file").size(0)
			for _, size := range []int64{999_999_999_999_999, 1<<63 - 1} {
				to(c.actor, "file", size, nil, unix.EFBIG, unix.EINVAL)
				if v := c.at("file"); v.st.Size != 0 {
					v.size(size)
					to(c.actor, "file", 0)
				}
			}
			to(c.as(nobody), "file", 123, unix.EACCES)
			c.chown("file", 65534, 65534)
			c.chmod("file", 0o444)
			to(c.as(nobody), "file", 123, unix.EACCES)
			c.chmod("file", 0o200)
			if r.name == "ftruncate O_RDWR" {
				to(c.as(nobody), "file", 123, unix.EACCES)
				c.chmod("file", 0o600)
			}
			to(c.as(nobody), "file", 123)
			c.at("file").size(123)
			c.make(dir, "dir")
			to(c.actor, "dir", 123, unix.EISDIR)
		})
	}
	c.each([]kind{fifo, block, char, socket}, func(c *check, k kind) {
		c.make(k, "file")
		c.truncate("file", 123, unix.EINVAL)
	})
}

// truncateOpen: how a file was opened counts, and not the mode that it was given then.
func truncateOpen(c *check) {
	c.must(unix.Chmod(".", 0o777))
	for _, u := range []user{root, nobody} {
		c.as(u).opened("file", unix.O_CREAT|unix.O_RDWR, 0, func(fd int) {
			c.returned(unix.Ftruncate(fd, 77), "ftruncate of a file of mode 0", nil)
			c.openFile(fd).size(77).mode(0)
			c.returned(unix.Fallocate(fd, 0, 0, 99), "fallocate of a file of mode 0", nil)
			c.openFile(fd).size(99)
		})
		c.unlink("file")
	}
	c.make(regular, "file")
	c.opened("file", unix.O_RDONLY, 0, func(fd int) {
		c.returned(unix.Ftruncate(fd, 5), "ftruncate of a file open for reading", []error{unix.EINVAL})
		c.openFile(fd).size(0)
	})
	c.opened("file", unix.O_WRONLY, 0, func(fd int) {
		c.unlink("file")
		c.returned(unix.Ftruncate(fd, 5), "ftruncate of a file without a name", nil)
		c.openFile(fd).size(5).nlink(0)
	})
}

// fallocateSize: posix_fallocate makes a file as long as needed and never shorter, and keeps what is in it.
func fallocateSize(c *check) {
	for _, t := range []struct {
		begin       int
		offset, len int64
		want        int64
	}{{0, 0, 567, 567}, {12345, 20000, 3456, 23456}, {12345, 0, 100, 12345}, {0, 5000, 1, 5001}, {4096, 4095, 2, 4097},
		{1, 1 << 20, 1, 1<<20 + 1}} {
		c.part(fmt.Sprintf("%d and %d at %d", t.begin, t.len, t.offset), func(c *check) {
			content := make([]byte, t.begin)
			for n := range content {
				content[n] = byte(n%250 + 3)
			}
			c.must(writeFile("file", content))
			c.opened("file", unix.O_WRONLY, 0, func(fd int) {
				c.returned(unix.Fallocate(fd, 0, t.offset, t.len), "fallocate", nil)
			})
			c.at("file").size(t.want)
			c.contentIs("file", content, t.want)
		})
	}
	c.part("errors", func(c *check) {
		c.make(regular, "file")
		c.opened("file", unix.O_RDWR, 0, func(fd int) {
			c.returned(unix.Fallocate(fd, 0, 0, 0), "fallocate of nothing", []error{unix.EINVAL})
			c.returned(unix.Fallocate(fd, 0, -1, 10), "fallocate at -1", []error{unix.EINVAL})
			c.returned(unix.Fallocate(fd, 0, 10, -1), "fallocate of -1", []error{unix.EINVAL})
			c.returned(unix.Fallocate(fd, 0, 1<<62, 1<<62), "fallocate beyond all", []error{unix.EFBIG})
			c.openFile(fd).size(0)
		})
		c.make(fifo, "fifo")
		c.opened("fifo", unix.O_RDWR, 0, func(fd int) {
			c.returned(unix.Fallocate(fd, 0, 0, 1), "fallocate of a fifo", []error{unix.ESPIPE})
		})
		c.must(unix.Mkdir("dir", 0o755))
		c.opened("dir", unix.O_RDONLY, 0, func(fd int) {
			c.returned(unix.Fallocate(fd, 0, 0, 1), "fallocate of a directory", []error{unix.EBADF})
		})
	})
}
