package main

import (
	"context"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// Before each measurement, dirty pages of both sides are written (so that neither pays for the other), and then clean pages
// are dropped: the volume's in the kernel's FUSE cache, and those of the sidecar's own files on the disk beneath, which no
// fadvise on the volume would reach. That takes root, and empties the page cache of the whole machine.

// clean does both; a side is written by syncfs on its disk.
func (b *bench) clean(ctx context.Context) error {
	var dirs []string
	for _, s := range b.sides {
		dirs = append(dirs, s.dir)
	}
	if b.dir != "" {
		dirs = append(dirs, b.dir)
	}
	if err := b.worker(ctx, "sync", dirs, nil); err != nil {
		return err
	}
	if os.Geteuid() != 0 {
		return nil
	}
	if err := os.WriteFile("/proc/sys/vm/drop_caches", []byte("1"), 0); err != nil {
		return fmt.Errorf("dropping the page cache: %w", err)
	}
	return nil
}

// forget is clean, and the kernel forgets names and inodes, too: the sidecar is asked for everything again.
func (b *bench) forget(ctx context.Context) error {
	if err := b.clean(ctx); err != nil || os.Geteuid() != 0 {
		return err
	}
	if err := os.WriteFile("/proc/sys/vm/drop_caches", []byte("2"), 0); err != nil {
		return fmt.Errorf("dropping dentries and inodes: %w", err)
	}
	return nil
}

// cacheNote says in the report what was done.
func cacheNote() string {
	if os.Geteuid() == 0 {
		return "before each measurement: syncfs of both sides, then drop_caches=1 (page cache of the machine, not dentries)"
	}
	return "before each measurement: syncfs of both sides; not root, so the page cache was NOT dropped: cold reads are not cold"
}

func syncDirs(dirs []string) error {
	for _, dir := range dirs {
		fd, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		if err != nil {
			return fmt.Errorf("open %s: %w", dir, err)
		}
		err = unix.Syncfs(fd)
		_ = unix.Close(fd) // opened for reading only
		if err != nil {
			return fmt.Errorf("syncfs %s: %w", dir, err)
		}
	}
	return nil
}
