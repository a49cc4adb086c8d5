package holder

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"sync"

	"golang.org/x/sys/unix"
)

// maxSocketName is what fits behind "/proc/self/fd/<N>/" in the 108 bytes of sun_path.
const maxSocketName = 80

// Listen listens on a unix socket at path, of any length, and removes a socket that is there already: the caller must be the
// only one that listens there. The socket belongs to this user alone (0600). Closing the listener removes it.
func Listen(path string) (net.Listener, error) {
	dir, addr, err := openSocketDir(path)
	if err != nil {
		return nil, err
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		unix.Close(dir)
		return nil, err
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: addr, Net: "unix"})
	if err != nil {
		unix.Close(dir)
		return nil, fmt.Errorf("listen on %s: %w", path, err)
	}
	l.SetUnlinkOnClose(false)
	if err := os.Chmod(path, 0o600); err != nil {
		l.Close()
		unix.Close(dir)
		return nil, err
	}
	return &listener{UnixListener: l, dir: dir, name: filepath.Base(path)}, nil
}

// Dial connects to the unix socket at path, of any length.
func Dial(ctx context.Context, path string) (*net.UnixConn, error) {
	dir, addr, err := openSocketDir(path)
	if err != nil {
		return nil, err
	}
	defer unix.Close(dir)
	var d net.Dialer
	conn, err := d.DialContext(ctx, "unix", addr)
	if err != nil {
		return nil, fmt.Errorf("connect to %s: %w", path, err)
	}
	return conn.(*net.UnixConn), nil
}

// openSocketDir opens the directory of a socket and returns a short name of the socket that is good while it is open.
func openSocketDir(path string) (dir int, addr string, err error) {
	name := filepath.Base(path)
	if len(name) > maxSocketName {
		return -1, "", fmt.Errorf("socket %s: its name is longer than %d bytes", path, maxSocketName)
	}
	dir, err = unix.Open(filepath.Dir(path), unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, "", fmt.Errorf("socket %s: %w", path, err)
	}
	return dir, fmt.Sprintf("/proc/self/fd/%d/%s", dir, name), nil
}

// listener removes its socket when it is closed.
type listener struct {
	*net.UnixListener
	name string
	once sync.Once
	dir  int
}

func (l *listener) Close() error {
	err := l.UnixListener.Close()
	l.once.Do(func() {
		_ = unix.Unlinkat(l.dir, l.name, 0) // already gone is as good
		unix.Close(l.dir)
	})
	return err
}
