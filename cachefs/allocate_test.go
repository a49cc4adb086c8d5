package cachefs

import (
	"bytes"
	"context"
	"log/slog"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/remora-storage/remora/cachefs/meta"
	"github.com/remora-storage/remora/cachefs/record"
	"github.com/remora-storage/remora/telemetry"
)

// keptLog keeps records and applies none, so that all state is overlay.
type keptLog struct {
	State // empty
	kept  []*record.Record
}

func (l *keptLog) Append(r *record.Record, _ telemetry.SpanRef) error {
	l.kept = append(l.kept, r)
	return nil
}
func (l *keptLog) OnApplied(func([]*record.Record))                  {}
func (l *keptLog) Admit() error                                      { return nil }
func (l *keptLog) Room(int64) error                                  { return nil }
func (l *keptLog) Get([]byte) ([]byte, bool, error)                  { return nil, false, nil }
func (l *keptLog) Scan(_, _ []byte, _ func(k, v []byte) error) error { return nil }
func (l *keptLog) Wait(context.Context, record.Seq) (telemetry.SpanRef, error) {
	return telemetry.SpanRef{}, nil
}

// uniques are the requests that name the records from the n-th on.
func (l *keptLog) uniques(n int) []uint64 {
	var all []uint64
	for _, r := range l.kept[n:] {
		all = append(all, r.Unique)
	}
	return all
}

// A request of several records counts as done only with the last of them: before that, a successor must not answer it from the table.
func TestFallocateIsDoneWithItsLastRecord(t *testing.T) {
	log := &keptLog{}
	fs, err := Open(t.Context(), Config{Log: log, State: log, Epoch: 1, Incarnation: 1, Session: 7, NewSession: true, Size: 1 << 40,
		Now: time.Now, Logger: slog.New(slog.DiscardHandler)}, true)
	require.NoError(t, err)
	defer fs.Close()
	a, err := fs.Create(&Caller{Unique: 2}, meta.Root, "file", Node{Mode: syscall.S_IFREG | 0o644})
	require.NoError(t, err)
	size := uint64(600 * record.ChunkSize) // more than one record's chunks
	_, err = fs.SetAttr(&Caller{Unique: 4}, a.Ino, SetAttr{Size: &size})
	require.NoError(t, err)
	fill := func() {
		for off := uint64(0); off < size; off += record.ChunkSize {
			_, err := fs.Write(&Caller{Unique: 4}, a.Ino, off+8192, make([]byte, 8192), false)
			require.NoError(t, err)
		}
	}
	for _, c := range []struct {
		name   string
		mode   uint32
		off, n uint64
		want   []uint64
	}{
		{"a hole in one record", FallocPunchHole | FallocKeepSize, 0, 4096, []uint64{6}},
		{"a hole that ends in a chunk", FallocPunchHole | FallocKeepSize, 0, 511*record.ChunkSize + 10, []uint64{6}},
		{"a hole that ends in one chunk more", FallocPunchHole | FallocKeepSize, 0, 512*record.ChunkSize + 10, []uint64{0, 6}},
		{"a hole in two records", FallocPunchHole | FallocKeepSize, 0, size, []uint64{0, 6}},
		{"zeros in two records", FallocZeroRange | FallocKeepSize, 0, 2 * size, []uint64{0, 6}},
		{"zeros in two records, and a new size", FallocZeroRange, 0, size + 1, []uint64{0, 0, 6}},
		{"a new size", 0, 0, size + 2, []uint64{6}},
		{"nothing new", 0, 0, size, []uint64{6}},
		{"beyond the end, and not longer", FallocKeepSize, size, 2 * size, []uint64{6}},
		{"a hole behind the end", FallocPunchHole | FallocKeepSize, 2 * size, size, []uint64{6}},
	} {
		fill()
		n := len(log.kept)
		require.NoError(t, fs.Fallocate(&Caller{Unique: 6}, a.Ino, c.mode, c.off, c.n), c.name)
		require.Equal(t, c.want, log.uniques(n), c.name)
	}
}

// Holes cost nothing: what is punched in the largest file, where little is, is one record.
func TestPunchTheLargestFile(t *testing.T) {
	fs, log := newFS(t, 1<<30)
	a, err := fs.Create(&Caller{}, meta.Root, "file", Node{Mode: syscall.S_IFREG | 0o644})
	require.NoError(t, err)
	for _, off := range []uint64{0, 5 << 40, MaxFileSize - 1} {
		n, err := fs.Write(&Caller{}, a.Ino, off, []byte("some"), false)
		require.NoError(t, err)
		require.Equal(t, min(4, int(MaxFileSize-off)), n)
	}
	_, err = fs.Write(&Caller{}, a.Ino, MaxFileSize, []byte("some"), false)
	require.ErrorIs(t, err, syscall.EFBIG)
	n := len(log.kept)
	require.NoError(t, fs.Fallocate(&Caller{}, a.Ino, FallocPunchHole|FallocKeepSize, 2, MaxFileSize-3))
	require.Len(t, log.kept, n+1)
	got := make([]byte, 4)
	_, err = fs.Read(&Caller{}, a.Ino, 0, got)
	require.NoError(t, err)
	require.Equal(t, "so\x00\x00", string(got))
	data, err := fs.Seek(a.Ino, 4096, SeekData)
	require.NoError(t, err)
	require.EqualValues(t, MaxFileSize-4096, data)
	in, err := fs.Attr(a.Ino)
	require.NoError(t, err)
	require.EqualValues(t, 2, in.Blocks)
	require.EqualValues(t, MaxFileSize, in.Size)
	require.ErrorIs(t, fs.Fallocate(&Caller{}, a.Ino, 0, 1, MaxFileSize), syscall.EFBIG)
	size := uint64(MaxFileSize + 1)
	_, err = fs.SetAttr(&Caller{}, a.Ino, SetAttr{Size: &size})
	require.ErrorIs(t, err, syscall.EFBIG)
}

