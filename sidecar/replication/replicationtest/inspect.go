package replicationtest

import (
	"math/rand/v2"
	"path/filepath"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/stretchr/testify/require"

	"github.com/remora-storage/remora/disk"
	"github.com/remora-storage/remora/sidecar/replication/diskdir"
)

// FS is the disk.
func (m *Machine) FS() disk.FS { return m.fs }

// Root is the directory of the node.
func (m *Machine) Root() string { return m.root }

// DiskDir is the disk directory.
func (m *Machine) DiskDir() string { return filepath.Join(m.root, "disk-0") }

// ReplicaID names the replica.
func (m *Machine) ReplicaID() diskdir.ID { return m.replica }

// ReplicaDir is the replica's directory.
func (m *Machine) ReplicaDir() string {
	return filepath.Join(m.DiskDir(), "replicas", m.replica.String())
}

// Wreck is what a power cut at this moment would leave of a disk in memory (or, with percent 100, the death of the process). The
// machine goes on.
func (m *Machine) Wreck(percent int) *vfs.MemFS {
	mem, ok := m.fs.(*vfs.MemFS)
	require.True(m.t, ok, "only a disk in memory can be crashed here")
	return mem.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: percent, RNG: rand.New(rand.NewPCG(m.rng.Uint64(), 1))})
}

// Key is the volume's key; nil: sealing is off.
func (m *Machine) Key() []byte { return m.key }
