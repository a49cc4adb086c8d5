package diskdir

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/stretchr/testify/require"

	"github.com/remora-storage/remora/cachefs/store"
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

// TestRemoveUnused: only what was made and never used goes, and with it the ID.
func TestRemoveUnused(t *testing.T) {
	fs := vfs.NewMem()
	d, err := Open(fs, "disk-0", "tenant", 1<<20, bytes.NewReader(bytes.Repeat([]byte{7}, 64)))
	require.NoError(t, err)
	use := map[ID]func(r *Replica){
		1: func(*Replica) {},
		2: func(r *Replica) { require.NoError(t, r.SaveCheckpoint(store.Checkpoint{Index: 7}, 0)) },
		3: func(r *Replica) { require.NoError(t, r.SaveCheckpoint(store.Checkpoint{}, 4096)) },
		4: func(r *Replica) {
			require.NoError(t, r.SaveGroupCheckpoint(store.Checkpoint{}, 0, GroupState{Members: []byte{}}))
		},
		5: func(r *Replica) { require.NoError(t, fs.MkdirAll(r.Path()+"/meta", 0o700)) },
	}
	for id := ID(1); id <= 5; id++ {
		r, err := d.CreateReplica(ReplicaInfo{Replica: id, Group: 9, VolumeUID: "uid", Volume: "v"})
		require.NoError(t, err)
		f, err := fs.Create(r.Path()+"/session", disk.Category)
		require.NoError(t, err)
		require.NoError(t, f.Close())
		use[id](r)
		require.NoError(t, r.Close())
	}
	require.Error(t, d.RemoveUnused(1), "a file that the caller does not name")
	require.NoError(t, d.RemoveUnused(1, "session"))
	require.Error(t, d.RemoveUnused(1, "session"), "it is gone")
	for id := ID(2); id <= 5; id++ {
		require.ErrorContains(t, d.RemoveUnused(id, "session"), "was used", "%v", id)
	}
	infos, err := d.Replicas()
	require.NoError(t, err)
	require.Len(t, infos, 4)
	require.NoError(t, d.Close())
}
