package replication_test

import (
	"bytes"
	"errors"
	"log/slog"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/remora-storage/remora/disk"
	"github.com/remora-storage/remora/disk/faultfs"
	"github.com/remora-storage/remora/sidecar/replication/diskdir"
	"github.com/remora-storage/remora/sidecar/replication/journal"
)

// openJournal opens a disk directory and its journal, and makes them if they are not there.
func openJournal(fs disk.FS) (dir *diskdir.Dir, j *journal.Journal, frames int, err error) {
	random := bytes.NewReader(bytes.Repeat([]byte{7}, 1<<10))
	if dir, err = diskdir.Open(fs, "node/disk-0", "tenant", 128<<10, random); err != nil {
		return nil, nil, 0, err
	}
	j, err = journal.Open(journal.Options{FS: fs, Dir: dir.JournalDir(), DiskID: dir.DiskID(), SegmentBytes: dir.SegmentBytes(), Rand: random,
		Logger: slog.New(slog.DiscardHandler)}, func(journal.Frame) error { frames++; return nil })
	return dir, j, frames, err
}

// TestMakerDies: a process dies at any call of the disk while it makes a directory and its journal. What the next process writes there, and
// syncs, survives the loss of power, however little of the directory itself the first one had made durable.
func TestMakerDies(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 1))
	for at := 1; ; at++ {
		fs := faultfs.New(rng)
		require.NoError(t, fs.MkdirAll("node", 0o700))
		require.NoError(t, disk.SyncDir(fs, "/"))
		var left *faultfs.FS
		calls := 0
		fs.Watch(&faultfs.Hooks{Before: func(op *faultfs.Op) error {
			if op.Kind == faultfs.Read || op.Kind == faultfs.Open {
				return nil
			}
			if calls++; calls == at {
				left = fs.Image(rng, faultfs.Killed, op)
			}
			if left != nil {
				return errors.New("the process is dead")
			}
			return nil
		}})
		_, _, _, _ = openJournal(fs)
		if left == nil {
			require.Greater(t, at, 10)
			return
		}
		_, j, _, err := openJournal(left)
		require.NoError(t, err, "death at call %d", at)
		_, err = j.AppendHardState(1, 2, journal.HardState{Term: 3})
		require.NoError(t, err)
		_, err = j.SyncTo(j.End())
		require.NoError(t, err)
		_, _, frames, err := openJournal(left.Image(rng, faultfs.LoseAll, nil))
		require.NoError(t, err, "death at call %d", at)
		require.Equal(t, 1, frames, "death at call %d", at)
	}
}
