package faultfs

import (
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/stretchr/testify/require"

	"github.com/remora-storage/remora/disk"
)

func newFS(seed uint64) (*FS, *rand.Rand) {
	return New(rand.New(rand.NewPCG(seed, 1))), rand.New(rand.NewPCG(seed, 2))
}

func create(t testing.TB, fs *FS, name string, data []byte) vfs.File {
	f, err := fs.OpenReadWrite(name, disk.Category)
	require.NoError(t, err)
	_, err = f.WriteAt(data, 0)
	require.NoError(t, err)
	return f
}

func content(t testing.TB, fs *FS, name string) []byte {
	f, err := fs.Open(name)
	require.NoError(t, err)
	defer f.Close()
	b, err := io.ReadAll(f)
	require.NoError(t, err)
	return b
}

func full(b byte, n int) []byte { return bytes.Repeat([]byte{b}, n) }

// TestCuts: what was synced stays, what was not is old or new by sector, and names are apart from content.
func TestCuts(t *testing.T) {
	mixed := 0
	for seed := range uint64(50) {
		fs, rng := newFS(seed)
		f := create(t, fs, "d", full('a', 20_000))
		require.NoError(t, f.Sync())
		require.NoError(t, disk.SyncDir(fs, "/"))
		_, err := f.WriteAt(full('b', 9000), 100)
		require.NoError(t, err)
		create(t, fs, "unsynced", []byte("x"))
		require.NoError(t, fs.Rename("d", "e"))

		img := fs.Image(rng, LoseAll, nil)
		require.Len(t, content(t, img, "d"), 20_000)
		_, err = img.Open("e")
		require.Error(t, err)
		require.EqualValues(t, 5*pageSize, img.Used())

		for _, cut := range []Cut{Killed, KeepAll} {
			img = fs.Image(rng, cut, nil)
			require.Equal(t, content(t, fs, "e"), content(t, img, "e"), "%v", cut)
			require.NotEmpty(t, content(t, img, "unsynced"))
		}
		img = fs.Image(rng, Killed, nil).Image(rng, LoseAll, nil)
		_, err = img.Open("e")
		require.Error(t, err, "the death of a process makes nothing durable")

		img = fs.Image(rng, SomeSectors, nil)
		for name := range img.root.names {
			if name == "unsynced" {
				continue
			}
			b := content(t, img, name)
			require.Len(t, b, 20_000)
			for at := 0; at < len(b); at += sectorSize {
				s := b[at:min(at+sectorSize, len(b))]
				require.True(t, bytes.Equal(s, content(t, fs, "e")[at:at+len(s)]) || bytes.Count(s, []byte("a")) == len(s))
			}
			if n := bytes.Count(b, []byte("b")); n > 0 && n < 9000 {
				mixed++
			}
		}
	}
	require.Greater(t, mixed, 20)
}

func TestTornLast(t *testing.T) {
	lengths := map[int]bool{}
	for seed := range uint64(40) {
		fs, rng := newFS(seed)
		f := create(t, fs, "d", full('a', 5000))
		require.NoError(t, f.Sync())
		require.NoError(t, disk.SyncDir(fs, "/"))
		_, err := f.WriteAt(full('b', 1000), 0)
		require.NoError(t, err)
		var op *Op
		fs.Watch(&Hooks{After: func(o *Op) { op = o }})
		_, err = f.WriteAt(full('c', 6000), 2000)
		require.NoError(t, err)
		for _, cut := range []Cut{TornLast, KilledWriting} {
			b := content(t, fs.Image(rng, cut, op), "d")
			n := bytes.Count(b, []byte("c"))
			lengths[n] = true
			require.Equal(t, full('c', n), b[2000:2000+n])
			require.Equal(t, bytes.Count(b, []byte("a")), len(full('a', max(0, 5000-max(1000, 2000+n))))+1000)
		}
	}
	require.Greater(t, len(lengths), 30)
}

// TestFailedSync: after a failed sync the next one succeeds, and the data is gone with the cache.
func TestFailedSync(t *testing.T) {
	fs, rng := newFS(1)
	f := create(t, fs, "d", full('a', 50*pageSize))
	require.NoError(t, disk.SyncDir(fs, "/"))
	failing := true
	fs.Watch(&Hooks{Before: func(op *Op) error {
		if op.Kind == Sync && failing {
			return syscall.EIO
		}
		return nil
	}})
	require.ErrorIs(t, f.Sync(), syscall.EIO)
	failing = false
	require.NoError(t, f.Sync())
	require.Equal(t, full('a', 50*pageSize), content(t, fs, "d"))
	require.NotEqual(t, full('a', 50*pageSize), content(t, fs.Image(rng, KeepAll, nil), "d"))
}

