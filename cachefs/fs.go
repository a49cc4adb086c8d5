package cachefs

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/remora-storage/remora/cachefs/meta"
	"github.com/remora-storage/remora/cachefs/record"
	"github.com/remora-storage/remora/cachefs/seal"
	"github.com/remora-storage/remora/cachefs/store"
	"github.com/remora-storage/remora/telemetry"
)

// Log is the volume's log as its one writer sees it.
type Log interface {
	// Append writes the next record to the local journal and returns before it is synced. Records come in the order of their seq,
	// one call at a time. The record and what it points to belong to the log from now on and are never changed.
	// An error means that the record is not in the log and never will be.
	// span is the request that asked for it.
	Append(r *record.Record, span telemetry.SpanRef) error
	// OnApplied names who is told, in order, which records the state has from now on.
	OnApplied(applied func([]*record.Record))
	// Admit waits while too much is not accepted or not applied yet. The caller holds no lock.
	Admit() error
	// Room is asked before an operation that makes the volume larger by about n bytes: ENOSPC if the disk has no room for it. It waits
	// while space that was freed is on its way back. The caller holds no lock.
	Room(n int64) error
	// Wait returns when every record up to seq is accepted, or an error if that cannot happen any more.
	Wait(ctx context.Context, seq record.Seq) (telemetry.SpanRef, error)
}

// State is where accepted records end up: a replica's store.
type State interface {
	Get(key []byte) ([]byte, bool, error)
	Scan(lower, upper []byte, visit func(key, value []byte) error) error
	Locate(blob record.BlobID, first, count uint32) (store.Extent, error)
	Read(e store.Extent, dst []byte) error
	Answer(session, unique uint64) ([]byte, bool)
}

// Source is where content is found that the state lacks: peers, later the bucket.
type Source interface {
	// Fetch brings the state blocks [first, first+n) of a chunk that are absent from it or bad, or an error that says why nobody has
	// them. It may bring more of the chunk. With nil there is reason to look again. The caller holds no lock.
	Fetch(ctx context.Context, ino meta.Ino, chunk uint64, first, n uint32) error
}

// Limits of the format.
const (
	MaxFileSize = 16 << 40 // bytes
	MaxName     = 255      // bytes
	MaxSymlink  = 4095
	MaxLinks    = 65000
	MaxXattr    = 64 << 10
	InlineMax   = 2048 // bytes of a file that are kept in the metadata
)

// Config of a file system.
type Config struct {
	Log         Log
	State       State
	Source      Source     // nil: what the state lacks is damage
	Keys        *seal.Keys // nil: sealing is off
	Epoch       record.Epoch
	Incarnation record.Incarnation
	Session     uint64           // of the FUSE connection
	NewSession  bool             // the kernel knows nothing yet: no file of an earlier process is open
	Size        uint64           // limit of content, bytes
	Free        func() int64     // about how many bytes more the disks below may take, for statfs; nil: as many as Size allows
	Inodes      uint64           // limit of files and directories; 0 means one for each 4 KiB of Size
	Now         func() time.Time // the clock
	RetryAfter  time.Duration    // until what found no space in the background is tried again; 0 means 1 s
	Logger      *slog.Logger
}

// Caller is who asks for an operation.
type Caller struct {
	Unique   uint64 // of the request, without bit 63; 0 if nobody waits for an answer
	UID, GID uint32
	IO       *telemetry.IO // its span; may be nil
	Changed  bool          // set when the operation made a record: AnswerWritten is due
	Demoted  bool          // set when the operation took set-ID bits away: the kernel may not have noticed
}

// FS is the file system of one volume.
type FS struct {
	cfg Config

	mu       sync.RWMutex
	seq      record.Seq // of the newest record
	nonces   uint16     // that attempts at the next record have used up
	counters meta.Counters
	over     overlay
	edges    edges
	// unfinished are files with chunks behind their end: the rest of a truncation found no space on the disk.
	unfinished map[meta.Ino]bool
	tops       map[record.BlobID]uint32 // of blobs that this process made: behind the last block that was ever written

	// cacheMu is taken last. Entries are the newest state, put in while mu is held; any may be dropped at any time.
	cacheMu sync.Mutex
	inodes  map[meta.Ino]meta.Inode
	chunks  map[chunkID]meta.Chunk
	names   map[nameID]meta.Dirent // inode 0: there is no such name

	lookupMu sync.Mutex
	nameless map[meta.Ino]bool
	lookups  map[meta.Ino]uint64 // what the kernel holds; empty where it can be asked
	known    func(meta.Ino) bool // asks the kernel, which may hold more; nil: it does not
	late     map[meta.Ino]bool   // what is cut, or (true) removed, when retry fires
	retry    *time.Timer

	answeredMu sync.Mutex
	answered   []uint64 // answers that reached the kernel since the last record

	fetches context.Context // of calls of the Source: requests have none, and Close ends them
	stop    context.CancelFunc

	reap    chan meta.Ino
	reaped  sync.WaitGroup
	closing atomic.Bool
}

