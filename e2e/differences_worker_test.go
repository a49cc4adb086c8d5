package e2e

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// differences takes DIR.
func differences(args []string) error {
	c := &comparer{args[0]}
	mustDo(os.Mkdir(c.dir, 0o755))
	fd, other := c.file("f", pattern(3<<20)), c.file("other", nil)
	unsupported := func(err error, what string) error { return wantErr(err, syscall.EOPNOTSUPP, what) }
	allocate := func(mode uint32) error { return unix.Fallocate(fd, mode, 0, 4096) }
	_, errFlags := unix.IoctlGetInt(fd, unix.FS_IOC_GETFLAGS)
	_, errLabel := unix.Getxattr(c.in("f"), "security.selinux", make([]byte, 10))
	device := unix.Mknod(c.in("null"), unix.S_IFCHR|0o666, 0x103)
	_, errDevice := unix.Open(c.in("null"), unix.O_RDWR, 0)
	return errors.Join(
		unsupported(allocate(unix.FALLOC_FL_COLLAPSE_RANGE), "collapse"),
		unsupported(allocate(unix.FALLOC_FL_INSERT_RANGE), "insert"),
		unsupported(allocate(unix.FALLOC_FL_UNSHARE_RANGE), "unshare"),
		unsupported(unix.IoctlFileClone(other, fd), "reflink"),
		wantErr(errFlags, syscall.ENOTTY, "lsattr"),
		wantErr(unix.IoctlSetPointerInt(fd, unix.FS_IOC_SETFLAGS, unix.STATX_ATTR_IMMUTABLE), syscall.ENOTTY, "chattr"),
		unsupported(errLabel, "the SELinux label of a file that has none"),
		wantErr(unix.Renameat2(unix.AT_FDCWD, c.in("other"), unix.AT_FDCWD, c.in("x"), unix.RENAME_WHITEOUT), syscall.EINVAL, "whiteout"),
		device, wantErr(errDevice, syscall.EACCES, "open a device"),
		wantErr(unix.Truncate(c.in("f"), 16<<40+1), syscall.EFBIG, "larger than 16 TiB"),
		c.largest(fd), c.segments(), c.atime(), c.manyXattrs(), c.size(),
	)
}

// largest: a file of 16 TiB, whose last write is cut off there.
func (c *comparer) largest(fd int) error {
	n, err := unix.Pwrite(fd, []byte("four"), 16<<40-2)
	if err != nil || n != 2 {
		return fmt.Errorf("write across 16 TiB: %d, %w", n, err)
	}
	_, err = unix.Pwrite(fd, []byte("x"), 16<<40)
	b := make([]byte, 10)
	n, errRead := unix.Pread(fd, b, 16<<40-3)
	return errors.Join(wantErr(err, syscall.EFBIG, "write behind 16 TiB"), errRead, check(string(b[:n]) == "\x00fo", "at the end: %q", b[:n]))
}

// segments: data and holes are told by 4 KiB, exactly.
func (c *comparer) segments() error {
	fd := c.file("sparse", nil)
	mustDo(unix.Ftruncate(fd, 1<<40))
	want := []string{}
	for _, s := range []struct{ off, n, from, to int64 }{
		{4096, 1, 4096, 8192}, {1<<20 - 1, 2, 1<<20 - 4096, 1<<20 + 4096}, {5 << 30, 1 << 20, 5 << 30, 5<<30 + 1<<20}, {1<<40 - 1, 1, 1<<40 - 4096, 1 << 40},
	} {
		must(unix.Pwrite(fd, pattern(int(s.n)), s.off))
		want = append(want, fmt.Sprintf("%d-%d", s.from, s.to))
	}
	got := state(fd)
	all := fmt.Sprint("data ", want)
	err := check(strings.HasSuffix(got, all), "segments: %s, want %s", got, all)
	mustDo(unix.Fallocate(fd, unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, 5<<30+4096, 8191))
	want[2] = fmt.Sprintf("%d-%d %d-%d", int64(5<<30), int64(5<<30+4096), int64(5<<30+8192), int64(5<<30+1<<20))
	got, all = state(fd), fmt.Sprint("data ", want)
	return errors.Join(err, check(strings.HasSuffix(got, all), "after a hole: %s, want %s", got, all))
}

// atime: reading leaves it.
func (c *comparer) atime() error {
	mustDo(os.Chtimes(c.in("f"), time.Unix(5, 0), time.Unix(6, 0)))
	must(unix.Pread(c.file("f2", []byte("x")), make([]byte, 1), 0))
	fd := must(unix.Open(c.in("f"), unix.O_RDONLY, 0))
	must(unix.Read(fd, make([]byte, 1)))
	var st unix.Stat_t
	mustDo(unix.Fstat(fd, &st))
	return check(st.Atim.Sec == 5 && st.Mtim.Sec == 6, "times after reading: %v", st.Atim)
}

// manyXattrs: a value of 64 KiB, and as many names as can be listed.
func (c *comparer) manyXattrs() error {
	set := func(name string, n int) error { return unix.Setxattr(c.in("f"), name, pattern(n), 0) }
	err := errors.Join(set("user.largest", 64<<10), wantErr(set("user.larger", 64<<10+1), syscall.E2BIG, "a value of more than 64 KiB"))
	for n := range 256 {
		if e := set(fmt.Sprintf("user.%0250d", n), 0); e != nil {
			return errors.Join(err, wantErr(e, syscall.ENOSPC, "one name too many"), check(n > 240, "only %d names", n),
				errOf(unix.Listxattr(c.in("f"), make([]byte, 64<<10))))
		}
	}
	return errors.Join(err, errors.New("there is no end of names"))
}

// size: statfs tells the volume's.
func (c *comparer) size() error {
	var st unix.Statfs_t
	mustDo(unix.Statfs(c.dir, &st))
	return check(st.Blocks*uint64(st.Bsize) == 4<<30 && st.Files == 1<<20 && st.Namelen == 255 && st.Bfree <= st.Blocks && st.Ffree < st.Files,
		"statfs: %+v", st)
}
