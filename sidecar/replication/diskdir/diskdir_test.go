package diskdir

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/stretchr/testify/require"

	"github.com/remora-storage/remora/disk"
)

// TestDeathWhileADirectoryIsMade: whatever is left, the next sidecar makes it whole, and nothing that somebody wrote is made anew.
func TestDeathWhileADirectoryIsMade(t *testing.T) {
	random := func() *bytes.Reader { return bytes.NewReader(bytes.Repeat([]byte{7}, 64)) }
	for _, size := range []int{0, 1, 4096, 8192} {
		fs := vfs.NewMem()
		require.NoError(t, fs.MkdirAll("node/disk-0", 0o700))
		f, err := fs.Create("node/disk-0/superblock", disk.Category)
		require.NoError(t, err)
		_, err = f.Write(make([]byte, size))
		require.NoError(t, err)
		require.NoError(t, f.Close())
		d, err := Open(fs, "node/disk-0", "tenant", 1<<20, random())
		require.NoError(t, err, "%d zeros", size)
		require.NoError(t, d.Close())
	}
	fs := vfs.NewMem()
	d, err := Open(fs, "node/disk-0", "tenant", 1<<20, random())
	require.NoError(t, err)
	require.NoError(t, d.Close())
	require.NoError(t, fs.MkdirAll("node/disk-0/journal", 0o700))
	f, err := fs.OpenReadWrite("node/disk-0/superblock", disk.Category)
	require.NoError(t, err)
	_, err = f.WriteAt(make([]byte, 2*copySize), 0)
	require.NoError(t, err)
	require.NoError(t, f.Close())
	_, err = Open(fs, "node/disk-0", "tenant", 1<<20, random())
	var notOurs *NotOursError
	require.ErrorAs(t, err, &notOurs, "a directory with a journal is not an empty one")
}

// TestPowerCutWhileADirectoryIsMade does the same with a disk that forgets.
func TestPowerCutWhileADirectoryIsMade(t *testing.T) {
	for s := range uint64(50) {
		t.Run(fmt.Sprintf("seed=%d", s), func(t *testing.T) {
			fs := vfs.NewCrashableMem()
			require.NoError(t, fs.MkdirAll("node/disk-0", 0o700))
			require.NoError(t, disk.SyncDir(fs, "/"))
			require.NoError(t, disk.SyncDir(fs, "node"))
			f, err := fs.Create("node/disk-0/superblock", disk.Category)
			require.NoError(t, err)
			_, err = f.Write(make([]byte, copySize))
			require.NoError(t, err)
			require.NoError(t, disk.SyncDir(fs, "node/disk-0"))
			page, err := encodeSuper(diskMagic, 1, diskSuper{DiskID: "07", Tenant: "tenant"})
			require.NoError(t, err)
			_, err = f.Write(page)
			require.NoError(t, err)
			after := fs.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: 50, RNG: rand.New(rand.NewPCG(s, 1))})
			d, err := Open(after, "node/disk-0", "tenant", 1<<20, bytes.NewReader(bytes.Repeat([]byte{7}, 64)))
			require.NoError(t, err)
			require.NoError(t, d.Close())
		})
	}
}
