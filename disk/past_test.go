package disk

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

func TestPast(t *testing.T) {
	f, err := OS.OpenReadWrite(filepath.Join(t.TempDir(), "f"), Category)
	require.NoError(t, err)
	defer f.Close()
	p := OpenPast(f)
	if p == nil {
		t.Skip("the file system of the temporary directory knows no O_DIRECT")
	}
	buffer := bytes.Repeat([]byte("0123456789abcde"), 10000)
	odd := 1
	for aligned(buffer[odd:]) {
		odd++
	}
	for _, c := range []struct {
		name string
		data []byte
		off  int64
		want int
	}{
		{"aligned", make([]byte, 1<<16), 0, 1 << 16},
		{"somewhere in memory", buffer[odd:][:1<<16], 1 << 16, 1 << 16},
		{"again, with its buffer", buffer[odd+1:][:1<<15], 1 << 17, 1 << 15},
		{"a ragged end", buffer[:10000], 1 << 18, 8192},
		{"a ragged start", buffer[:8192], 1<<19 + 512, 0},
		{"little", buffer[:100], 1 << 20, 0},
	} {
		n, err := p.WriteAt(c.data, c.off)
		require.NoError(t, err, c.name)
		require.Equal(t, c.want, n, c.name)
		require.Zero(t, cachedPages(t, f), c.name)
		got := make([]byte, n)
		if n > 0 {
			_, err = f.ReadAt(got, c.off)
			require.NoError(t, err, c.name)
			require.Equal(t, c.data[:n], got, c.name)
		}
		require.NoError(t, DropCache(f, 0, 1<<21))
	}
	require.NoError(t, f.SyncData())
	require.NoError(t, p.Close())
	_, err = p.WriteAt(make([]byte, 1<<16), 0)
	require.ErrorIs(t, err, os.ErrClosed)
}

// cachedPages is 0, too, where the kernel does not tell, or the file system has nothing but its cache.
func cachedPages(t *testing.T, f File) uint64 {
	var stat unix.Cachestat_t
	var fs unix.Statfs_t
	require.NoError(t, unix.Fstatfs(int(f.Fd()), &fs))
	if err := unix.Cachestat(uint(f.Fd()), &unix.CachestatRange{}, &stat, 0); err != nil || fs.Type == unix.TMPFS_MAGIC {
		return 0
	}
	return stat.Cache
}

func TestPastOfNothing(t *testing.T) {
	f, err := vfs.NewMem().Create("f", Category)
	require.NoError(t, err)
	p := OpenPast(f)
	n, err := p.WriteAt(make([]byte, 1<<16), 0)
	require.NoError(t, err)
	require.Zero(t, n)
	require.NoError(t, p.Close())
	require.NoError(t, f.Close())
}
