package powercut

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// TestRewriteExt4 and TestRewriteXFS ask the kernel what a process gets that writes again what the one before it could not: the
// file is sparse, the disk fails one write and is well again. On ext4 of Linux 6.18 the second fsync succeeds, and the blocks read
// as zeros after the next mount; so replay punches the blocks first, and that must help everywhere.
func TestRewriteExt4(t *testing.T) { rewrite(t, ext4) }

func TestRewriteXFS(t *testing.T) { rewrite(t, xfs) }

func rewrite(t *testing.T, fs fileSystem) {
	l := newLab(t, fs)
	t.Logf("%s: written again: there after the next mount: %v", fs.name, l.rewrite(t, false))
	require.True(t, l.rewrite(t, true), "punched and written again: not there after the next mount")
}

// rewrite returns whether the file has the data in the end.
func (l *lab) rewrite(t *testing.T, punch bool) bool {
	l.tally.runs++
	dir := l.directory(t)
	copyFile(t, filepath.Join(dir, "disk.img"), l.empty)
	d := startRecorder(t, dir)
	m, err := l.fs.mount(d.file(), filepath.Join(dir, "mnt"), true)
	require.NoError(t, err)
	name := filepath.Join(m.dir, "file")
	const off, n = 8192, 8192
	data := bytes.Repeat([]byte{'A'}, n)
	write := func(punch bool) error {
		f, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE, 0o600)
		require.NoError(t, err)
		defer func() { require.NoError(t, f.Close()) }()
		require.NoError(t, f.Truncate(1<<20))
		if punch {
			require.NoError(t, unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, off, n))
		}
		_, err = f.WriteAt(data, off)
		require.NoError(t, err)
		return f.Sync()
	}
	d.tell(t, diskOrder{Fault: &fault{Count: 1}})
	require.Error(t, write(false))
	require.NoError(t, write(punch))
	require.NoError(t, m.unmount())
	m, err = l.fs.mount(d.file(), filepath.Join(dir, "mnt"), true)
	require.NoError(t, err)
	b, err := os.ReadFile(name)
	require.NoError(t, err)
	require.NoError(t, m.unmount())
	require.NoError(t, d.stop())
	return bytes.Equal(b[off:off+n], data)
}