func TestLimit(t *testing.T) {
	fs, rng := newFS(1)
	fs.Limit(10 * pageSize)
	f := create(t, fs, "d", full('a', 8*pageSize))
	n, err := f.WriteAt(full('b', 4*pageSize), 7*pageSize)
	require.ErrorIs(t, err, syscall.ENOSPC)
	require.Equal(t, 3*pageSize, n, "what fits is written")
	_, err = f.WriteAt(full('c', 10*pageSize), 0)
	require.NoError(t, err, "overwriting needs no space")
	_, err = fs.Create("e", disk.Category)
	require.ErrorIs(t, err, syscall.ENOSPC)
	require.NoError(t, disk.PunchHole(f, 0, 4*pageSize))
	u, err := fs.GetDiskUsage("")
	require.NoError(t, err)
	require.EqualValues(t, 4*pageSize, u.AvailBytes)
	require.EqualValues(t, 6*pageSize, fs.Image(rng, Killed, nil).Used())
	require.NoError(t, fs.Remove("d"))
	require.EqualValues(t, 6*pageSize, fs.Used(), "an open file keeps its space")
	require.NoError(t, f.Close())
	require.Zero(t, fs.Used())
}

func TestPartAndPretend(t *testing.T) {
	fs, rng := newFS(1)
	f := create(t, fs, "d", full('a', 5000))
	require.NoError(t, disk.SyncDir(fs, "/"))
	fs.Watch(&Hooks{Before: func(op *Op) error {
		switch op.Kind {
		case Write:
			op.Part = 10
			return syscall.EIO
		case Sync:
			return ErrPretend
		}
		return nil
	}})
	n, err := f.WriteAt(full('b', 100), 0)
	require.ErrorIs(t, err, syscall.EIO)
	require.Equal(t, 10, n)
	require.Equal(t, 10, bytes.Count(content(t, fs, "d"), []byte("b")))
	require.NoError(t, f.Sync())
	require.NoError(t, fs.Flip("d", 3, 0))
	require.Equal(t, byte('c'), content(t, fs, "d")[3])
	require.Less(t, len(content(t, fs.Image(rng, LoseAll, nil), "d")), 5000)
}

// TestPebble: a real user of the seam, crashed at every sync; what was synced is there.
func TestPebble(t *testing.T) {
	fs, rng := newFS(1)
	options := func(fs vfs.FS) *pebble.Options {
		return &pebble.Options{FS: fs, MemTableSize: 32 << 10, Logger: quiet{t}}
	}
	db, err := pebble.Open("db", options(fs))
	require.NoError(t, err)
	type left struct {
		fs     *FS
		synced int
	}
	var mu sync.Mutex
	var images []left
	var synced atomic.Int64
	fs.Watch(&Hooks{After: func(op *Op) {
		mu.Lock()
		defer mu.Unlock()
		if op.Kind == Sync && op.Call%7 == 0 {
			n := int(synced.Load())
			images = append(images, left{fs.Image(rng, Cut(rng.IntN(int(Cuts))), op), n})
		}
	}})
	for i := range 400 {
		require.NoError(t, db.Set(fmt.Appendf(nil, "k%d", i), full(byte(i), 500), pebble.Sync))
		synced.Store(int64(i + 1))
	}
	fs.Watch(nil)
	require.NoError(t, db.Close())
	for _, l := range images {
		db, err := pebble.Open("db", options(l.fs))
		require.NoError(t, err)
		for i := range l.synced {
			v, closer, err := db.Get(fmt.Appendf(nil, "k%d", i))
			require.NoError(t, err)
			require.Equal(t, full(byte(i), 500), v)
			require.NoError(t, closer.Close())
		}
		require.NoError(t, db.Close())
	}
	require.NotEmpty(t, images)
}

type quiet struct{ t testing.TB }

func (quiet) Infof(string, ...any)                {}
func (quiet) Errorf(string, ...any)               {}
func (q quiet) Fatalf(format string, args ...any) { q.t.Errorf(format, args...) }
