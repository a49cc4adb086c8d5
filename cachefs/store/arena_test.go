package store

import (
	"bytes"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/remora-storage/remora/cachefs/record"
	"github.com/remora-storage/remora/disk"
)

// slowPunch is a disk on which a punch lets a writer pass that does not wait for it.
type slowPunch struct {
	disk.FS
	wrote chan struct{}
}

func (s slowPunch) OpenReadWrite(name string, c disk.WriteCategory, opts ...disk.OpenOption) (disk.File, error) {
	f, err := s.FS.OpenReadWrite(name, c, opts...)
	return slowFile{f, s.wrote}, err
}

type slowFile struct {
	disk.File
	wrote chan struct{}
}

func (f slowFile) PunchHole(off, n int64) error {
	select {
	case <-f.wrote:
	case <-time.After(20 * time.Millisecond): // nobody passed
	}
	return disk.PunchHole(f.File, off, n)
}

func (f slowFile) WriteAt(b []byte, off int64) (int, error) {
	n, err := f.File.WriteAt(b, off)
	select {
	case f.wrote <- struct{}{}:
	default:
	}
	return n, err
}

// TestCleanOnce: a slot that an earlier process left is punched before anybody writes to it, and not after, whoever comes first.
func TestCleanOnce(t *testing.T) {
	const slots, blocks = 10, 4
	path := filepath.Join(t.TempDir(), "arena")
	f, err := disk.OS.OpenReadWrite(path, disk.Category)
	require.NoError(t, err)
	_, err = f.WriteAt(bytes.Repeat([]byte{9}, record.BlockSize), slots*record.ChunkSize-record.BlockSize)
	require.NoError(t, err)
	require.NoError(t, f.Close())
	a, err := openArena(slowPunch{disk.OS, make(chan struct{})}, path, nil)
	require.NoError(t, err)
	a.endReplay()
	content := func(writer int) []byte { return bytes.Repeat([]byte{byte(writer + 1)}, blocks*record.BlockSize) }
	for range slots {
		slot := a.allocate(false)
		var wg sync.WaitGroup
		errs := make([]error, 2)
		wg.Go(func() { errs[0] = a.place(slot, 0, content(0)) })
		wg.Go(func() { errs[1] = a.write(slot, blocks, content(1)) })
		wg.Wait()
		require.NoError(t, errs[0])
		require.NoError(t, errs[1])
		for writer := range 2 {
			got := make([]byte, blocks*record.BlockSize)
			require.NoError(t, a.read(slot, uint32(writer*blocks), got))
			require.True(t, bytes.Equal(content(writer), got), "slot %d, writer %d", slot, writer)
		}
	}
	require.NoError(t, a.close())
}
