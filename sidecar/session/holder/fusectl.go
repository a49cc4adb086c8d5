package holder

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

const fusectl = "/sys/fs/fuse/connections"

// openAbort opens the file that aborts a connection. An open file stays tied to its connection: after the connection has gone,
// a write to it does nothing, even when the number is in use again.
func openAbort(connection uint32) (*os.File, error) {
	path := filepath.Join(fusectl, strconv.FormatUint(uint64(connection), 10), "abort")
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if !errors.Is(err, os.ErrNotExist) {
		return f, err
	}
	if _, mounted, err := topmost(fusectl); err != nil || mounted {
		return nil, errors.Join(fmt.Errorf("open %s: %w", path, os.ErrNotExist), err)
	}
	if err := unix.Mount("fusectl", fusectl, "fusectl", 0, ""); err != nil && !errors.Is(err, unix.EBUSY) {
		return nil, fmt.Errorf("mount fusectl at %s: %w", fusectl, err)
	}
	return os.OpenFile(path, os.O_WRONLY, 0)
}

func writeAbort(f *os.File) error {
	_, err := f.WriteString("1")
	return err
}

// detach takes a mount out of the tree without looking at it.
func detach(target string) error {
	err := unix.Unmount(target, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
	if err != nil && !errors.Is(err, unix.EINVAL) { // EINVAL: not a mount point
		return fmt.Errorf("unmount %s: %w", target, err)
	}
	return nil
}

// Sweep aborts and detaches every mount of this package below dir, left behind by a holder that was killed. The caller must own
// dir: mounts of a living holder are not spared. It returns the mount points that it cleared.
func Sweep(dir string, log *slog.Logger) ([]string, error) {
	dir, err := filepath.EvalSymlinks(dir)
	if err != nil {
		return nil, err
	}
	entries, err := mounts()
	if err != nil {
		return nil, err
	}
	slices.Reverse(entries) // upper mounts first
	var cleared []string
	var errs []error
	for _, e := range entries {
		if e.fs != fsType || !strings.HasPrefix(e.point, strings.TrimSuffix(dir, "/")+"/") {
			continue
		}
		log.Warn("clearing a mount that a killed supervisor left behind", "mount", e.point)
		errs = append(errs, abortEntry(e), detach(e.point))
		cleared = append(cleared, e.point)
	}
	return cleared, errors.Join(errs...)
}

func abortEntry(e mountEntry) error {
	f, err := openAbort(e.minor)
	if errors.Is(err, os.ErrNotExist) {
		return nil // the kernel aborted it when the last descriptor was closed
	}
	if err != nil {
		return err
	}
	defer f.Close()
	return writeAbort(f)
}