type chunkID struct {
	ino   meta.Ino
	index uint64
}

type nameID struct {
	parent meta.Ino
	name   string
}

const cached = 16384 // entries in each cache

// ErrNotFormatted is returned by Open for a volume that has no root directory.
var ErrNotFormatted = errors.New("volume has no file system")

// Open opens the file system whose Owner record has just been accepted and applied. With format, a volume without a root directory
// gets one. Orphans of other sessions are removed.
func Open(ctx context.Context, cfg Config, format bool) (*FS, error) {
	if cfg.Inodes == 0 {
		cfg.Inodes = max(cfg.Size/record.BlockSize, 1024)
	}
	if cfg.RetryAfter == 0 {
		cfg.RetryAfter = time.Second
	}
	fs := &FS{cfg: cfg, over: newOverlay(), inodes: map[meta.Ino]meta.Inode{}, chunks: map[chunkID]meta.Chunk{}, names: map[nameID]meta.Dirent{},
		lookups: map[meta.Ino]uint64{}, nameless: map[meta.Ino]bool{}, reap: make(chan meta.Ino, 1024),
		unfinished: map[meta.Ino]bool{}, tops: map[record.BlobID]uint32{}, late: map[meta.Ino]bool{}, retry: time.NewTimer(cfg.RetryAfter)}
	fs.fetches, fs.stop = context.WithCancel(context.WithoutCancel(ctx))
	cfg.Log.OnApplied(fs.applied)
	b, ok, err := cfg.State.Get(meta.CountersKey())
	switch {
	case err != nil:
		return nil, err
	case ok:
		if fs.counters, err = meta.DecodeCounters(b); err != nil {
			return nil, err
		}
	case !format:
		return nil, ErrNotFormatted
	default:
		if err := fs.format(ctx); err != nil {
			return nil, fmt.Errorf("format: %w", err)
		}
	}
	if cfg.Source != nil {
		fs.counters.NextBlob = max(fs.counters.NextBlob, FirstBlob(cfg.Epoch))
	}
	if err := fs.finishOrphans(); err != nil {
		return nil, err
	}
	fs.reaped.Add(1)
	go fs.reaper()
	return fs, nil
}

// FirstBlob is the first blob ID that an owner gives in an epoch, of a volume of several replicas. One of an earlier epoch that was fenced may
// have given IDs that never counted, and replicas may have its content in their arenas: nobody gives them again.
func FirstBlob(e record.Epoch) uint64 { return uint64(e) << 32 }

func (fs *FS) format(ctx context.Context) error {
	fs.mu.Lock()
	now := meta.TimeOf(fs.cfg.Now())
	// 0777, as an emptyDir that the kubelet makes: the volume replaces one.
	root := meta.Inode{Mode: syscall.S_IFDIR | 0o777, Nlink: 2, Parent: meta.Root, Atime: now, Mtime: now, Ctime: now, Btime: now}
	c := fs.begin(&Caller{})
	c.counters = meta.Counters{NextIno: uint64(meta.Root) + 1, NextBlob: 1, NextCookie: 3, Inodes: 1}
	c.setInode(meta.Root, root)
	err := c.commit(nil)
	fs.mu.Unlock()
	if err != nil {
		return err
	}
	return fs.Sync(ctx, &Caller{})
}

// Sync returns when everything that was answered before is accepted: fsync(2), of a file as of a directory.
func (fs *FS) Sync(ctx context.Context, c *Caller) error {
	fs.mu.RLock()
	seq := fs.seq
	fs.mu.RUnlock()
	start := telemetry.Now()
	commit, err := fs.cfg.Log.Wait(ctx, seq)
	c.IO.Stage(telemetry.StageCommit, start, telemetry.Now())
	c.IO.Link(commit)
	return err
}

