package conformance

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"syscall"

	"golang.org/x/sys/unix"
)

// openFlagsOf: flags that do not fit what is there.
func openFlagsOf(c *check) {
	const never = unix.O_RDONLY
	c.part("directory", func(c *check) {
		c.make(dir, "dir")
		c.open("dir", unix.O_RDONLY, 0)
		c.open("dir", unix.O_RDONLY|unix.O_DIRECTORY, 0)
		for _, flags := range []int{unix.O_WRONLY, unix.O_RDWR, unix.O_RDONLY | unix.O_TRUNC, unix.O_WRONLY | unix.O_TRUNC,
			unix.O_RDWR | unix.O_TRUNC,
			unix.O_CREAT | unix.O_RDONLY, unix.O_CREAT | unix.O_RDWR} {
			c.open("dir", flags, 0o644, unix.EISDIR)
		}
		c.open("dir", unix.O_CREAT|unix.O_EXCL, 0o644, unix.EEXIST)
	})
	c.part("no directory", func(c *check) {
		for _, k := range notDirs {
			c.make(k, "file")
			want := []error{unix.ENOTDIR}
			if k == symlink {
				want = []error{unix.ENOENT}
			}
			c.open("file", unix.O_DIRECTORY|unix.O_NONBLOCK|never, 0, want...)
			c.unlink("file")
		}
	})
	c.part("O_NOFOLLOW", func(c *check) {
		c.make(regular, "file")
		for _, target := range []string{"file", "missing"} {
			c.symlink(target, "way")
			for _, flags := range []int{unix.O_RDONLY | unix.O_CREAT, unix.O_RDONLY, unix.O_WRONLY, unix.O_RDWR} {
				c.open("way", flags|unix.O_NOFOLLOW, 0o644, unix.ELOOP)
			}
			c.unlink("way")
		}
		c.gone("missing")
		c.open("file", unix.O_RDONLY|unix.O_NOFOLLOW, 0)
	})
	c.part("create through a symlink", func(c *check) {
		c.symlink("new", "way")
		c.open("way", unix.O_CREAT|unix.O_EXCL|unix.O_WRONLY, 0o644, unix.EEXIST)
		c.gone("new")
		c.open("way", unix.O_CREAT|unix.O_WRONLY, 0o640)
		c.at("new").kind(regular).mode(0o640)
		c.at("way").kind(symlink)
	})
	c.part("both ways at once", func(c *check) {
		c.make(regular, "file")
		c.call("open with access mode 3", func() error {
			fd, err := unix.Open("file", unix.O_ACCMODE|unix.O_CLOEXEC, 0)
			if err == nil {
				err = unix.Close(fd)
			}
			return err
		}, []error{nil, unix.EINVAL})
	})
}

// openTruncate: O_TRUNC needs the permission to write, whatever else the file is opened for.
func openTruncate(c *check) {
	c.makeFor(nobody, regular, "file")
	c.must(appendByte("file"))
	for _, t := range []struct {
		mode uint32
		user user
	}{{0o477, nobody}, {0o747, other.with(65534)}, {0o774, other}, {0o177, nobody}, {0o717, other.with(65534)}, {0o771, other},
		{0o077, nobody},
		{0o707, other.with(65534)}, {0o770, other}, {0o747, other.in(65534)}} {
		c.as(nobody).chmod("file", t.mode)
		c.as(t.user).open("file", unix.O_RDONLY|unix.O_TRUNC, 0, unix.EACCES)
		c.as(t.user).open("file", unix.O_CREAT|unix.O_RDONLY|unix.O_TRUNC, 0o644, unix.EACCES)
		c.at("file").size(1).mode(t.mode)
	}
	c.as(nobody).chmod("file", 0o600)
	c.as(nobody).open("file", unix.O_RDONLY|unix.O_TRUNC, 0)
	c.at("file").size(0)
}

// openSpecial: fifos without a peer, sockets, devices.
func openSpecial(c *check) {
	c.part("fifo", func(c *check) {
		c.make(fifo, "fifo")
		c.open("fifo", unix.O_WRONLY|unix.O_NONBLOCK, 0, unix.ENXIO)
		c.opened("fifo", unix.O_RDONLY|unix.O_NONBLOCK, 0, func(reader int) {
			c.opened("fifo", unix.O_WRONLY|unix.O_NONBLOCK, 0, func(writer int) {
				_, err := unix.Write(writer, []byte("word"))
				c.returned(err, "write to a fifo", nil)
				b := make([]byte, 9)
				n, err := unix.Read(reader, b)
				c.result(err == nil && string(b[:max(n, 0)]) == "word", "read from a fifo", fmt.Sprintf("%d bytes, %v", n, err))
				_, err = unix.Read(reader, b)
				c.returned(err, "read from an empty fifo", []error{unix.EAGAIN})
			})
			n, err := unix.Read(reader, make([]byte, 9))
			c.result(err == nil && n == 0, "the end of a fifo", fmt.Sprintf("%d bytes, %v", n, err))
		})
		c.at("fifo").kind(fifo).size(0)
	})
	c.part("socket", func(c *check) {
		c.make(socket, "socket")
		for _, flags := range []int{unix.O_RDONLY, unix.O_WRONLY, unix.O_RDWR} {
			c.open("socket", flags, 0, unix.ENXIO)
		}
	})
	c.part("device", func(c *check) { // of a driver that is not there; on a mount without devices none opens
		for _, k := range []kind{block, char} {
			c.mknod("device", uint32(k)|0o666, unix.Mkdev(239, 77))
			c.open("device", unix.O_RDONLY, 0, unix.ENXIO, unix.ENODEV, unix.EACCES)
			c.unlink("device")
		}
	})
}

