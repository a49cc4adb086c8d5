package powercut

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/remora-storage/remora/cachefs/record"
	"github.com/remora-storage/remora/disk"
)

// TestPastExt4 and TestPastXFS cut the power right after the sync of what was written past the page cache, as whole chunks are: all of it is there.
// Slots are new, punched, and used again while what was in them is still on its way to the disk.
func TestPastExt4(t *testing.T) { past(t, ext4) }

func TestPastXFS(t *testing.T) { past(t, xfs) }

func past(t *testing.T, fs fileSystem) {
	const slots, writes = 3, 12
	l := newLab(t, fs)
	l.tally.runs++
	dir := l.directory(t)
	copyFile(t, filepath.Join(dir, "disk.img"), l.empty)
	d := startRecorder(t, dir)
	m, err := fs.mount(d.file(), filepath.Join(dir, "mnt"), true)
	require.NoError(t, err)
	f, err := disk.OS.OpenReadWrite(filepath.Join(m.dir, "arena"), disk.Category)
	require.NoError(t, err)
	p := disk.OpenPast(f)
	chunk := func(k int) []byte { return bytes.Repeat([]byte{byte('a' + k)}, record.ChunkSize) }
	var ends []int64
	for k := range writes {
		at := int64(k%slots) * record.ChunkSize
		switch k / slots {
		case 1:
			require.NoError(t, disk.PunchHole(f, at, record.ChunkSize))
		case 2:
			_, err := f.WriteAt(chunk(25), at) // through the cache, and not synced
			require.NoError(t, err)
		case 3:
			_, err := f.ReadAt(make([]byte, record.ChunkSize), at) // in the cache
			require.NoError(t, err)
		}
		n, err := p.WriteAt(chunk(k), at)
		require.NoError(t, err)
		require.Equal(t, record.ChunkSize, n, "%s does not write past the page cache", fs.name)
		require.NoError(t, f.SyncData())
		got := make([]byte, record.ChunkSize)
		_, err = f.ReadAt(got, at)
		require.NoError(t, err)
		require.True(t, bytes.Equal(chunk(k), got), "write %d is not what is read", k)
		info, err := os.Stat(d.logFile())
		require.NoError(t, err)
		ends = append(ends, info.Size())
	}
	require.NoError(t, p.Close())
	require.NoError(t, f.Close())
	require.NoError(t, m.unmount())
	require.NoError(t, d.stop())

	log := readLog(t, d.logFile())
	defer func() { require.NoError(t, log.close()) }()
	durable := filepath.Join(dir, "durable.img")
	copyFile(t, durable, l.empty)
	c := newCutter(t, log, durable, &l.tally)
	defer c.close(t)
	for k, at := range ends {
		image, check := filepath.Join(dir, "image.img"), filepath.Join(dir, "check")
		c.cut(t, l.rng, image, at)
		m, err := fs.mount(image, check, false)
		require.NoError(t, err)
		b, err := os.ReadFile(filepath.Join(check, "arena"))
		require.NoError(t, m.unmount())
		require.NoError(t, err)
		for i := max(0, k-slots+1); i <= k; i++ {
			off := i % slots * record.ChunkSize
			require.True(t, len(b) >= off+record.ChunkSize && bytes.Equal(chunk(i), b[off:off+record.ChunkSize]), "power cut after write %d: write %d is not there; seed %d", k, i, l.seed)
		}
	}
	t.Logf("%s: seed %d: %v", fs.name, l.seed, l.tally)
}
