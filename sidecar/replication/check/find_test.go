package check_test

import (
	"context"
	"encoding/hex"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/stretchr/testify/require"

	"github.com/remora-storage/remora/disk"
	"github.com/remora-storage/remora/sidecar/replication/check"
	"github.com/remora-storage/remora/sidecar/replication/replicationtest"
)

// TestEveryDirectory: the directory of a replica, and each above it, on a real disk; keys are found where remora dev has them.
func TestEveryDirectory(t *testing.T) {
	dev := t.TempDir()
	root := filepath.Join(dev, "nodes", "node-0", "tenant")
	require.NoError(t, os.MkdirAll(root, 0o700))
	h := replicationtest.NewHistory(t, rand.New(rand.NewPCG(3, 3)), disk.OS, root)
	for range 60 {
		h.Step()
	}
	h.Stop()
	if key := h.Key(); key != nil {
		require.NoError(t, os.MkdirAll(filepath.Join(dev, "keys", "tenant"), 0o700))
		require.NoError(t, os.WriteFile(filepath.Join(dev, "keys", "tenant", "v.key"), []byte(hex.EncodeToString(key)), 0o600))
	}
	before := tree(t, disk.OS, dev)
	for _, dir := range []string{dev, filepath.Join(dev, "nodes", "node-0"), root, h.DiskDir(), h.ReplicaDir()} {
		r, err := check.Run(context.Background(), check.Config{Dir: dir})
		require.NoError(t, err)
		require.Empty(t, r.Findings, dir)
		require.Len(t, r.Replicas, 1, dir)
		require.Equal(t, "checked 1 replica: 0 findings", r.Summary())
		require.Positive(t, r.Replicas[0].Inodes)
	}
	require.Equal(t, before, tree(t, disk.OS, dev))

	for _, dir := range []string{filepath.Join(h.DiskDir(), "journal"), filepath.Join(h.ReplicaDir(), "meta"), t.TempDir(), filepath.Join(h.ReplicaDir(), "arena")} {
		_, err := check.Run(context.Background(), check.Config{Dir: dir})
		require.ErrorIs(t, err, check.ErrNotOurs, dir)
	}
	_, err := check.Run(context.Background(), check.Config{Dir: filepath.Join(dev, "gone")})
	require.ErrorIs(t, err, os.ErrNotExist)
}

// TestYoungDirectories: what was made and never used is no finding.
func TestYoungDirectories(t *testing.T) {
	fs := vfs.NewMem()
	require.NoError(t, fs.MkdirAll("dev/nodes", 0o700))
	require.Empty(t, run(t, fs, "dev").Findings)
	require.NoError(t, fs.MkdirAll("dev/nodes/n/t/disk-0", 0o700))
	require.Empty(t, run(t, fs, "dev").Findings)
	write(t, fs, "dev/nodes/n/t/disk-0/lock", nil)
	write(t, fs, "dev/nodes/n/t/disk-0/superblock", make([]byte, 4096))
	require.Empty(t, run(t, fs, "dev").Findings)
	require.NoError(t, fs.MkdirAll("dev/nodes/n/t/disk-0/journal", 0o700))
	requireFinding(t, fs, "dev", "no replica in this directory can be opened")
}

// TestManyFindings: what is beyond the limit is counted; a check ends when it is told to.
func TestManyFindings(t *testing.T) {
	s := makeSpecimen(t, rand.New(rand.NewPCG(5, 9)), true)
	path := filepath.Join(s.h.ReplicaDir(), "arena")
	write(t, s.fs, path, make([]byte, len(read(t, s.fs, path))))
	all := run(t, s.fs, s.h.Root())
	require.Greater(t, len(all.Findings), 3)
	r, err := check.Run(context.Background(), check.Config{FS: s.fs, Dir: s.h.Root(), KeyDir: "keys", MaxFindings: 2})
	require.NoError(t, err)
	require.Len(t, r.Findings, 2)
	require.Equal(t, all.Summary(), r.Summary())

	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	_, err = check.Run(ctx, check.Config{FS: s.fs, Dir: s.h.Root(), KeyDir: "keys"})
	require.ErrorIs(t, err, context.Canceled)
}
