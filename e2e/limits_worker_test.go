package e2e

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// free returns the free bytes and inodes of a volume that must have the given size.
func free(dir string) (bytes, inodes, size uint64, err error) {
	var st unix.Statfs_t
	err = unix.Statfs(dir, &st)
	return st.Bavail * uint64(st.Bsize), st.Ffree, st.Blocks * uint64(st.Bsize), err
}

// fillBytes takes DIR SIZE of an empty volume.
func fillBytes(args []string) error {
	dir := args[0]
	size, err := strconv.ParseInt(args[1], 10, 64)
	if err != nil {
		return err
	}
	have, _, all, err := free(dir)
	if err != nil || have != uint64(size) || all != uint64(size) {
		return fmt.Errorf("free %d of %d, want %d of %d, %w", have, all, size, size, err)
	}
	for _, step := range []int{1 << 20, 700_001, 3 << 20} {
		if err := fillAndDelete(filepath.Join(dir, "file"), size, step); err != nil {
			return fmt.Errorf("in steps of %d: %w", step, err)
		}
	}
	return nil
}

func fillAndDelete(path string, size int64, step int) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o644)
	if err != nil {
		return err
	}
	written, b := int64(0), make([]byte, step)
	for n := range b {
		b[n] = byte(n)
	}
	for err == nil {
		var n int
		n, err = unix.Pwrite(int(f.Fd()), b, written) // os.File would not tell how much a write that fails has written
		written += int64(max(n, 0))
	}
	if err := wantErr(err, syscall.ENOSPC, "write"); err != nil {
		return err
	}
	st, err := f.Stat()
	if err != nil || st.Size() != size || written != size {
		return fmt.Errorf("%d bytes were written and the file has %d, want %d, %w", written, st.Size(), size, err)
	}
	dir := filepath.Dir(path)
	if have, _, _, err := free(dir); err != nil || have != 0 {
		return fmt.Errorf("free %d of a full volume, %w", have, err)
	}
	_, err = f.WriteAt(b, 0) // what is there can be written again
	err = errors.Join(err, f.Sync(), os.Remove(path))
	if err != nil {
		return err
	}
	if have, _, _, err := free(dir); err != nil || have != 0 {
		return fmt.Errorf("free %d while the file is open, %w", have, err)
	}
	if err := f.Close(); err != nil {
		return err
	}
	return eventually(func() error {
		have, _, _, err := free(dir)
		return errors.Join(err, check(have == uint64(size), "free %d after the file was deleted, want %d", have, size))
	})
}

// eventually is for what the kernel tells the sidecar without waiting.
func eventually(ok func() error) error {
	var err error
	for deadline := time.Now().Add(time.Second); time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		if err = ok(); err == nil {
			return nil
		}
	}
	return err
}

// fillInodes takes DIR INODES of an empty volume.
func fillInodes(args []string) error {
	dir := args[0]
	all, err := strconv.Atoi(args[1])
	if err != nil {
		return err
	}
	_, have, _, err := free(dir)
	if err != nil || have != uint64(all-1) { // one is the root
		return fmt.Errorf("%d free inodes, want %d, %w", have, all-1, err)
	}
	path := func(n int) string { return filepath.Join(dir, strconv.Itoa(n)) }
	for n := range all - 1 {
		if err := os.WriteFile(path(n), nil, 0o644); err != nil {
			return fmt.Errorf("file %d of %d: %w", n, all-1, err)
		}
	}
	if err := wantErr(os.Mkdir(path(all), 0o755), syscall.ENOSPC, "mkdir in a full volume"); err != nil {
		return err
	}
	if err := os.WriteFile(path(0), []byte("there is room for bytes"), 0o644); err != nil {
		return err
	}
	if err := os.Link(path(0), path(all)); err != nil { // needs no inode
		return err
	}
	if err := errors.Join(os.Remove(path(1)), eventually(func() error { return os.WriteFile(path(1), nil, 0o644) })); err != nil {
		return err
	}
	for n := range all + 1 {
		if err := os.Remove(path(n)); err != nil && n != all-1 {
			return err
		}
	}
	return eventually(func() error {
		_, have, _, err := free(dir)
		return errors.Join(err, check(have == uint64(all-1), "%d free inodes in the end, want %d", have, all-1))
	})
}
