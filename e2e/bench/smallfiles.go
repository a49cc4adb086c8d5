package main

import (
	"context"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

type smallFilesArgs struct {
	Dir   string // filled in per side
	Files int
	Dirs  int
	Size  int
	Fsync bool // each file, before it is closed
	Rest  bool // do not create: what comes after it
}

// smallFiles creates files, and then does the rest, in two processes: what the sidecar spends on the first is a sample of its own.
func smallFiles(args smallFilesArgs) func(context.Context, *bench, side) (sample, error) {
	return func(ctx context.Context, b *bench, s side) (sample, error) {
		args := args
		args.Dir = filepath.Join(s.dir, "small")
		if err := b.shell(ctx, "rm -rf %s", args.Dir); err != nil {
			return nil, err
		}
		before := b.settled(ctx, s)
		var created, rest sample
		if err := b.worker(ctx, "small-files", args, &created); err != nil {
			return nil, err
		}
		b.settled(ctx, s).addTo(created, before, int64(args.Files), int64(args.Files*args.Size))
		args.Rest = true
		err := b.worker(ctx, "small-files", args, &rest)
		maps.Copy(created, rest)
		return created, err
	}
}

// runSmallFiles creates files, or stats, renames and unlinks them, directory by directory, and answers operations per second of each.
// Nothing is synced in between unless Fsync says so.
func runSmallFiles(args smallFilesArgs) (sample, error) {
	var paths, renamed []string
	for d := range args.Dirs {
		dir := filepath.Join(args.Dir, fmt.Sprintf("d%02d", d))
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return nil, err
		}
		for f := range args.Files / args.Dirs {
			paths = append(paths, filepath.Join(dir, fmt.Sprintf("file-%05d", f)))
			renamed = append(renamed, filepath.Join(dir, fmt.Sprintf("renamed-%05d", f)))
		}
	}
	content := make([]byte, args.Size)
	for i := range content {
		content[i] = byte(i * 7)
	}
	got := sample{}
	type phase struct {
		name string
		op   func(i int) error
	}
	stat := func(i int) error { var st unix.Stat_t; return unix.Stat(paths[i], &st) }
	phases := []phase{{"create", func(i int) error { return createFile(paths[i], content, args.Fsync) }}}
	if args.Rest {
		phases = []phase{
			{"stat_first", stat}, // what was written has attributes that the kernel does not know yet
			{"stat", stat},
			{"rename", func(i int) error { return unix.Rename(paths[i], renamed[i]) }},
			{"unlink", func(i int) error { return unix.Unlink(renamed[i]) }},
		}
	}
	for _, phase := range phases {
		start := time.Now()
		for i := range paths {
			if err := phase.op(i); err != nil {
				return nil, fmt.Errorf("%s %s: %w", phase.name, paths[i], err)
			}
		}
		got[phase.name] = float64(len(paths)) / time.Since(start).Seconds()
	}
	if !args.Rest {
		return got, nil
	}
	return got, os.RemoveAll(args.Dir)
}

// createFile is open, write, close, and nothing that Go's os package adds.
func createFile(path string, content []byte, fsync bool) error {
	fd, err := unix.Open(path, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_CLOEXEC, 0o644)
	if err != nil {
		return err
	}
	_, err = unix.Write(fd, content)
	if err == nil && fsync {
		err = unix.Fsync(fd)
	}
	if closeErr := unix.Close(fd); err == nil {
		err = closeErr
	}
	return err
}
