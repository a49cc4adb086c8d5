// Package replicationtest runs random histories of operations on a volume, from cachefs to a disk that can be crashed, and on a
// model of a file system, and compares the two: what is answered, and what is left after a crash.
package replicationtest

import (
	"context"
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

	ledger *ledger
	tuning Tuning

	disk  *replication.Disk
	group *replication.Group
	vol   *cachefs.FS
}

// Tuning makes a machine small, so that little work sets everything in motion.
type Tuning struct {
	SegmentBytes, CheckpointBytes int64
	ReserveBytes                  int64
	MemTableBytes                 uint64
	MaxDelay                      time.Duration
}

// usual is what most histories run with.
var usual = Tuning{SegmentBytes: 4 << 20, CheckpointBytes: 1 << 20, MemTableBytes: 64 << 10, MaxDelay: time.Millisecond}

// ledger is what all machines of a history share, whichever crash they go on from: no epoch and no nonce is used twice.
type ledger struct {
	t      testing.TB
	mu     sync.Mutex
	epoch  record.Epoch
	nonces map[usedNonce]bool
}

func newLedger(t testing.TB) *ledger { return &ledger{t: t, nonces: map[usedNonce]bool{}} }

// usedNonce is a nonce and the subkey that it was used with.
type usedNonce struct {
	incarnation record.Incarnation
	nonce       [12]byte
}

// next is a new epoch.
func (l *ledger) next(known record.Epoch) record.Epoch {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.epoch = max(l.epoch, known) + 1
	return l.epoch
}

// use fails the test when a nonce was used before.
func (l *ledger) use(i record.Incarnation, nonce [12]byte) {
	n := usedNonce{i, nonce}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.nonces[n] {
		l.t.Errorf("nonce %x of incarnation %d is used twice", nonce, i)
	}
	l.nonces[n] = true
}

// Nonces is how many nonces were used, each once.
func (m *Machine) Nonces() int {
	m.ledger.mu.Lock()
	defer m.ledger.mu.Unlock()
	return len(m.ledger.nonces)
}

// keys are the volume's, which fail the test when a nonce is used twice.
func (m *Machine) keys() *seal.Keys {
	if m.key == nil {
		return nil
	}
	k, err := seal.New(m.key, "tenant")
	require.NoError(m.t, err)
	k.Audit = m.ledger.use
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
func newMachine(t testing.TB, rng *rand.Rand, fs disk.FS, root string, tuning Tuning) *Machine {
	m := &Machine{t: t, fs: fs, root: root, rng: rng, tuning: tuning, ledger: newLedger(t)}
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
	logger := slog.New(slog.DiscardHandler)
	m.disk, m.group, m.vol = nil, nil, nil
	dir, err := diskdir.Open(m.fs, filepath.Join(m.root, "disk-0"), "tenant", m.tuning.SegmentBytes, random)
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
	// Histories write little at a time, so that little is placed.
	m.disk, err = replication.OpenDisk(replication.Config{FS: m.fs, Rand: random, Logger: logger, CheckpointBytes: m.tuning.CheckpointBytes,
		MaxDelay: m.tuning.MaxDelay, MemTableBytes: m.tuning.MemTableBytes, ReserveBytes: m.tuning.ReserveBytes,
		PlaceBytes: pick(m.rng, []int64{-1, 4096, 4096, 8192})}, dir)
	require.NoError(m.t, err)
	keys := m.keys()
	m.group, err = m.disk.OpenGroup(replication.GroupConfig{Replica: replica, Keys: keys, Logger: logger})
	require.NoError(m.t, err)
	_, err = m.group.Recover(m.t.Context())
	require.NoError(m.t, err)
	m.epoch = m.ledger.next(m.epoch)
	name := record.Name{Epoch: m.epoch, Incarnation: record.Incarnation(m.epoch)}
	salt := make([]byte, 8+seal.SaltSize)
	meta.PutEpoch(salt, m.epoch)
	_, _ = random.Read(salt[8:])
	require.NoError(m.t, m.group.BeginEpoch(m.t.Context(), &record.Record{Header: record.Header{Kind: record.Owner, Name: name},
		Muts: []record.Mutation{{Key: meta.SaltKey(uint32(name.Incarnation)), Value: salt}}}))
	m.vol, err = cachefs.Open(m.t.Context(), cachefs.Config{Log: m.group, State: m.group.Store(), Keys: keys, Epoch: name.Epoch, Incarnation: name.Incarnation,
		Session: session, NewSession: true, Size: 1 << 30, Now: time.Now, Logger: logger}, format)
	require.NoError(m.t, err)
}

// Stop ends what runs on the disk that was lost, without looking at errors.
func (m *Machine) Stop() {
	if m.vol != nil {
		m.vol.Close()
	}
	if m.group != nil {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second) // it may wait for space
		_ = m.group.Close(ctx)
		cancel()
	}
	if m.disk != nil {
		_ = m.disk.Close()
	}
	m.vol, m.group, m.disk = nil, nil, nil
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
