package fsx

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

type fuseMount struct {
	connection uint64 // minor number of the mount's device
	dir        string
}

// fuseMounts are the FUSE mounts below dir, from the mount table: it touches no mount.
func fuseMounts(dir string) ([]fuseMount, error) {
	table, err := os.ReadFile("/proc/self/mountinfo") // proc_pid_mountinfo(5)
	if err != nil {
		return nil, err
	}
	var mounts []fuseMount
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
		mounts = append(mounts, fuseMount{connection: n, dir: fields[4]})
	}
	return mounts, nil
}

// abortMounts ends the FUSE connections below dir, so that whoever waits on them goes on with ENOTCONN, and unmounts them.
func abortMounts(dir string) error {
	mounts, err := fuseMounts(dir)
	if err != nil {
		return err
	}
	var errs []error
	for _, m := range mounts {
		abort := filepath.Join("/sys/fs/fuse/connections", strconv.FormatUint(m.connection, 10), "abort")
		if err := os.WriteFile(abort, []byte("1"), 0); err != nil && !errors.Is(err, os.ErrNotExist) {
			errs = append(errs, err)
		}
		if err := unix.Unmount(m.dir, unix.MNT_DETACH); err != nil && !errors.Is(err, unix.EINVAL) {
			errs = append(errs, fmt.Errorf("umount %s: %w", m.dir, err))
		}
	}
	return errors.Join(errs...)
}
