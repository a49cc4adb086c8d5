package cachefs

import (
	"bytes"
	"math/rand/v2"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/remora-storage/remora/cachefs/meta"
	"github.com/remora-storage/remora/cachefs/record"
)

// content reads a whole file.
func content(t *testing.T, fs *FS, ino meta.Ino) []byte {
	t.Helper()
	in, err := fs.Attr(ino)
	require.NoError(t, err)
	b := make([]byte, in.Size)
	_, err = fs.Read(&Caller{}, ino, 0, b)
	require.NoError(t, err)
	return b
}

// Random copies among small, sparse and large files, compared with slices.
func TestCopyRange(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	fs, log := newFS(t, 1<<30)
	var inos []meta.Ino
	var model [][]byte
	for i := range 4 {
		a, err := fs.Create(&Caller{}, meta.Root, string(rune('a'+i)), Node{Mode: syscall.S_IFREG | 0o644})
		require.NoError(t, err)
		inos, model = append(inos, a.Ino), append(model, nil)
	}
	offset := func() int {
		return []int{rng.IntN(3000), rng.IntN(20) * record.BlockSize, record.ChunkSize - rng.IntN(9000), rng.IntN(3 * record.ChunkSize)}[rng.IntN(4)]
	}
	put := func(i, off int, data []byte) {
		if grow := off + len(data) - len(model[i]); grow > 0 {
			model[i] = append(model[i], make([]byte, grow)...)
		}
		copy(model[i][off:], data)
	}
	for step := range 150 {
		from, to, off, toOff, n := rng.IntN(4), rng.IntN(4), offset(), offset(), 1+offset()
		if step%3 == 0 {
			data := bytes.Repeat([]byte{byte(1 + rng.IntN(255))}, min(n, record.ChunkSize))
			_, err := fs.Write(&Caller{}, inos[to], uint64(toOff), data, false)
			require.NoError(t, err)
			put(to, toOff, data)
			continue
		}
		for {
			records := len(log.kept)
			got, err := fs.CopyRange(&Caller{Unique: 2}, inos[from], uint64(off), inos[to], uint64(toOff), uint64(n))
			if from == to && off < toOff+n && toOff < off+n {
				require.ErrorIs(t, err, syscall.EINVAL)
				require.Len(t, log.kept, records)
				break
			}
			require.NoError(t, err)
			if off >= len(model[from]) {
				require.Zero(t, got, "at the end")
				require.Len(t, log.kept, records)
				break
			}
			require.Positive(t, got)
			require.LessOrEqual(t, got, n)
			require.Len(t, log.kept, records+1)
			require.Equal(t, got, AnswerSize(log.kept[records].Answer, n), "what a successor answers")
			put(to, toOff, bytes.Clone(model[from][off:off+got]))
			off, toOff, n = off+got, toOff+got, n-got
			if n == 0 {
				break
			}
		}
		require.True(t, bytes.Equal(model[to], content(t, fs, inos[to])), "step %d", step)
	}
	for i := range inos {
		require.True(t, bytes.Equal(model[i], content(t, fs, inos[i])), "file %d", i)
	}
}

// Holes stay holes, also the largest, and what was there before is gone; a set-user-ID bit goes unless root copies.
func TestCopyHole(t *testing.T) {
	fs, log := newFS(t, 8<<30)
	create := func(name string) meta.Ino {
		a, err := fs.Create(&Caller{}, meta.Root, name, Node{Mode: syscall.S_IFREG | 0o4755})
		require.NoError(t, err)
		return a.Ino
	}
	from, to := create("from"), create("to")
	_, err := fs.Write(&Caller{}, from, 4<<30, []byte("end"), false)
	require.NoError(t, err)
	_, err = fs.Write(&Caller{}, to, 100, bytes.Repeat([]byte("x"), 1<<20), false)
	require.NoError(t, err)
	records := len(log.kept)
	for off := uint64(0); ; {
		n, err := fs.CopyRange(&Caller{}, from, off, to, off, 1<<62)
		require.NoError(t, err)
		if off += uint64(n); n == 0 {
			require.EqualValues(t, 4<<30+3, off)
			break
		}
	}
	require.Len(t, log.kept, records+9, "8 times 512 MiB, and the end")
	in, err := fs.Attr(to)
	require.NoError(t, err)
	require.EqualValues(t, 1, in.Blocks)
	require.EqualValues(t, 0o4755, in.Mode&0o7777)
	data, err := fs.Seek(to, 0, SeekData)
	require.NoError(t, err)
	require.EqualValues(t, 4<<30, data)
	longer := uint64(4<<30 + 10_000)
	_, err = fs.SetAttr(&Caller{}, from, SetAttr{Size: &longer})
	require.NoError(t, err)
	n, err := fs.CopyRange(&Caller{}, from, 4<<30+4096, to, 4<<30+4096, 1<<40)
	require.NoError(t, err)
	require.EqualValues(t, 10_000-4096, n, "a hole at the end")
	for i, copies := range []func() (int, error){
		func() (int, error) { return fs.CopyRange(&Caller{UID: 1}, from, 0, to, 0, 1) },
		func() (int, error) { return fs.CopyRange(&Caller{UID: 1}, from, 4<<30, to, 0, 1) },
		func() (int, error) { return 1, fs.Fallocate(&Caller{UID: 1}, to, FallocPunchHole|FallocKeepSize, 0, 1) },
		func() (int, error) { return 1, fs.Fallocate(&Caller{UID: 1}, to, 0, 0, 1) },
		func() (int, error) { return 1, fs.Fallocate(&Caller{UID: 1}, to, 0, 0, 5<<30) },
	} {
		mode := uint32(0o6755)
		_, err := fs.SetAttr(&Caller{}, to, SetAttr{Mode: &mode})
		require.NoError(t, err)
		n, err := copies()
		require.NoError(t, err)
		require.Equal(t, 1, n)
		in, err = fs.Attr(to)
		require.NoError(t, err)
		require.EqualValues(t, 0o755, in.Mode&0o7777, "change %d", i)
	}
	_, err = fs.CopyRange(&Caller{}, meta.Root, 0, to, 0, 1)
	require.ErrorIs(t, err, syscall.EISDIR)
	_, err = fs.CopyRange(&Caller{}, from, 0, to, MaxFileSize, 1)
	require.ErrorIs(t, err, syscall.EFBIG)
	n, err = fs.CopyRange(&Caller{}, from, MaxFileSize, to, 0, 1)
	require.NoError(t, err)
	require.Zero(t, n)
}
