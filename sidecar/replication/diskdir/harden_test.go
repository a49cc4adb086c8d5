package diskdir

import (
	"bytes"
	"math/rand/v2"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/remora-storage/remora/cachefs/store"
	"github.com/remora-storage/remora/disk/faultfs"
)

// TestWhatIsReadIsDurable: a process writes the superblock of a replica, and is killed before the disk has it. The next process reads it and
// relies on it (it gives journal back, say), so a power cut must not bring the older one back.
func TestWhatIsReadIsDurable(t *testing.T) {
	const seed = 11
	random := func() *bytes.Reader { return bytes.NewReader(bytes.Repeat([]byte{7}, 64)) }
	rng := rand.New(rand.NewPCG(seed, 1))
	fs := faultfs.New(rng)
	d, err := Open(fs, "disk-0", "tenant", 1<<20, random())
	require.NoError(t, err)
	r, err := d.CreateReplica(ReplicaInfo{Replica: 3, Group: 9, VolumeUID: "uid", Volume: "v"})
	require.NoError(t, err)
	old, saved := GroupState{Term: 2, Members: []byte{1}}, GroupState{Term: 3, Members: []byte{1, 2}, Installing: true}
	require.NoError(t, r.SaveGroupCheckpoint(store.Checkpoint{Index: 10}, 100, old))
	fs.Watch(&faultfs.Hooks{Before: func(op *faultfs.Op) error {
		if op.Kind == faultfs.Sync {
			return faultfs.ErrPretend // it was killed while this call was under way
		}
		return nil
	}})
	require.NoError(t, r.SaveGroupCheckpoint(store.Checkpoint{Index: 20}, 200, saved))

	lost := fs.Image(rng, faultfs.LoseAll, nil) // the test itself: nothing but the next process can make it durable
	require.Equal(t, old, readAgain(t, lost, random()).GroupState())

	killed := fs.Image(rng, faultfs.Killed, nil)
	next := readAgain(t, killed, random())
	require.Equal(t, saved, next.GroupState())
	last := readAgain(t, killed.Image(rng, faultfs.LoseAll, nil), random())
	require.Equal(t, saved, last.GroupState(), "a power cut has taken back what a process has read")
	require.Equal(t, next.Checkpoint(), last.Checkpoint())
	require.Equal(t, next.JournalFrom(), last.JournalFrom())
}

// TestASaveThatFails leaves what the replica says as it was: the disk may have that, and others give journal back by what it says (seed 5000194).
func TestASaveThatFails(t *testing.T) {
	rng := rand.New(rand.NewPCG(12, 1))
	random := bytes.NewReader(bytes.Repeat([]byte{7}, 64))
	fs := faultfs.New(rng)
	d, err := Open(fs, "disk-0", "tenant", 1<<20, random)
	require.NoError(t, err)
	r, err := d.CreateReplica(ReplicaInfo{Replica: 3, Group: 9, VolumeUID: "uid", Volume: "v"})
	require.NoError(t, err)
	require.NoError(t, r.SaveGroupCheckpoint(store.Checkpoint{Index: 10}, 100, GroupState{Term: 2}))
	fs.Watch(&faultfs.Hooks{Before: func(op *faultfs.Op) error {
		if op.Kind == faultfs.Sync {
			return syscall.EIO
		}
		return nil
	}})
	require.ErrorIs(t, r.SaveGroupCheckpoint(store.Checkpoint{Index: 20}, 200, GroupState{Term: 3, Installing: true}), syscall.EIO)
	require.Equal(t, uint64(100), r.JournalFrom())
	require.Equal(t, store.Checkpoint{Index: 10}, r.Checkpoint())
	require.Equal(t, GroupState{Term: 2}, r.GroupState())
}

// TestWhatIsReadAfterAFailedSync: after a sync that failed, the system shows what was written to every reader, and takes it for written out, so
// another sync does nothing. Who reads it must write it again (seed 7001610).
func TestWhatIsReadAfterAFailedSync(t *testing.T) {
	for seed := range uint64(20) { // a failed sync may have written it
		rng := rand.New(rand.NewPCG(seed, 1))
		random := func() *bytes.Reader { return bytes.NewReader(bytes.Repeat([]byte{7}, 64)) }
		fs := faultfs.New(rng)
		d, err := Open(fs, "disk-0", "tenant", 1<<20, random())
		require.NoError(t, err)
		r, err := d.CreateReplica(ReplicaInfo{Replica: 3, Group: 9, VolumeUID: "uid", Volume: "v"})
		require.NoError(t, err)
		fs.Watch(&faultfs.Hooks{Before: func(op *faultfs.Op) error {
			if op.Kind == faultfs.Sync {
				return syscall.EIO
			}
			return nil
		}})
		saved := GroupState{Term: 3, Members: []byte{1, 2}, Installing: true}
		require.ErrorIs(t, r.SaveGroupCheckpoint(store.Checkpoint{Index: 20}, 200, saved), syscall.EIO)
		killed := fs.Image(rng, faultfs.Killed, nil)
		read := readAgain(t, killed, random()).GroupState()
		require.Equal(t, saved, read, "the test itself: the page cache has it")
		require.Equal(t, read, readAgain(t, killed.Image(rng, faultfs.LoseAll, nil), random()).GroupState(), "seed %d", seed)
	}
}

// readAgain is what a new process finds.
func readAgain(t *testing.T, fs *faultfs.FS, random *bytes.Reader) *Replica {
	d, err := Open(fs, "disk-0", "tenant", 1<<20, random)
	require.NoError(t, err)
	r, err := d.OpenReplica(3)
	require.NoError(t, err)
	return r
}
