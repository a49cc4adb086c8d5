package replication_test

import (
	"errors"
	"math/rand/v2"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/remora-storage/remora/cachefs/record"
	"github.com/remora-storage/remora/disk"
	"github.com/remora-storage/remora/disk/faultfs"
	"github.com/remora-storage/remora/sidecar/replication/replicationtest"
)

var errDisk = errors.New("input/output error")

// fickleFS asks a function before each sync.
type fickleFS struct {
	disk.FS
	sync atomic.Pointer[func(name string, sync func() error) error]
}

type fickleFile struct {
	disk.File
	fs   *fickleFS
	name string
}

func (f *fickleFS) wrap(name string, file disk.File, err error) (disk.File, error) {
	if err != nil {
		return nil, err
	}
	return &fickleFile{file, f, filepath.Base(name)}, nil
}

func (f *fickleFS) Create(name string, c vfs.DiskWriteCategory) (disk.File, error) {
	file, err := f.FS.Create(name, c)
	return f.wrap(name, file, err)
}

func (f *fickleFS) OpenReadWrite(name string, c vfs.DiskWriteCategory, opts ...vfs.OpenOption) (disk.File, error) {
	file, err := f.FS.OpenReadWrite(name, c, opts...)
	return f.wrap(name, file, err)
}

func (f *fickleFile) sync(sync func() error) error {
	if hook := f.fs.sync.Load(); hook != nil {
		return (*hook)(f.name, sync)
	}
	return sync()
}

func (f *fickleFile) Sync() error     { return f.sync(f.File.Sync) }
func (f *fickleFile) SyncData() error { return f.sync(f.File.SyncData) }

func newFickleHistory(t *testing.T, seed uint64) (*replicationtest.History, *fickleFS) {
	mem := vfs.NewCrashableMem()
	require.NoError(t, mem.MkdirAll("node", 0o755))
	fs := &fickleFS{FS: mem}
	h := replicationtest.NewHistory(t, rand.New(rand.NewPCG(seed, 0)), fs, "node")
	return h, fs
}

func runUntilFailure(h *replicationtest.History) (err error) {
	for range 2000 {
		if err = h.TryStep(); err != nil {
			return err
		}
	}
	return nil
}

// TestNoCheckpointAfterAFailedSync: a disk that cannot flush has lost what was in its cache, of whichever file. A sync of the arena
// that succeeds after one of the journal has failed proves nothing, and a checkpoint that came of it would keep the next start
// from writing again what is lost.
func TestNoCheckpointAfterAFailedSync(t *testing.T) {
	h, fs := newFickleHistory(t, 5)
	var failed atomic.Bool
	var after atomic.Int32 // superblocks written after the failure
	atArena, proceed := make(chan struct{}), make(chan struct{})
	var once, fail sync.Once
	hook := func(name string, sync func() error) error {
		switch {
		case name == "arena": // a checkpoint is on its way; now the journal meets the bad disk
			once.Do(func() { close(atArena) })
			<-proceed
		case strings.HasSuffix(name, ".tmp"), strings.HasSuffix(name, ".seg"):
			select {
			case <-atArena:
			default:
				return sync()
			}
			err := error(nil)
			fail.Do(func() {
				err = errDisk
				failed.Store(true)
				time.AfterFunc(20*time.Millisecond, func() { close(proceed) }) // the journal is told meanwhile
			})
			if err != nil {
				return err
			}
		case name == "superblock" && failed.Load():
			after.Add(1)
		}
		return sync()
	}
	fs.sync.Store(&hook)
	require.Error(t, runUntilFailure(h))
	h.Stop()
	require.True(t, failed.Load())
	require.Zero(t, after.Load(), "a checkpoint was made after a sync had failed")
}

// TestStopWhenMetadataCannotBeFlushed: Pebble tries a flush again for ever.
func TestStopWhenMetadataCannotBeFlushed(t *testing.T) {
	h, fs := newFickleHistory(t, 6)
	hook := func(name string, sync func() error) error {
		if strings.HasSuffix(name, ".sst") {
			return errDisk
		}
		return sync()
	}
	fs.sync.Store(&hook)
	require.Error(t, runUntilFailure(h))
	h.Stop()
}

// TestReplayPunchesFirst: ext4 keeps pages over blocks whose first write has failed, and syncs what is written there again to nowhere.
// e2e/powercut has the kernel's side of it.
func TestReplayPunchesFirst(t *testing.T) {
	written := 0
	for s := uint64(1); s <= 6; s++ {
		fs := replicationtest.NewDisk(t, s)
		h := replicationtest.NewSmallHistory(t, s, fs)
		require.NoError(t, h.RunToFailure(60))
		after := fs.Image(rand.New(rand.NewPCG(s, 1)), faultfs.Killed, nil)
		h.Stop()
		var mu sync.Mutex           // Pebble works in the background
		punched := map[int64]bool{} // blocks
		slot, replayed := int64(-1), false
		after.Watch(&faultfs.Hooks{Before: func(op *faultfs.Op) error {
			mu.Lock()
			defer mu.Unlock()
			// Who reads the replica's superblock writes it again in its place; the first save, in the other one, ends replay.
			if op.Base() == "superblock" && op.Kind == faultfs.Write && strings.Contains(op.Path, "/replicas/") {
				replayed = replayed || slot >= 0 && op.Off != slot
				slot = op.Off
			}
			for off := op.Off; op.Base() == "arena" && !replayed && off < op.Off+int64(op.Len); off += record.BlockSize {
				switch op.Kind {
				case faultfs.Punch:
					punched[off] = true
				case faultfs.Write:
					written++
					assert.True(t, punched[off], "block at %d is written again over what may be there", off)
				}
			}
			return nil
		}})
		h.Move(after, "node")
		after.Watch(nil)
		h.Stop()
	}
	require.NotZero(t, written)
}
