package replication_test

import (
	"crypto/rand"
	"log/slog"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/remora-storage/remora/sidecar/replication"
	"github.com/remora-storage/remora/sidecar/replication/diskdir"
)

// A replica of a group of several that is opened as a group of one would commit alone, and forget who the members are with its next checkpoint.
func TestSeveralIsNotSolo(t *testing.T) {
	c := newTrio(t, 1, 2, 3)
	n := c.nodes[1]
	n.stop()
	dir, err := diskdir.Open(n.fs, "disk-0", "tenant", 4<<20, rand.Reader)
	require.NoError(t, err)
	log := slog.New(slog.DiscardHandler)
	disk, err := replication.OpenDisk(replication.Config{FS: n.fs, Rand: rand.Reader, Logger: log}, dir)
	require.NoError(t, err)
	defer disk.Close()
	r, err := dir.OpenReplica(1)
	require.NoError(t, err)
	defer r.Close()
	_, err = disk.OpenGroup(replication.GroupConfig{Replica: r, Keys: n.keys, Logger: log})
	require.ErrorIs(t, err, replication.ErrSeveral)
	require.NotEmpty(t, r.GroupState().Members)
}
