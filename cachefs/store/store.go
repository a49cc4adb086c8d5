// Package store is one replica's state: Pebble for metadata, a sparse file (the arena) for blobs. It applies accepted records and
// reads; it decides nothing. Every replica of a volume runs it, whether or not its pod mounts the volume.
//
// The package promises: after Apply, Get and ReadBlocks see the records; after Checkpoint they survive a power cut, and before
// that whoever opens the store again replays the log from the last checkpoint. It does not keep records: the journal does.
package store

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"path/filepath"
	"sync"
	"sync/atomic"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/bloom"

	"github.com/remora-storage/remora/cachefs/meta"
	"github.com/remora-storage/remora/cachefs/record"
	"github.com/remora-storage/remora/cachefs/seal"
	"github.com/remora-storage/remora/cachefs/seal/sealfs"
	"github.com/remora-storage/remora/disk"
)

// ErrDamaged is the cause of errors that mean: this replica's copy is not what was written.
var ErrDamaged = errors.New("replica is damaged")

// ErrStale is returned by ReadBlocks when a block changed between the look at its seal and the read: look again.
var ErrStale = errors.New("block changed while it was read")

// Config of a store.
type Config struct {
	FS         disk.FS
	Dir        string // the replica's directory; meta/ and arena are made in it
	Checkpoint Checkpoint
	Keys       *seal.Keys // nil: sealing is off
	Rand       io.Reader  // salts of sealed files; needed with Keys
	CacheBytes int64      // of Pebble's block cache; 0 means 20 MiB
	BlobCache  int        // blobs whose seals are in memory; 0 means 1024 (at most 14 KiB each)
	// MemTableBytes of metadata are kept in memory before Pebble writes them by itself; 0 means 4 MiB.
	MemTableBytes uint64
	// Offline is for programs that look at a store once: Pebble does not rewrite its files in the background.
	Offline bool
	// Replaceable: a peer has the state, too. Damage of the metadata that a read finds stops the store, so that somebody replaces it.
	Replaceable bool
	// OnFull is called when changes begin to wait for space on the disk; may be nil.
	OnFull func()
	Logger *slog.Logger
}

// Checkpoint is the position up to which the state is durable, with the acceptance state there.
type Checkpoint struct {
	Index      record.Index
	Acceptance record.Acceptance
}

// Store is one replica's state.
//
// How a record gets into it (Apply), and what makes that safe:
//  1. The record is durable in this replica's journal: Apply's caller has synced it (I1).
//  2. acceptance decides whether it counts; the same state is in the batch, so it moves with the data (I5).
//  3. Blocks are written to their slot in the arena, over the old ones: a power cut may tear them, and replay writes them again,
//     because the journal keeps every record since the last checkpoint.
//  4. Mutations, seals, residency and the applied index go to Pebble in one batch, without a WAL. Pebble flushes when it likes, so
//     after a crash it is at some index between the last checkpoint and the last applied one, and never between two records of
//     a batch.
//  5. Checkpoint syncs the arena, then flushes Pebble. Its caller makes the index durable, then calls Reclaim.
//
// Replay starts at the checkpoint, not at the index that Pebble has: of a record at or below Pebble's index only the blocks are
// written again, and only those whose seal in the store is still the record's own (the block of an older record would overwrite
// a newer one). Slots freed at index i are given out again only after a checkpoint at or above i, and none is given out before
// the checkpoint that ends replay: until then new blobs go behind the end of the arena. Blocks that replay writes are punched first:
// see arena.write.
type Store struct {
	cfg   Config
	disk  *patient // where the state is
	db    *pebble.DB
	last  *lastStop // below Pebble
	arena *arena
	cache *pebble.Cache

	applyMu  sync.Mutex // one Apply or Checkpoint at a time; held over disk I/O
	position Checkpoint // last applied record
	opened   record.Index
	answers  answers
	freed    atomic.Bool // the arena has something to reclaim; read without applyMu
	surplus  atomic.Bool // the same of GiveBack

	mu    sync.RWMutex // blobs and what they point to; never held over disk I/O but Pebble's reads
	blobs map[record.BlobID]*blob
	// reserved are the slots of blobs that were placed and are not applied yet.
	reserved map[record.BlobID]uint32
	filled   map[record.BlobID]*blob       // blobs with content that Fill put here since the last checkpoint
	bad      map[record.BlobID]meta.Bitmap // blocks that were found to be bad and are not healed yet
	unsaved  int64                         // bytes of content in filled

	incomplete atomic.Bool // something may be absent: Install left it so
	epochs     sync.Map    // record.Epoch by record.Incarnation: what epochOf has read
	counts     counts

	salts    sync.RWMutex
	saltless bool // closed: no salt can be read any more

	failMu  sync.Mutex
	failed  error
	stopped chan struct{} // closed when failed is set
}

