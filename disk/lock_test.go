package disk

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"os/exec"
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

// TestHeldBy: who is kept out can say by whom.
func TestHeldBy(t *testing.T) {
	const env = "REMORA_TEST_LOCK"
	if path := os.Getenv(env); path != "" { // the other process
		_, err := OS.Lock(path)
		require.NoError(t, err)
		_, err = os.Stdout.WriteString("locked\n")
		require.NoError(t, err)
		_, err = io.Copy(io.Discard, os.Stdin)
		require.NoError(t, err)
		return
	}
	path := filepath.Join(t.TempDir(), "lock")
	require.Empty(t, HeldBy(OS, path), "it is not there")
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestHeldBy$")
	cmd.Env = append(os.Environ(), env+"="+path)
	in, err := cmd.StdinPipe()
	require.NoError(t, err)
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	line, err := bufio.NewReader(out).ReadString('\n')
	require.NoError(t, err)
	require.Equal(t, "locked\n", line)
	_, err = OS.Lock(path)
	require.ErrorIs(t, err, unix.EAGAIN)
	require.Equal(t, fmt.Sprintf("process %d", cmd.Process.Pid), HeldBy(OS, path))
	_, err = OS.Lock(path)
	require.ErrorIs(t, err, unix.EAGAIN, "to look changes nothing")
	require.NoError(t, in.Close())
	_ = cmd.Wait() // its output was not read to the end
	require.Empty(t, HeldBy(OS, path), "nobody has it")
}