// What a file has already needs no room.
func TestAllocateInAFullVolume(t *testing.T) {
	fs, _ := newFS(t, 10*record.ChunkSize)
	a, err := fs.Create(&Caller{}, meta.Root, "file", Node{Mode: syscall.S_IFREG | 0o644})
	require.NoError(t, err)
	for i := range uint64(9) {
		_, err := fs.Write(&Caller{}, a.Ino, i*record.ChunkSize, make([]byte, record.ChunkSize), false)
		require.NoError(t, err)
	}
	for _, mode := range []uint32{FallocKeepSize, 0} {
		require.NoError(t, fs.Fallocate(&Caller{}, a.Ino, mode, 0, 10*record.ChunkSize))
		require.ErrorIs(t, fs.Fallocate(&Caller{}, a.Ino, mode, 0, 10*record.ChunkSize+1), syscall.ENOSPC)
	}
	in, err := fs.Attr(a.Ino)
	require.NoError(t, err)
	require.EqualValues(t, 10*record.ChunkSize, in.Size)
}

// fullDisk has room for so many bytes at once.
type fullDisk struct {
	*keptLog
	room int64
}

func (d *fullDisk) Room(n int64) error {
	if n > d.room {
		return syscall.ENOSPC
	}
	return nil
}

// A plain allocation asks the disk for what the file lacks, and not for what it has.
func TestAllocateOnAFullDisk(t *testing.T) {
	disk := &fullDisk{&keptLog{}, 1 << 40}
	fs, err := Open(t.Context(), Config{Log: disk, State: disk, Epoch: 1, Incarnation: 1, Session: 7, NewSession: true, Size: 1 << 40,
		Now: time.Now, Logger: slog.New(slog.DiscardHandler)}, true)
	require.NoError(t, err)
	defer fs.Close()
	a, err := fs.Create(&Caller{}, meta.Root, "file", Node{Mode: syscall.S_IFREG | 0o644})
	require.NoError(t, err)
	const all, far = 4 * record.ChunkSize, 1 << 30
	for _, off := range []uint64{0, 1, 2, 3, far / record.ChunkSize} {
		_, err := fs.Write(&Caller{}, a.Ino, off*record.ChunkSize, make([]byte, record.ChunkSize), false)
		require.NoError(t, err)
	}
	for _, c := range []struct {
		room   int64
		off, n uint64
		mode   uint32
		want   error
	}{
		{0, 0, all, 0, nil},
		{0, 100, all - 200, FallocKeepSize, nil},
		{0, far, record.ChunkSize, 0, nil}, // behind a hole
		{0, far, record.ChunkSize + 1, 0, syscall.ENOSPC},
		{0, all - 1, 2, 0, syscall.ENOSPC},
		{record.BlockSize, all - 1, 2, 0, nil},
		{record.BlockSize, 0, all + record.BlockSize, FallocKeepSize, nil},
		{record.BlockSize, 0, all + record.BlockSize + 1, FallocKeepSize, syscall.ENOSPC},
		{record.BlockSize, far, record.ChunkSize + 1, 0, nil},
	} {
		disk.room = c.room
		err := fs.Fallocate(&Caller{}, a.Ino, c.mode, c.off, c.n)
		if c.want == nil {
			require.NoError(t, err, c)
		} else {
			require.ErrorIs(t, err, c.want, c)
		}
	}
}

// What is behind the end of a file in its last block goes with the part before it, where a hole covers both, or all that there is.
func TestPunchPastTheEnd(t *testing.T) {
	const whole = record.BlockSize
	for _, c := range []struct {
		size, off, n uint64
		left         uint64 // blocks
	}{
		{whole + 904, 0, 2 * whole, 0},
		{whole + 904, whole, whole, 1},
		{whole + 904, whole, 904, 1}, // up to the end
		{whole + 904, whole, 1000, 1},
		{whole + 904, 0, 100 * whole, 0},
		{whole + 904, whole, 903, 2},
		{whole + 904, whole + 1, whole, 2},
		{whole + 904, whole + 904, whole, 2}, // nothing of the file
		{record.ChunkSize - 10, 0, record.ChunkSize + 5, 0},
		{record.ChunkSize + 10, record.ChunkSize, whole, record.ChunkBlocks},
	} {
		for _, mode := range []uint32{FallocPunchHole | FallocKeepSize, FallocZeroRange | FallocKeepSize, FallocZeroRange} {
			fs, _ := newFS(t, 1<<30)
			a, err := fs.Create(&Caller{}, meta.Root, "file", Node{Mode: syscall.S_IFREG | 0o644})
			require.NoError(t, err)
			for off := uint64(0); off < c.size; off += record.ChunkSize {
				n := min(c.size-off, record.ChunkSize)
				_, err = fs.Write(&Caller{}, a.Ino, off, bytes.Repeat([]byte{7}, int(n)), false)
				require.NoError(t, err)
			}
			require.NoError(t, fs.Fallocate(&Caller{}, a.Ino, mode, c.off, c.n))
			in, err := fs.Attr(a.Ino)
			require.NoError(t, err)
			require.Equal(t, c.left, in.Blocks, "%+v, mode %#x", c, mode)
			require.Equal(t, c.left*whole, fs.Statfs().Used)
			if mode&FallocKeepSize != 0 {
				require.Equal(t, c.size, in.Size)
			}
		}
	}
}
