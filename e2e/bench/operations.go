package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"
)

// operation is something that applications do, of which the FUSE requests are counted. They are done in the order of the table,
// in one directory, so that each finds what those before it have left there: files, and what the kernel remembers of them.
type operation struct {
	title  string
	count  int
	forget bool                          // the kernel forgets pages, names and inodes before
	do     func(dir string, i int) error // the i-th time
}

// files is how many there are for the operations.
const files = 1000

func operations() []operation {
	file := func(dir string, i int) string { return filepath.Join(dir, "f"+strconv.Itoa(i)) }
	content := make([]byte, 4096)
	small := content[:1024]
	create := func(dir string, i int) error { return createFile(file(dir, i), small, false) }
	stat := func(dir string, i int) error { var st unix.Stat_t; return unix.Stat(file(dir, i), &st) }
	read := func(dir string, i int) error { return readFile(file(dir, i)) }
	names := func(dir string, _ int) error { return ls(dir, false) }
	attributes := func(dir string, _ int) error { return ls(dir, true) }
	return []operation{
		{title: "create, write 1 KiB, close", count: files, do: create},
		{title: "stat: the first time since it was written", count: files, do: stat},
		{title: "stat: again", count: files, do: stat},
		{title: "stat: the kernel has forgotten it", count: files, forget: true, do: stat},
		{title: "stat of no file: first time", count: files, do: statNothing},
		{title: "stat of no file: again", count: files, do: statNothing},
		{title: "open, read 1 KiB, close: forgotten", count: files, forget: true, do: read},
		{title: "open, read 1 KiB, close: again", count: files, do: read},
		{title: "ls of 1,000 names: forgotten", count: 1, forget: true, do: names},
		{title: "ls of 1,000 names: again", count: 1, do: names},
		{title: "ls -l of 1,000 names: forgotten", count: 1, forget: true, do: attributes},
		{title: "ls -l of 1,000 names: again", count: 1, do: attributes},
		{title: "open O_TRUNC, write 1 KiB, close", count: files, do: func(dir string, i int) error { return rewrite(file(dir, i), small) }},
		{title: "chmod", count: files, do: func(dir string, i int) error { return unix.Chmod(file(dir, i), 0o600) }},
		{title: "rename", count: files, do: func(dir string, i int) error { return unix.Rename(file(dir, i), file(dir, i)+"r") }},
		{title: "create, write, fsync, close, rename over", count: files, do: func(dir string, i int) error {
			return replace(file(dir, i)+"r", small)
		}},
		{title: "unlink", count: files, do: func(dir string, i int) error { return unix.Unlink(file(dir, i) + "r") }},
		{title: "mkdir, rmdir", count: files, do: func(dir string, i int) error {
			return errors.Join(unix.Mkdir(file(dir, i), 0o755), unix.Rmdir(file(dir, i)))
		}},
		{title: "append 4 KiB, fsync", count: files, do: writeSync(content, true)},
		{title: "overwrite 4 KiB, fsync", count: files, do: writeSync(content, false)},
	}
}

func statNothing(dir string, i int) error {
	var st unix.Stat_t
	err := unix.Stat(filepath.Join(dir, "none"+strconv.Itoa(i)), &st)
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	return fmt.Errorf("stat of no file: %w", err)
}

// readFile is open, read to the end, close.
func readFile(path string) error {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	buf := make([]byte, 64<<10)
	for {
		n, err := unix.Read(fd, buf)
		if n <= 0 {
			return errors.Join(err, unix.Close(fd))
		}
	}
}

// ls lists the operations' directory, and is sure that it has seen all of it.
func ls(dir string, stat bool) error {
	n, err := listDir(dir, stat)
	if err == nil && n != files {
		err = fmt.Errorf("%s: %d names, want %d", dir, n, files)
	}
	return err
}

// rewrite gives a file new content in place.
func rewrite(path string, content []byte) error {
	fd, err := unix.Open(path, unix.O_WRONLY|unix.O_TRUNC|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	_, err = unix.Write(fd, content)
	return errors.Join(err, unix.Close(fd))
}

// replace gives a name new content the safe way.
func replace(path string, content []byte) error {
	if err := createFile(path+".new", content, true); err != nil {
		return err
	}
	return unix.Rename(path+".new", path)
}

// writeSync writes to a file that it opens the first time, and makes if it is to append, and syncs it.
func writeSync(content []byte, appends bool) func(dir string, i int) error {
	fd, flags := -1, unix.O_WRONLY|unix.O_CLOEXEC
	if appends {
		flags |= unix.O_CREAT | unix.O_EXCL
	}
	return func(dir string, i int) (err error) {
		if i == 0 {
			if fd, err = unix.Open(filepath.Join(dir, "log"), flags, 0o644); err != nil {
				return err
			}
		}
		if _, err := unix.Pwrite(fd, content, int64(i*len(content))); err != nil {
			return err
		}
		return unix.Fsync(fd)
	}
}

// listDir reads a directory, and with stat asks for the attributes of every name. It answers how many there are.
func listDir(dir string, stat bool) (int, error) {
	names, err := readNames(dir)
	if err != nil || !stat {
		return len(names), err
	}
	var st unix.Stat_t
	for _, name := range names {
		if err := unix.Lstat(filepath.Join(dir, name), &st); err != nil {
			return 0, err
		}
	}
	return len(names), nil
}

func readNames(dir string) ([]string, error) {
	f, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }() // read only
	return f.Readdirnames(-1)
}

type operationArgs struct {
	Index int // in the table
	Dir   string
}

// doOperation is what a worker does.
func doOperation(args operationArgs) error {
	op := operations()[args.Index]
	for i := range op.count {
		if err := op.do(args.Dir, i); err != nil {
			return fmt.Errorf("%s, number %d: %w", op.title, i, err)
		}
	}
	return nil
}

// countOperations does every operation in a process of its own, and counts the requests that it causes. It measures no time.
func countOperations(ctx context.Context, b *bench, s side) (sample, error) {
	if s.metrics == nil {
		return sample{}, nil
	}
	dir := filepath.Join(s.dir, "operations")
	if err := b.shell(ctx, "rm -rf %s && mkdir %s", dir, dir); err != nil {
		return nil, err
	}
	for i, op := range operations() {
		if op.forget {
			if err := b.forget(ctx); err != nil {
				return nil, err
			}
		}
		err := b.counting(ctx, s, op.title, func() (float64, error) {
			return float64(op.count), b.worker(ctx, "operation", operationArgs{Index: i, Dir: dir}, nil)
		})
		if err != nil {
			return nil, err
		}
	}
	return sample{}, b.shell(ctx, "rm -rf %s", dir)
}