var appliedKey = []byte{meta.LocalPrefix, 0}
var answersKey = []byte{meta.LocalPrefix, 1}
var incompleteKey = []byte{meta.LocalPrefix, 2}
var installingKey = []byte{meta.LocalPrefix, 3}

// Open opens or makes the store in cfg.Dir. The caller then applies the log from cfg.Checkpoint on, and calls EndReplay.
func Open(cfg Config) (*Store, error) {
	s, err := openMeta(cfg)
	if err != nil {
		return nil, err
	}
	if err := s.load(); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	s.disk.open()
	return s, nil
}

// openMeta opens the metadata alone.
func openMeta(cfg Config) (*Store, error) {
	if cfg.CacheBytes == 0 {
		cfg.CacheBytes = 20 << 20
	}
	if cfg.MemTableBytes == 0 {
		cfg.MemTableBytes = 4 << 20
	}
	if cfg.BlobCache == 0 {
		cfg.BlobCache = 1024
	}
	s := &Store{cfg: cfg, disk: &patient{FS: cfg.FS, logger: cfg.Logger, onFull: cfg.OnFull}, blobs: map[record.BlobID]*blob{},
		reserved: map[record.BlobID]uint32{}, filled: map[record.BlobID]*blob{}, bad: map[record.BlobID]meta.Bitmap{},
		stopped: make(chan struct{})}
	s.cache = pebble.NewCache(cfg.CacheBytes)
	dir, options := filepath.Join(cfg.Dir, "meta"), s.pebbleOptions()
	db, err := pebble.Open(dir, options)
	if err != nil {
		s.cache.Unref()
		return nil, fmt.Errorf("open metadata of %s: %w", cfg.Dir, openError(options, dir, err))
	}
	s.db = db
	s.last.open()
	cfg.Keys.SaltsFrom(s.salt) // not before: messages of peers are opened with these keys at any time
	return s, nil
}

func (s *Store) pebbleOptions() *pebble.Options {
	last := &lastStop{FS: s.disk, stop: s.listFailed}
	s.last = last
	fs := disk.FS(last)
	if s.cfg.Keys != nil {
		fs = sealfs.New(fs, s.cfg.Keys, s.cfg.Rand)
	}
	o := &pebble.Options{
		FS:                          fs,
		Cache:                       s.cache,
		DisableWAL:                  true,
		FormatMajorVersion:          pebble.FormatNewest,
		MemTableSize:                s.cfg.MemTableBytes,
		MemTableStopWritesThreshold: 4,
		L0CompactionThreshold:       4,
		L0StopWritesThreshold:       24,
		MaxOpenFiles:                256,
		ErrorIfNotExists:            s.cfg.Checkpoint.Index > 0, // else Pebble starts anew, and deletes what it does not know
		Logger:                      quiet{s.cfg.Logger, last},
		EventListener: &pebble.EventListener{
			// Pebble would try again; after a failed fsync that would lie (I8).
			BackgroundError: func(err error) { s.fail(fmt.Errorf("metadata: %w", err)) },
			// Without this one Pebble ends the process.
			DataCorruption: func(i pebble.DataCorruptionInfo) {
				s.fail(fmt.Errorf("%w: metadata: %s: %w", ErrDamaged, i.Path, i.Details))
			},
		},
	}
	if s.cfg.Offline {
		o.DisableAutomaticCompactions, o.L0StopWritesThreshold = true, 1<<20
	}
	for i := range o.Levels {
		o.Levels[i].FilterPolicy = bloom.FilterPolicy(10)
		o.Levels[i].FilterType = pebble.TableFilter
	}
	return o
}

// load reads the position of the store and finds which slots are taken.
func (s *Store) load() error {
	s.position = s.cfg.Checkpoint
	if err := s.loadMarks(); err != nil {
		return err
	}
	b, ok, err := s.Get(appliedKey)
	if err != nil {
		return err
	}
	if ok {
		if s.opened, s.position.Acceptance, err = decodeApplied(b); err != nil {
			return err
		}
	}
	if s.opened < s.cfg.Checkpoint.Index {
		return fmt.Errorf("%w: metadata is at index %d, behind the checkpoint at %d", ErrDamaged, s.opened, s.cfg.Checkpoint.Index)
	}
	// Replay decides again, from the checkpoint on, what was accepted.
	s.position = s.cfg.Checkpoint
	if b, ok, err = s.Get(answersKey); err != nil {
		return err
	} else if ok {
		if s.answers, err = decodeAnswers(b); err != nil {
			return err
		}
	}
	used, end, err := s.usedSlots()
	if err == nil {
		err = s.checkArena(end, len(used))
	}
	if err != nil {
		return err
	}
	if s.arena, err = openArena(s.disk, filepath.Join(s.cfg.Dir, "arena"), used); err != nil {
		return err
	}
	// The names of meta/ and arena must survive what is in them.
	return disk.SyncDir(s.cfg.FS, s.cfg.Dir)
}

