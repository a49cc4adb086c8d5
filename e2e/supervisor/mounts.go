package supervisor

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Mount is a FUSE mount.
type Mount struct {
	Connection uint64 // minor number of the mount's device
	Dir        string
}

// Mounts are the FUSE mounts below dir, from the mount table: it touches no mount.
func Mounts(dir string) ([]Mount, error) {
	table, err := os.ReadFile("/proc/self/mountinfo") // proc_pid_mountinfo(5)
	if err != nil {
		return nil, err
	}
	var mounts []Mount
	for line := range strings.Lines(string(table)) {
		left, right, _ := strings.Cut(line, " - ")
		fields := strings.Fields(left)
		if len(fields) < 6 || !strings.HasPrefix(right, "fuse.") || !strings.HasPrefix(fields[4], filepath.Clean(dir)+"/") {
			continue
		}
		_, minor, _ := strings.Cut(fields[2], ":")
		n, err := strconv.ParseUint(minor, 10, 64)
		if err != nil {
			return nil, fmt.Errorf("mountinfo: %q: %w", line, err)
		}
		mounts = append(mounts, Mount{Connection: n, Dir: fields[4]})
	}
	return mounts, nil
}

const fusectl = "/sys/fs/fuse/connections"

// AbortMounts ends the FUSE connections below dir, so that everything that waits on them goes on with ENOTCONN, and unmounts them.
func AbortMounts(dir string) error {
	mounts, err := Mounts(dir)
	if err != nil || len(mounts) == 0 {
		return err
	}
	if entries, err := os.ReadDir(fusectl); err == nil && len(entries) == 0 {
		_ = unix.Mount("fusectl", fusectl, "fusectl", 0, "") // the write below says what is wrong
	}
	var errs []error
	for _, m := range mounts {
		abort := filepath.Join(fusectl, strconv.FormatUint(m.Connection, 10), "abort")
		if err := os.WriteFile(abort, []byte("1"), 0); err != nil && !errors.Is(err, os.ErrNotExist) {
			errs = append(errs, err)
		}
		if err := unix.Unmount(m.Dir, unix.MNT_DETACH); err != nil && !errors.Is(err, unix.EINVAL) {
			errs = append(errs, fmt.Errorf("umount %s: %w", m.Dir, err))
		}
	}
	return errors.Join(errs...)
}
