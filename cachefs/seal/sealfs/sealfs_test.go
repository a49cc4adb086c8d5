package sealfs

import (
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"testing"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/stretchr/testify/require"

	"github.com/remora-storage/remora/cachefs/seal"
)

func keys(t testing.TB, b byte) *seal.Keys {
	k, err := seal.New(bytes.Repeat([]byte{b}, seal.KeySize), "tenant")
	require.NoError(t, err)
	return k
}

func write(t testing.TB, fs vfs.FS, name string, pieces ...int) []byte {
	f, err := fs.Create(name, vfs.WriteCategoryUnspecified)
	require.NoError(t, err)
	var all []byte
	for i, n := range pieces {
		p := bytes.Repeat([]byte{byte(i + 1)}, n)
		all = append(all, p...)
		_, err := f.Write(p)
		require.NoError(t, err)
		if i%2 == 1 {
			require.NoError(t, f.Sync())
		}
	}
	require.NoError(t, f.Close())
	return all
}

func TestReadBack(t *testing.T) {
	mem := vfs.NewMem()
	fs := New(mem, keys(t, 1), rand.Reader)
	want := write(t, fs, "f", 10, 20_000, 3, 70_000, 1)
	f, err := fs.Open("f")
	require.NoError(t, err)
	got, err := io.ReadAll(f)
	require.NoError(t, err)
	require.Equal(t, want, got)
	info, err := fs.Stat("f")
	require.NoError(t, err)
	require.EqualValues(t, len(want), info.Size())
	for _, off := range []int{0, 9, 10, 16383, 20_000, len(want) - 1} {
		b := make([]byte, 100)
		n, err := f.ReadAt(b, int64(off))
		require.Equal(t, want[off:off+n], b[:n])
		require.True(t, n == 100 || errors.Is(err, io.EOF))
	}
	raw, err := mem.Open("f")
	require.NoError(t, err)
	disk, err := io.ReadAll(raw)
	require.NoError(t, err)
	require.NotContains(t, string(disk), string(bytes.Repeat([]byte{2}, 32)), "content is on the disk in the clear")
}

// TestEveryFlipIsFound: whatever byte of a file changes, it does not read as something else.
func TestEveryFlipIsFound(t *testing.T) {
	mem := vfs.NewMem()
	fs := New(mem, keys(t, 1), rand.Reader)
	want := write(t, fs, "f", 100, 200, 50)
	raw, err := mem.OpenReadWrite("f", vfs.WriteCategoryUnspecified)
	require.NoError(t, err)
	disk, err := io.ReadAll(raw)
	require.NoError(t, err)
	for i := range disk {
		if i >= 9 && i < 16 {
			continue // not used
		}
		b := []byte{disk[i] ^ 0x40}
		_, err := raw.WriteAt(b, int64(i))
		require.NoError(t, err)
		if f, err := fs.Open("f"); err == nil {
			got, err := io.ReadAll(f)
			if err == nil {
				require.Less(t, len(got), len(want), "byte %d", i)
				require.True(t, bytes.HasPrefix(want, got), "byte %d", i)
			}
		}
		_, err = raw.WriteAt(disk[i:i+1], int64(i))
		require.NoError(t, err)
	}
	_, err = New(mem, keys(t, 2), rand.Reader).Open("f")
	require.NoError(t, err, "the key is not needed to find the frames")
	f, err := New(mem, keys(t, 2), rand.Reader).Open("f")
	require.NoError(t, err)
	_, err = io.ReadAll(f)
	require.ErrorIs(t, err, ErrDamaged)
}

// TestUnsyncedLog: Pebble makes a file for the WAL that the store does not use, and never syncs it. A power cut may leave its size
// without its content.
func TestUnsyncedLog(t *testing.T) {
	mem := vfs.NewMem()
	for _, name := range []string{"000002.log", "000003.sst"} {
		f, err := mem.Create(name, vfs.WriteCategoryUnspecified)
		require.NoError(t, err)
		_, err = f.Write(make([]byte, headerSize))
		require.NoError(t, err)
	}
	fs := New(mem, keys(t, 1), rand.Reader)
	f, err := fs.Open("000002.log")
	require.NoError(t, err)
	b, err := io.ReadAll(f)
	require.NoError(t, err)
	require.Empty(t, b)
	_, err = fs.Open("000003.sst")
	require.ErrorIs(t, err, ErrDamaged)
}

// TestPebble runs the store that it is for.
func TestPebble(t *testing.T) {
	mem := vfs.NewMem()
	fs := New(mem, keys(t, 1), rand.Reader)
	open := func() *pebble.DB {
		db, err := pebble.Open("db", &pebble.Options{FS: fs, DisableWAL: true, MemTableSize: 64 << 10, FormatMajorVersion: pebble.FormatNewest})
		require.NoError(t, err)
		return db
	}
	db := open()
	for i := range 20_000 {
		require.NoError(t, db.Set(fmt.Appendf(nil, "key-%06d", i), bytes.Repeat([]byte{byte(i)}, 50), pebble.NoSync))
	}
	require.NoError(t, db.Flush())
	require.NoError(t, db.Compact(t.Context(), []byte("a"), []byte("z"), false))
	require.NoError(t, db.Close())
	db = open()
	for i := range 20_000 {
		v, closer, err := db.Get(fmt.Appendf(nil, "key-%06d", i))
		require.NoError(t, err)
		require.Equal(t, bytes.Repeat([]byte{byte(i)}, 50), v)
		require.NoError(t, closer.Close())
	}
	require.NoError(t, db.Close())
}