// loadMarks reads what Install left.
func (s *Store) loadMarks() error {
	_, installing, err := s.Get(installingKey)
	if err != nil {
		return err
	}
	if installing {
		return fmt.Errorf("%w: a snapshot was being installed: install it again", ErrDamaged)
	}
	_, incomplete, err := s.Get(incompleteKey)
	s.incomplete.Store(incomplete)
	return err
}

// Position is the last applied record, and the acceptance state there.
func (s *Store) Position() Checkpoint {
	s.applyMu.Lock()
	defer s.applyMu.Unlock()
	return s.position
}

// Get returns a copy of the value of key.
func (s *Store) Get(key []byte) ([]byte, bool, error) {
	v, closer, err := s.db.Get(key)
	if errors.Is(err, pebble.ErrNotFound) {
		return nil, false, nil
	}
	if err != nil {
		return nil, false, fmt.Errorf("read metadata: %w", s.found(err))
	}
	b := append([]byte(nil), v...)
	return b, true, closer.Close()
}

// salt is what an incarnation's Owner record left.
func (s *Store) salt(i record.Incarnation) ([]byte, error) {
	s.salts.RLock()
	defer s.salts.RUnlock()
	if s.saltless {
		return nil, fmt.Errorf("no salt of incarnation %d: the store is closed", i)
	}
	b, ok, err := s.Get(meta.SaltKey(uint32(i)))
	if err == nil && (!ok || len(b) != 8+seal.SaltSize) {
		err = fmt.Errorf("%w: no salt of incarnation %d", ErrDamaged, i)
	}
	if err != nil {
		return nil, err
	}
	return b[8:], nil
}

// Scan calls visit for the keys in [lower, upper), in order, until it returns an error. Key and value are valid only until visit
// returns.
func (s *Store) Scan(lower, upper []byte, visit func(key, value []byte) error) error {
	it, err := s.db.NewIter(&pebble.IterOptions{LowerBound: lower, UpperBound: upper})
	if err != nil {
		return fmt.Errorf("scan metadata: %w", s.found(err))
	}
	for ok := it.First(); ok; ok = it.Next() {
		if err := visit(it.Key(), it.Value()); err != nil {
			return errors.Join(err, it.Close())
		}
	}
	if err := it.Error(); err != nil {
		return errors.Join(fmt.Errorf("scan metadata: %w", s.found(err)), it.Close())
	}
	return it.Close()
}

// found says what an error of a read means, and stops the store if that is damage and there is a remedy for it.
func (s *Store) found(err error) error {
	if err = damage(err); s.cfg.Replaceable && errors.Is(err, ErrDamaged) {
		_ = s.fail(fmt.Errorf("metadata: %w", err)) // the reader gets its own
	}
	return err
}

// fail stops the store: the first cause is returned by everything that writes from now on.
func (s *Store) fail(err error) error {
	s.failMu.Lock()
	defer s.failMu.Unlock()
	if s.failed == nil {
		s.failed = err
		close(s.stopped)
		s.cfg.Logger.Error("replica stopped: it will not be written again before a restart", "err", err)
	}
	return s.failed
}

// Stopped tells that the store has stopped after an error: what writes to it is told why.
func (s *Store) Stopped() bool { return s.failure() != nil }

func (s *Store) failure() error {
	s.failMu.Lock()
	defer s.failMu.Unlock()
	return s.failed
}

// Close gives the files back. It makes nothing durable: Checkpoint does.
func (s *Store) Close() error {
	s.salts.Lock() // the keys outlive the store, and may ask it
	s.saltless = true
	s.salts.Unlock()
	s.disk.close()
	err := s.db.Close()
	if s.arena != nil {
		err = errors.Join(err, s.arena.close())
	}
	s.cache.Unref()
	return err
}

func encodeApplied(b []byte, c Checkpoint) []byte {
	return c.Acceptance.Append(binary.LittleEndian.AppendUint64(b, uint64(c.Index)))
}

func decodeApplied(b []byte) (record.Index, record.Acceptance, error) {
	if len(b) < 8 {
		return 0, record.Acceptance{}, fmt.Errorf("%w: applied index of %d bytes", ErrDamaged, len(b))
	}
	a, err := record.DecodeAcceptance(b[8:])
	return record.Index(binary.LittleEndian.Uint64(b)), a, err
}
