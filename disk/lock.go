package disk

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"github.com/cockroachdb/pebble/v2/vfs"
	"golang.org/x/sys/unix"
)

// ErrLocked: another process has locked the file.
var ErrLocked = errors.New("locked by another process")

// LockShared keeps others from locking the file (FS.Lock) until the result is closed, and changes nothing: it needs no right to
// write, and makes no file. A file that is not there is locked by nobody. ErrLocked if it is locked.
//
// A process must not use it on a file that it has locked itself: the kernel would drop that lock.
func LockShared(on FS, path string) (io.Closer, error) {
	if vfs.Root(on) != vfs.Default {
		return lockMemory(on, path)
	}
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return io.NopCloser(nil), nil
	}
	if err != nil {
		return nil, err
	}
	err = unix.FcntlFlock(f.Fd(), unix.F_OFD_SETLK, &unix.Flock_t{Type: unix.F_RDLCK, Whence: io.SeekStart})
	if errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EACCES) {
		err = fmt.Errorf("%s: %w", path, ErrLocked)
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// HeldBy names the process that keeps others from locking the file, for a message; empty where that is not known. As LockShared, not for a file
// that this process has locked itself.
func HeldBy(on FS, path string) string {
	if vfs.Root(on) != vfs.Default {
		return ""
	}
	f, err := os.Open(path)
	if err != nil {
		return ""
	}
	defer f.Close()
	held := unix.Flock_t{Type: unix.F_WRLCK, Whence: io.SeekStart}
	if err := unix.FcntlFlock(f.Fd(), unix.F_GETLK, &held); err != nil || held.Type == unix.F_UNLCK {
		return ""
	}
	if held.Pid <= 0 { // in another pid namespace, or of LockShared
		return "a process of another container, or one that only looks (remora check)"
	}
	return fmt.Sprintf("process %d", held.Pid)
}

// lockMemory is for file systems that no other process sees.
func lockMemory(on FS, path string) (io.Closer, error) {
	if _, err := on.Stat(path); errors.Is(err, fs.ErrNotExist) {
		return io.NopCloser(nil), nil
	}
	l, err := on.Lock(path)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrLocked, err)
	}
	return l, nil
}
