package e2e

import (
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// entries lists the directory with types and link counts.
func (c *comparer) entries(name string) string {
	var b strings.Builder
	for _, e := range must(os.ReadDir(c.in(name))) {
		var st unix.Stat_t
		mustDo(unix.Lstat(c.in(name+"/"+e.Name()), &st))
		short := e.Name()
		if len(short) > 20 {
			short = fmt.Sprintf("%.5s...%d", short, len(short))
		}
		fmt.Fprintf(&b, " %q %o %d", short, st.Mode, st.Nlink)
	}
	return b.String()
}

func (c *comparer) names() {
	long := strings.Repeat("n", 255)
	names := []string{"plain", long, long + "n", "", ".", "..", "no/such", "\xff\xfe", "a\nb", "ü", "\xc3", "plain/", "plain/x", "-", " ", "new/",
		strings.Repeat("./", 2045) + "plain", strings.Repeat("./", 2050) + "plain", strings.Repeat("é", 127) + "x", strings.Repeat("é", 128)}
	mustDo(os.WriteFile(c.in("plain"), nil, 0o644))
	for _, n := range names {
		path, short := c.dir+"/"+n, fmt.Sprintf("%.20q (%d)", n, len(n))
		var st unix.Stat_t
		c.say("stat "+short, unix.Lstat(path, &st))
		c.say("create "+short, errOf(unix.Open(path, unix.O_CREAT|unix.O_EXCL|unix.O_WRONLY, 0o644)), c.entries("")[:0])
		c.say("mkdir "+short, unix.Mkdir(path, 0o755))
		c.say("symlink "+short, unix.Symlink("x", path))
		c.say("link "+short, unix.Link(c.in("plain"), path))
		c.say("rename "+short, unix.Rename(path, path+"r"), unix.Rename(path+"r", path))
		c.say("unlink "+short, unix.Unlink(path))
		c.say("rmdir "+short, unix.Rmdir(path))
		if _, err := os.Lstat(c.in("plain")); err != nil {
			mustDo(os.WriteFile(c.in("plain"), nil, 0o644))
		}
	}
	c.say("all", c.entries(""))
	for _, n := range []int{0, 1, 4094, 4095, 4096} {
		target := strings.Repeat("t", n)
		c.say(fmt.Sprintf("target of %d", n), unix.Symlink(target, c.in(fmt.Sprintf("s%d", n))))
		got, err := os.Readlink(c.in(fmt.Sprintf("s%d", n)))
		var st unix.Stat_t
		errStat := unix.Lstat(c.in(fmt.Sprintf("s%d", n)), &st)
		c.say("  reads", got == target, err, errStat, st.Size, fmt.Sprintf("%o", st.Mode))
	}
	mustDo(unix.Symlink("loop", c.in("loop")))
	mustDo(unix.Symlink("plain", c.in("link")))
	mustDo(unix.Mkdir(c.in("d"), 0o755))
	for _, o := range []struct {
		name  string
		flags int
	}{{"loop", 0}, {"link", unix.O_NOFOLLOW}, {"link", 0}, {"link", unix.O_CREAT | unix.O_EXCL}, {"plain", unix.O_DIRECTORY}, {"d", unix.O_WRONLY},
		{"d", unix.O_CREAT}, {"d", unix.O_DIRECTORY | unix.O_CREAT}, {"d", unix.O_TRUNC}, {"plain", unix.O_CREAT | unix.O_EXCL}, {"none", 0},
		{"d", unix.O_PATH}, {"loop", unix.O_PATH | unix.O_NOFOLLOW}, {"plain", unix.O_PATH | unix.O_DIRECTORY}, {"none/x", unix.O_CREAT}} {
		c.say(fmt.Sprintf("open %s %#x", o.name, o.flags), errOf(unix.Open(c.in(o.name), o.flags, 0o644)))
	}
	c.say("link a directory", unix.Link(c.in("d"), c.in("d2")))
	c.say("link a symlink", unix.Link(c.in("loop"), c.in("loop2")))
	c.say("rmdir not empty", unix.Mkdir(c.in("d/sub"), 0o755), unix.Rmdir(c.in("d")))
	c.say("rmdir dot", unix.Rmdir(c.in("d/.")), unix.Rmdir(c.in("d/..")), unix.Rmdir(c.in("d/sub/..")))
	c.say("device", unix.Mknod(c.in("null"), unix.S_IFCHR|0o666, 0x103), unix.Mknod(c.in("block"), unix.S_IFBLK|0o600, 0x700))
	c.say("socket", unix.Mknod(c.in("socket"), unix.S_IFSOCK|0o666, 0), unix.Mknod(c.in("file"), 0o666, 0), unix.Mknod(c.in("x"), unix.S_IFDIR, 0))
	c.say("open a socket", errOf(unix.Open(c.in("socket"), unix.O_RDWR, 0)))
	gone := must(unix.Open(c.in("d/sub"), unix.O_RDONLY|unix.O_DIRECTORY, 0))
	mustDo(unix.Rmdir(c.in("d/sub")))
	c.say("in a removed directory", errOf(unix.Openat(gone, "x", unix.O_CREAT|unix.O_WRONLY, 0o644)), unix.Mkdirat(gone, "x", 0o755),
		unix.Linkat(unix.AT_FDCWD, c.in("plain"), gone, "x", 0), unix.Renameat(unix.AT_FDCWD, c.in("plain"), gone, "x"))
	var st unix.Stat_t
	c.say("removed directory", unix.Fstat(gone, &st), st.Nlink, errOf(unix.ReadDirent(gone, make([]byte, 4096))))
	c.say("all", c.entries(""))
}

func (c *comparer) renames() {
	kinds := []string{"file", "other", "dir", "full", "link", "none", "hard", "full/in", "."}
	n := 0
	for _, flags := range []uint{0, unix.RENAME_NOREPLACE, unix.RENAME_EXCHANGE, unix.RENAME_EXCHANGE | unix.RENAME_NOREPLACE, 8} {
		for _, from := range kinds {
			for _, to := range kinds {
				n++
				dir := fmt.Sprintf("r%d", n)
				in := func(name string) string { return c.in(dir + "/" + name) }
				mustDo(os.Mkdir(c.in(dir), 0o755))
				mustDo(os.WriteFile(in("file"), []byte("1"), 0o600))
				mustDo(os.WriteFile(in("other"), []byte("22"), 0o640))
				mustDo(os.Link(in("file"), in("hard")))
				mustDo(os.Mkdir(in("dir"), 0o755))
				mustDo(os.MkdirAll(in("full/in"), 0o755))
				mustDo(os.Symlink("file", in("link")))
				err := unix.Renameat2(unix.AT_FDCWD, in(from), unix.AT_FDCWD, in(to), flags)
				var st unix.Stat_t
				mustDo(unix.Stat(in("."), &st))
				c.say(fmt.Sprintf("rename %s %s %d", from, to, flags), err, st.Nlink, c.entries(dir))
				mustDo(os.RemoveAll(c.in(dir)))
			}
		}
	}
	mustDo(os.MkdirAll(c.in("a/b/c"), 0o755))
	c.say("into itself", unix.Rename(c.in("a"), c.in("a/b/c/d")), unix.Renameat2(unix.AT_FDCWD, c.in("a"), unix.AT_FDCWD, c.in("a/b"), unix.RENAME_EXCHANGE))
	c.say("up", unix.Rename(c.in("a/b/c"), c.in("c")), c.entries("."), c.entries("a"))
}

func (c *comparer) unnamed() {
	open := func(flags int) (int, error) { return unix.Open(c.dir, unix.O_TMPFILE|flags, 0o666) }
	fd := must(open(unix.O_RDWR))
	must(unix.Write(fd, []byte("content")))
	var st unix.Stat_t
	mustDo(unix.Fstat(fd, &st))
	c.say("unnamed", st.Nlink, fmt.Sprintf("%o", st.Mode), st.Size)
	link := func(fd int, name string) error {
		return unix.Linkat(unix.AT_FDCWD, fmt.Sprintf("/proc/self/fd/%d", fd), unix.AT_FDCWD, c.in(name), unix.AT_SYMLINK_FOLLOW)
	}
	c.say("linked", link(fd, "name"), link(fd, "name"), link(fd, "second"), unix.Linkat(fd, "", unix.AT_FDCWD, c.in("third"), unix.AT_EMPTY_PATH))
	c.say("all", c.entries("."), state(fd))
	exclusive := must(open(unix.O_WRONLY | unix.O_EXCL))
	c.say("exclusive", link(exclusive, "no"))
	c.say("read-only", errOf(open(unix.O_RDONLY)))
	c.say("of a file", errOf(unix.Open(c.in("name"), unix.O_TMPFILE|unix.O_RDWR, 0o600)))
	for _, n := range []string{"name", "second", "third"} {
		mustDo(unix.Unlink(c.in(n)))
	}
	c.say("unlinked", link(fd, "again"), state(fd)) // had a name once: not any more
	c.say("all", c.entries("."))
}
