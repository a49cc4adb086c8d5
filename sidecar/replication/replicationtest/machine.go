// Package replicationtest runs random histories of operations on a volume, from cachefs to a disk that can be crashed, and on a
// model of a file system, and compares the two: what is answered, and what is left after a crash.
package replicationtest

import (
	"context"
	"io"
	"log/slog"
	"math/rand/v2"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/stretchr/testify/require"

	"github.com/remora-storage/remora/cachefs"
	"github.com/remora-storage/remora/cachefs/meta"
	"github.com/remora-storage/remora/cachefs/record"
	"github.com/remora-storage/remora/cachefs/seal"
	"github.com/remora-storage/remora/disk"
	"github.com/remora-storage/remora/sidecar/replication"
	"github.com/remora-storage/remora/sidecar/replication/diskdir"
)

// Machine is a node with one replica, on a disk that forgets what was not synced.
type Machine struct {
	t       testing.TB
	fs      disk.FS
	root    string // directory of the node
	rng     *rand.Rand
	replica diskdir.ID
	epoch   record.Epoch
	key     []byte // of the volume; nil: sealing is off

	nonceMu sync.Mutex
	nonces  map[usedNonce]bool

	disk  *replication.Disk
	group *replication.Group
	vol   *cachefs.FS
}

// usedNonce is a nonce and the subkey that it was used with.
type usedNonce struct {
	incarnation record.Incarnation
	nonce       [12]byte
}

// keys are the volume's, which fail the test when a nonce is used twice.
func (m *Machine) keys() *seal.Keys {
	if m.key == nil {
		return nil
	}
	k, err := seal.New(m.key, "tenant")
	require.NoError(m.t, err)
	k.Audit = func(i record.Incarnation, nonce [12]byte) {
		m.nonceMu.Lock()
		defer m.nonceMu.Unlock()
		if m.nonces[usedNonce{i, nonce}] {
			m.t.Errorf("nonce %x of incarnation %d is used twice", nonce, i)
		}
		m.nonces[usedNonce{i, nonce}] = true
	}
	return k
}

// lockedReader is a source of randomness that the background may use too.
type lockedReader struct {
	mu sync.Mutex
	r  rngReader
}

func (l *lockedReader) Read(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.r.Read(b)
}

type rngReader struct{ r *rand.Rand }

func (r rngReader) Read(b []byte) (int, error) {
	for i := range b {
		b[i] = byte(r.r.Uint32())
	}
	return len(b), nil
}

const session = 77

// newMachine makes a node in the directory root, which must be there.
func newMachine(t testing.TB, rng *rand.Rand, fs disk.FS, root string) *Machine {
	m := &Machine{t: t, fs: fs, root: root, rng: rng, nonces: map[usedNonce]bool{}}
	if rng.IntN(4) > 0 { // most volumes are sealed
		m.key = make([]byte, seal.KeySize)
		_, _ = rngReader{rng}.Read(m.key)
	}
	m.Start(true)
	return m
}

// Start opens everything, as a sidecar does.
func (m *Machine) Start(format bool) {
	random := &lockedReader{r: rngReader{rand.New(rand.NewPCG(m.rng.Uint64(), 2))}}
	logger := slog.New(slog.NewTextHandler(io.Discard, nil))
	dir, err := diskdir.Open(m.fs, filepath.Join(m.root, "disk-0"), "tenant", 4<<20, random)
	require.NoError(m.t, err)
	var replica *diskdir.Replica
	if format {
		m.replica, err = diskdir.NewID(random)
		require.NoError(m.t, err)
		replica, err = dir.CreateReplica(diskdir.ReplicaInfo{Replica: m.replica, Group: 9, VolumeUID: "uid", Volume: "v"})
	} else {
		replica, err = dir.OpenReplica(m.replica)
	}
	require.NoError(m.t, err)
	m.disk, err = replication.OpenDisk(replication.Config{FS: m.fs, Rand: random, Logger: logger, CheckpointBytes: 1 << 20, MaxDelay: time.Millisecond,
		MemTableBytes: 64 << 10}, dir)
	require.NoError(m.t, err)
	keys := m.keys()
	m.group, err = m.disk.OpenGroup(replication.GroupConfig{Replica: replica, Keys: keys, Logger: logger})
	require.NoError(m.t, err)
	_, err = m.group.Recover(m.t.Context())
	require.NoError(m.t, err)
	m.epoch++
	name := record.Name{Epoch: m.epoch, Incarnation: record.Incarnation(m.epoch)}
	salt := make([]byte, 8+seal.SaltSize)
	_, _ = random.Read(salt[8:])
	require.NoError(m.t, m.group.BeginEpoch(m.t.Context(), &record.Record{Header: record.Header{Kind: record.Owner, Name: name},
		Muts: []record.Mutation{{Key: meta.SaltKey(uint32(name.Incarnation)), Value: salt}}}))
	m.vol, err = cachefs.Open(m.t.Context(), cachefs.Config{Log: m.group, State: m.group.Store(), Keys: keys, Epoch: name.Epoch, Incarnation: name.Incarnation,
		Session: session, NewSession: true, Size: 1 << 30, Now: time.Now, Logger: logger}, format)
	require.NoError(m.t, err)
}

// Stop ends what runs on the disk that was lost, without looking at errors.
func (m *Machine) Stop() {
	m.vol.Close()
	_ = m.group.Close(context.Background())
	_ = m.disk.Close()
}

// Volume is the file system.
func (m *Machine) Volume() *cachefs.FS { return m.vol }

// Crash takes a disk in memory as a power cut (or, with percent 100, the death of the process) leaves it, and starts again from it.
func (m *Machine) Crash(percent int) {
	mem, ok := m.fs.(*vfs.MemFS)
	require.True(m.t, ok, "only a disk in memory can be crashed here")
	after := mem.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: percent, RNG: rand.New(rand.NewPCG(m.rng.Uint64(), 1))})
	m.Stop()
	m.fs = after
	m.Start(false)
}

// Move starts again from another copy of the node's directory: what a real disk had after a power cut. Stop comes before.
func (m *Machine) Move(fs disk.FS, root string) {
	m.fs, m.root = fs, root
	m.Start(false)
}