// Admit waits while the log has more in hand than it may. It is called before an operation that changes something.
func (fs *FS) Admit() error { return fs.cfg.Log.Admit() }

// applied is called by the log when the store has the records: the overlay drops them.
func (fs *FS) applied(records []*record.Record) {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	for _, r := range records {
		if r.Name.Epoch == fs.cfg.Epoch && r.Name.Incarnation == fs.cfg.Incarnation {
			fs.over.drop(r)
		}
	}
}

// AnswerWritten is called when the answer of a request has reached the kernel: it will not be re-sent.
func (fs *FS) AnswerWritten(unique uint64) {
	fs.answeredMu.Lock()
	fs.answered = append(fs.answered, unique)
	fs.answeredMu.Unlock()
}

// FirstAnswer is what a re-sent request was answered the first time, if it changed something then.
func (fs *FS) FirstAnswer(unique uint64) ([]byte, bool) {
	return fs.cfg.State.Answer(fs.cfg.Session, unique)
}

// Statfs is what statfs(2) and status show.
type Statfs struct {
	Size, Used    uint64 // bytes
	Avail         uint64 // bytes that may be written: what is left of Size, or of the disks below if that is less
	Inodes, Files uint64
}

// Statfs returns limits and use. The caller holds no lock.
func (fs *FS) Statfs() Statfs {
	free := int64(math.MaxInt64)
	if fs.cfg.Free != nil {
		free = fs.cfg.Free()
	}
	fs.mu.RLock()
	defer fs.mu.RUnlock()
	s := Statfs{Size: fs.cfg.Size, Used: fs.counters.Used, Inodes: fs.cfg.Inodes, Files: fs.counters.Inodes}
	s.Avail = min(s.Size-min(s.Used, s.Size), uint64(max(free, 0)))
	return s
}

// Used is how many bytes of content there are. It asks no disk.
func (fs *FS) Used() uint64 {
	fs.mu.RLock()
	defer fs.mu.RUnlock()
	return fs.counters.Used
}

// Close stops what runs in the background. It makes nothing durable: Sync does.
func (fs *FS) Close() {
	fs.closing.Store(true)
	fs.stop()
	close(fs.reap)
	fs.reaped.Wait()
	fs.retry.Stop()
}

// get reads the newest value of a key. fs.mu must be held.
func (fs *FS) get(key []byte) ([]byte, bool, error) {
	if v, deleted, ok := fs.over.get(key); ok {
		return v, !deleted, nil
	}
	return fs.cfg.State.Get(key)
}

// inode reads the newest state of an inode. fs.mu must be held, for reading at least.
func (fs *FS) inode(ino meta.Ino) (meta.Inode, error) {
	fs.cacheMu.Lock()
	in, ok := fs.inodes[ino]
	fs.cacheMu.Unlock()
	if ok {
		return in, nil
	}
	b, ok, err := fs.get(meta.InodeKey(ino))
	if err != nil {
		return meta.Inode{}, err
	}
	if !ok {
		return meta.Inode{}, syscall.ESTALE
	}
	if in, err = meta.DecodeInode(b); err == nil {
		remember(&fs.cacheMu, fs.inodes, ino, in)
	}
	return in, err
}

// chunk reads the newest state of a chunk; its blob is 0 if the chunk is a hole. fs.mu must be held, for reading at least.
func (fs *FS) chunk(id chunkID) (meta.Chunk, error) {
	fs.cacheMu.Lock()
	c, ok := fs.chunks[id]
	fs.cacheMu.Unlock()
	if ok {
		return c, nil
	}
	b, ok, err := fs.get(meta.ChunkKey(id.ino, id.index))
	if err != nil || !ok {
		return meta.Chunk{}, err
	}
	if c, err = meta.DecodeChunk(b); err == nil {
		remember(&fs.cacheMu, fs.chunks, id, c)
	}
	return c, err
}

// remember puts an entry into a bounded cache; some other entry makes room.
func remember[K comparable, V any](mu *sync.Mutex, m map[K]V, k K, v V) {
	mu.Lock()
	defer mu.Unlock()
	if _, ok := m[k]; !ok && len(m) >= cached {
		for other := range m {
			delete(m, other)
			break
		}
	}
	m[k] = v
}

func forget[K comparable, V any](mu *sync.Mutex, m map[K]V, k K) {
	mu.Lock()
	defer mu.Unlock()
	delete(m, k)
}
