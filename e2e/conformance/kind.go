package conformance

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// kind is a type of file.
type kind uint32

// The types; nothing stands for a name that is free.
const (
	nothing  kind = 0
	regular  kind = unix.S_IFREG
	dir      kind = unix.S_IFDIR
	fifo     kind = unix.S_IFIFO
	block    kind = unix.S_IFBLK
	char     kind = unix.S_IFCHR
	socket   kind = unix.S_IFSOCK
	symlink  kind = unix.S_IFLNK
	modeBits      = 0o7777
)

var (
	kinds      = []kind{regular, dir, fifo, block, char, socket, symlink}
	notDirs    = []kind{regular, fifo, block, char, socket, symlink}
	notSymlink = []kind{regular, dir, fifo, block, char, socket}
	linkable   = []kind{regular, fifo, block, char, socket}
)

// device is the number of the devices that are made; nobody opens them.
var device = unix.Mkdev(1, 2)

func (k kind) String() string {
	switch k {
	case nothing:
		return "nothing"
	case regular:
		return "regular"
	case dir:
		return "dir"
	case fifo:
		return "fifo"
	case block:
		return "block"
	case char:
		return "char"
	case socket:
		return "socket"
	case symlink:
		return "symlink"
	}
	return fmt.Sprintf("type %o", uint32(k))
}

// mode is the one that place gives a file.
func (k kind) mode() uint32 {
	switch k {
	case dir:
		return 0o755
	case symlink:
		return 0o777
	}
	return 0o644
}

// makeFile makes a file of the type, by the call that programs use for it.
func makeFile(k kind, path string) error {
	switch k {
	case nothing:
		return nil
	case regular:
		fd, err := unix.Open(path, unix.O_CREAT|unix.O_EXCL|unix.O_WRONLY|unix.O_CLOEXEC, 0o644)
		if err != nil {
			return err
		}
		return unix.Close(fd)
	case dir:
		return unix.Mkdir(path, 0o755)
	case block, char:
		return unix.Mknod(path, uint32(k)|0o644, int(device))
	case socket:
		return bindSocket(path)
	case symlink:
		return unix.Symlink("test", path)
	}
	return unix.Mknod(path, uint32(k)|0o644, 0)
}

// bindSocket makes a socket in the file system. bind(2) takes its mode from the umask alone.
func bindSocket(path string) error {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	err = errors.Join(unix.Bind(fd, &unix.SockaddrUnix{Name: path}), unix.Close(fd))
	if err == nil {
		err = unix.Chmod(path, 0o644)
	}
	return err
}

// make makes a file as root; that it can be made is an expectation.
func (c *check) make(k kind, path string) {
	c.returned(makeFile(k, path), fmt.Sprintf("make %v %s", k, short(path)), nil)
}

// makeFor makes a file and gives it to a user.
func (c *check) makeFor(u user, k kind, path string) {
	if k == nothing {
		return
	}
	c.make(k, path)
	c.lchown(path, int(u.uid), int(u.gid))
}

// place makes a file for a user as a preparation: it is no expectation.
func (c *check) place(u user, k kind, path string) {
	err := makeFile(k, path)
	if err == nil && k != nothing {
		err = unix.Lchown(path, int(u.uid), int(u.gid))
	}
	c.must(err)
}

// remove removes a file of the type.
func (a actor) remove(k kind, path string, want ...error) {
	if k == dir {
		a.rmdir(path, want...)
	} else {
		a.unlink(path, want...)
	}
}
