package conformance

import (
	"errors"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// fullInodes: ENOSPC from every call that makes a file, when no inode is left; nothing is half made, and everything that needs no
// inode goes on.
func fullInodes(c *check) {
	c.must(unix.Mkdir("dir", 0o777))
	c.place(root, regular, "kept")
	n, err := 0, error(nil)
	for ; err == nil && n < 100_000; n++ {
		err = makeFile(regular, "dir/"+strconv.Itoa(n))
	}
	c.returned(err, "the last file of a full file system", []error{unix.ENOSPC})
	was := c.remember(".")["."]
	for _, m := range makers() {
		c.call(m.name, func() error { return m.make("new", 0o644) }, []error{unix.ENOSPC})
		c.gone("new")
	}
	c.symlink("test", "new", unix.ENOSPC)
	c.gone("new")
	c.returned(bindSocket("new"), "bind", []error{unix.ENOSPC})
	c.gone("new")
	c.at(".").marks(was, "").nlink(3)
	c.chmod("kept", 0o600)
	c.rename("kept", "moved")
	c.link("moved", "kept")
	c.at("kept").mode(0o600).nlink(2)
	for _, m := range makers() {
		c.unlink("dir/0")
		c.returned(soon(func() error { return m.make("new", 0o644) }), m.name+" after an unlink", nil)
		c.remove(m.kind, "new")
		c.returned(soon(func() error { return makeFile(regular, "dir/0") }), "the last file again", nil)
	}
}

// soon tries until there is room: Remora gives an inode back when the kernel has forgotten it.
func soon(f func() error) error {
	err := f()
	for deadline := time.Now().Add(10 * time.Second); errors.Is(err, unix.ENOSPC) && time.Now().Before(deadline); err = f() {
		time.Sleep(time.Millisecond)
	}
	return err
}
