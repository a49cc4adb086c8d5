// Package disk is the one seam through which Remora reaches a disk: pebble's vfs.FS, so that the journal, the arena and the
// metadata store can all run on its crashable in-memory file system or under injected faults, and the few calls that vfs lacks.
package disk

import (
	"errors"
	"fmt"

	"github.com/cockroachdb/pebble/v2/vfs"
	"golang.org/x/sys/unix"
)

// FS is a file system.
type FS = vfs.FS

// File is an open file.
type File = vfs.File

// WriteCategory and OpenOption are arguments of FS.
type (
	WriteCategory = vfs.DiskWriteCategory
	OpenOption    = vfs.OpenOption
)

// OS is the real one.
var OS FS = vfs.Default

// Category marks our writes in pebble's disk statistics.
const Category = vfs.WriteCategoryUnspecified

// PunchHole gives the blocks of a range back to the disk; the range reads as zeros afterwards. A file that has no descriptor
// (in memory) or a file system that cannot punch keeps its blocks: that costs space and nothing else.
func PunchHole(f File, off, n int64) error {
	if p, ok := f.(interface{ PunchHole(off, n int64) error }); ok {
		return p.PunchHole(off, n)
	}
	fd := f.Fd()
	if fd == vfs.InvalidFd {
		return nil
	}
	err := unix.Fallocate(int(fd), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, off, n)
	if err != nil && !errors.Is(err, unix.EOPNOTSUPP) {
		return fmt.Errorf("punch hole at %d, %d bytes: %w", off, n, err)
	}
	return nil
}

// DropCache has what is clean of a range read from the disk again, where the file system caches it.
func DropCache(f File, off, n int64) error {
	if d, ok := f.(interface{ DropCache(off, n int64) error }); ok {
		return d.DropCache(off, n)
	}
	fd := f.Fd()
	if fd == vfs.InvalidFd {
		return nil
	}
	if err := unix.Fadvise(int(fd), off, n, unix.FADV_DONTNEED); err != nil {
		return fmt.Errorf("drop the cache of %d bytes at %d: %w", n, off, err)
	}
	return nil
}

// SyncDir makes the names in a directory durable.
func SyncDir(fs FS, dir string) error {
	d, err := fs.OpenDir(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
