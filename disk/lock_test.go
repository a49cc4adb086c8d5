package disk

import (
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

func TestLockShared(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	l, err := LockShared(OS, path)
	require.NoError(t, err, "nobody locks what is not there")
	require.NoError(t, l.Close())
	require.NoFileExists(t, path)

	require.NoError(t, os.WriteFile(path, []byte("as it was"), 0o400))
	l, err = LockShared(OS, path)
	require.NoError(t, err)
	again, err := LockShared(OS, path)
	require.NoError(t, err, "it is shared")
	other, err := os.OpenFile(path, os.O_RDWR, 0)
	require.NoError(t, err)
	defer other.Close()
	exclusive := func() error { // as another process would
		return unix.FcntlFlock(other.Fd(), unix.F_OFD_SETLK, &unix.Flock_t{Type: unix.F_WRLCK, Whence: io.SeekStart})
	}
	require.ErrorIs(t, exclusive(), unix.EAGAIN)
	require.NoError(t, l.Close())
	require.NoError(t, again.Close())
	require.NoError(t, exclusive())
	_, err = LockShared(OS, path)
	require.ErrorIs(t, err, ErrLocked)
	b, err := os.ReadFile(path)
	require.NoError(t, err)
	require.Equal(t, "as it was", string(b))
}

func TestLockSharedInMemory(t *testing.T) {
	fs := vfs.NewMem()
	l, err := LockShared(fs, "lock")
	require.NoError(t, err)
	require.NoError(t, l.Close())
	served, err := fs.Lock("lock")
	require.NoError(t, err)
	_, err = LockShared(fs, "lock")
	require.ErrorIs(t, err, ErrLocked)
	require.NoError(t, served.Close())
	l, err = LockShared(fs, "lock")
	require.NoError(t, err)
	require.NoError(t, l.Close())
}