// openRunning: ETXTBSY for who wants to change a program that runs, and for running what is being written.
func openRunning(c *check) {
	c.must(copyProgram("/bin/sleep", "program"))
	ctx, cancel := context.WithCancel(context.Background())
	cmd := exec.CommandContext(ctx, c.dir+"/program", "60")
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	c.must(cmd.Start()) // returns when the program runs
	c.truncate("program", 123, unix.ETXTBSY)
	for _, flags := range []int{unix.O_WRONLY, unix.O_RDWR, unix.O_RDONLY | unix.O_TRUNC} {
		c.open("program", flags, 0, unix.ETXTBSY)
	}
	c.open("program", unix.O_RDONLY, 0)
	c.rename("program", "renamed")
	c.open("renamed", unix.O_WRONLY, 0, unix.ETXTBSY)
	cancel()
	err := cmd.Wait()
	c.result(errors.As(err, new(*exec.ExitError)), "the program runs until it is killed", fmt.Sprint(err))
	c.opened("renamed", unix.O_WRONLY, 0, func(int) {
		c.returned(errnoIn(exec.Command(c.dir+"/renamed", "0").Run()), "exec of a file open for writing", []error{unix.ETXTBSY})
	})
	c.returned(exec.Command(c.dir+"/renamed", "0").Run(), "exec", nil)
	c.unlink("renamed")
}

func errnoIn(err error) error {
	var errno syscall.Errno
	if errors.As(err, &errno) {
		return errno
	}
	return err
}

func copyProgram(from, to string) (err error) {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, in.Close()) }()
	out, err := os.OpenFile(to, os.O_CREATE|os.O_WRONLY, 0o755)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	return errors.Join(err, out.Close())
}

// openUnlinked: a file that is open lives on without a name.
func openUnlinked(c *check) {
	c.make(regular, "file")
	c.opened("file", unix.O_RDWR, 0, func(fd int) {
		_, err := unix.Write(fd, []byte("Hello!"))
		c.returned(err, "write", nil)
		c.openFile(fd).nlink(1).size(6)
		c.unlink("file")
		c.gone("file")
		c.openFile(fd).kind(regular).nlink(0).size(6)
		b := make([]byte, 9)
		n, err := unix.Pread(fd, b, 0)
		c.result(err == nil && string(b[:max(n, 0)]) == "Hello!", "pread of a file without a name", fmt.Sprintf("%d bytes, %v", n, err))
		_, err = unix.Pwrite(fd, []byte("more"), 6)
		c.returned(err, "pwrite to a file without a name", nil)
		c.returned(unix.Fchmod(fd, 0o600), "fchmod of a file without a name", nil)
		c.returned(unix.Fchown(fd, 1, 2), "fchown of a file without a name", nil)
		c.openFile(fd).size(10).mode(0o600).owner(1, 2)
		c.make(regular, "file")
		c.at("file").isNot(c.openFile(fd))
		c.returned(unix.Linkat(fd, "", unix.AT_FDCWD, "new", unix.AT_EMPTY_PATH), "link of a file without a name", []error{unix.ENOENT})
	})
	c.make(dir, "dir")
	c.opened("dir", unix.O_RDONLY, 0, func(fd int) {
		c.rmdir("dir")
		c.openFile(fd).kind(dir).nlink(0)
		c.returned(unix.Mkdirat(fd, "new", 0o755), "mkdir in a directory that is gone", []error{unix.ENOENT})
		_, err := unix.Openat(fd, "new", unix.O_CREAT|unix.O_RDWR|unix.O_CLOEXEC, 0o644)
		c.returned(err, "create in a directory that is gone", []error{unix.ENOENT})
	})
}

// openFar: files have offsets of 64 bits.
func openFar(c *check) {
	for _, far := range []int64{1<<31 + 1, 1<<32 - 1, 1<<32 + 1, 1 << 40, 15 << 40} {
		c.opened("file", unix.O_CREAT|unix.O_RDWR, 0o755, func(fd int) {
			_, err := unix.Pwrite(fd, []byte("a"), far)
			c.returned(err, fmt.Sprintf("pwrite at %d", far), nil)
			b := make([]byte, 2)
			n, err := unix.Pread(fd, b, far)
			c.result(err == nil && n == 1 && b[0] == 'a', fmt.Sprintf("pread at %d", far), fmt.Sprintf("%d bytes, %v", n, err))
		})
		c.at("file").size(far + 1)
		c.unlink("file")
	}
}
