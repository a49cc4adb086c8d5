package replication

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/remora-storage/remora/cachefs/record"
	"github.com/remora-storage/remora/cachefs/seal"
	"github.com/remora-storage/remora/cachefs/store"
	"github.com/remora-storage/remora/sidecar/replication/consensus"
	"github.com/remora-storage/remora/sidecar/replication/diskdir"
	"github.com/remora-storage/remora/sidecar/replication/journal"
	"github.com/remora-storage/remora/telemetry"
)

// ErrClosed: the group was closed.
var ErrClosed = errors.New("the volume's log is closed")

// ErrOpenedBefore: the replica was opened before by this process, which has its journal's history no more.
var ErrOpenedBefore = errors.New("the replica was opened before by this process: only a new process can open it again")

// ErrSeveral: the replica is one of a group that has had several, and only GroupConfig.Peers opens it.
var ErrSeveral = errors.New("the replica is a member of a group of several: it cannot be opened as a group of one")

// GroupConfig of a group.
type GroupConfig struct {
	Replica *diskdir.Replica
	Keys    *seal.Keys // of the volume; nil: sealing is off
	Trace   *telemetry.VolumeRecorder
	Logger  *slog.Logger
	Peers   *PeersConfig // nil: a group of one
	// Committed is told of every entry that the group has committed, in order, with its record (nil: an entry of Raft's own); after a restart
	// again of those behind the checkpoint. It must not call the group. For simulations; may be nil.
	Committed func(index record.Index, term uint64, r *record.Record)
}

// stoppedError is a failure of the store that stops the replica.
type stoppedError struct{ error }

func (e stoppedError) Unwrap() error { return e.error }

// Group is a volume's log and this node's replica of it.
type Group struct {
	cfg   GroupConfig
	disk  *Disk
	store *store.Store

	mu         sync.Mutex
	changed    *sync.Cond // anything below has changed
	work       *sync.Cond // the apply loop has something to do
	core       core
	queue      []item      // accepted or not, committed, to be applied
	queued     int64       // bytes
	due        bool        // the first of queue has waited for long enough
	urgent     int         // who waits for the apply loop
	unaccepted int64       // bytes
	unapplied  int64       // bytes
	firstKept  journal.LSN // what the superblock says that the journal is needed from, or less
	applied    record.Index
	recovered  []item
	owner      record.Name       // that this process has begun
	commit     telemetry.SpanRef // the newest group commit
	appending  journal.LSN       // a payload is being written at or behind it; 0 if none is
	noSpace    error             // why the last bind was taken back
	warned     time.Time         // when the log said last that a disk is full
	failed     error
	closing    bool
	onApplied  func([]*record.Record)

	sinceCheckpoint journal.LSN                   // where the journal was then
	hardAt          journal.LSN                   // where the newest HardState starts, at least
	checkpoints     int                           // so far
	saved           record.Index                  // of the newest checkpoint that is durable
	pressed         bool                          // somebody needs a checkpoint
	short           bool                          // and all the space that it frees
	batches         int                           // applied so far
	placing         sync.Mutex                    // held over a sync of the arena; above mu
	unsynced        atomic.Bool                   // content was placed since
	guards          sync.Mutex                    // below mu
	placed          map[record.BlobID]journal.LSN // ends of frames that name content in the arena and may lack a durable witness; see guard
	lag             *time.Timer                   // sets due
	resting         bool                          // nothing is given back to the disk for a while
	applier         sync.WaitGroup

	peers     *peers       // nil: a group of one
	replaced  bool         // the state was, or is being, replaced since the replica was opened
	salts     []byte       // what the file of salts has; nil: not known
	installed record.Index // what a peer's state has brought: entries up to here are in the store
	hollow    atomic.Bool  // the store is being replaced: nothing is applied
	company   atomic.Bool  // the last commit woke several who waited
	bodies    sync.Pool    // of *bodies, for writePayload
	applying  sync.Mutex   // held while the store is in use by the apply loop, or being replaced; above mu
}

func (g *Group) key() replicaKey {
	info := g.cfg.Replica.Info()
	return replicaKey{info.Group, info.Replica}
}

func (g *Group) storeConfig() store.Config {
	return store.Config{FS: g.disk.cfg.FS, Dir: g.cfg.Replica.Path(), Checkpoint: g.cfg.Replica.Checkpoint(), Keys: g.cfg.Keys, Rand: g.disk.cfg.Rand,
		MemTableBytes: g.disk.cfg.MemTableBytes, OnFull: g.changed.Broadcast, Replaceable: g.cfg.Peers != nil, Offline: g.disk.cfg.Manual, Logger: g.cfg.Logger}
}

// Store is the replica's state; nil while it is being replaced.
func (g *Group) Store() *store.Store {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.store
}

func (g *Group) setStore(s *store.Store) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.store = s
}

// stalled tells whether changes wait for space on the disk. g.mu is held.
func (g *Group) stalled() bool { return g.store != nil && g.store.Stalled() }

func (g *Group) closeStore() error {
	if s := g.Store(); s != nil {
		return s.Close()
	}
	return nil
}

// Acceptance is the acceptance state of what is committed.
func (g *Group) Acceptance() record.Acceptance {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.core.acceptance
}

// OnApplied names who is told which records the store has.
func (g *Group) OnApplied(applied func([]*record.Record)) {
	g.mu.Lock()
	g.onApplied = applied
	g.mu.Unlock()
}

// appendItem puts a record whose payload frame was written at the end of what is to be committed. g.mu is held.
func (g *Group) appendItem(it item) {
	g.unaccepted += it.size()
	g.unapplied += it.size()
	if g.peers == nil {
		g.core.append(it)
		return
	}
	g.peers.put(&it).own = true
	g.peers.core.Append(consensus.Entry{Kind: it.rec.Kind, Name: it.rec.Name})
}

// stopped is why the owner can go on no more. g.mu is held.
func (g *Group) stopped() error {
	if g.failed == nil && g.peers != nil {
		return g.peers.fenced
	}
	return g.failed
}

// Admit waits while too much is unaccepted or unapplied, or the journal too long for a disk that is nearly full, but not for space on
// the disk: deletes must pass, and Room refuses the rest. The caller holds no lock.
func (g *Group) Admit() error {
	g.ease()
	g.mu.Lock()
	defer g.mu.Unlock()
	committed := int64(-1) // what was unaccepted when a commit was asked for: that wakes who waits here, and once for the same is enough
	for g.stopped() == nil && !g.closing && !g.stalled() && (g.unaccepted > g.disk.cfg.MaxUnaccepted || g.unapplied > g.disk.cfg.MaxUnapplied || g.stuck()) {
		if committed != g.unaccepted {
			committed = g.unaccepted
			g.disk.poke(true)
		}
		done := g.hurry()
		g.changed.Wait()
		done()
	}
	return g.stopped()
}

// Append writes the record's payload frame to the journal: it survives the death of the process. Calls come one at a time, in the
// order of seq.
func (g *Group) Append(r *record.Record, span telemetry.SpanRef) error {
	g.mu.Lock()
	err := g.stopped()
	if err == nil && g.closing { // the session has ended before: nobody should come
		err = ErrClosed
	}
	if err != nil {
		g.mu.Unlock()
		return err
	}
	from := g.disk.journal.End()
	g.appending = from
	g.mu.Unlock()
	it, err := g.write(r)
	g.mu.Lock()
	g.appending = 0
	if g.usurped() {
		g.changed.Broadcast() // stillToApply
	}
	if err != nil {
		if journalStopped := new(journal.FailedError); errors.As(err, &journalStopped) || errors.As(err, new(stoppedError)) {
			g.failLocked(err)
		}
		g.mu.Unlock()
		return err
	}
	it.payload, it.span, it.since = from, span, telemetry.Now()
	g.appendItem(it)
	much := g.unaccepted > g.disk.cfg.MaxUnaccepted/4
	if g.peers != nil && g.disk.large(int64(r.DataBytes())) {
		g.process() // on its way while the one before is being synced: peers would wait for it
		g.unlock()
	} else {
		g.mu.Unlock()
	}
	g.disk.poke(much)
	return nil
}

// Wait returns when every record of the current epoch up to seq is accepted, with the group commit that did it.
func (g *Group) Wait(_ context.Context, seq record.Seq) (telemetry.SpanRef, error) {
	if g.peers != nil {
		return g.waitPeers(seq)
	}
	g.disk.commitUntil(func() bool {
		_, done, _ := g.accepted(seq)
		return done
	})
	ref, done, err := g.accepted(seq)
	if !done && err == nil {
		err = fmt.Errorf("record %d was committed and not accepted: another owner has taken over", seq)
	}
	return ref, err
}

// reached tells whether a record of this owner is accepted. Another owner's records have the same numbers. g.mu is held.
func (g *Group) reached(seq record.Seq) bool {
	a := g.core.acceptance
	return a.Last >= seq && (g.peers == nil || a.Epoch == g.owner.Epoch && a.Incarnation == g.owner.Incarnation)
}

func (g *Group) accepted(seq record.Seq) (telemetry.SpanRef, bool, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if err := g.stopped(); err != nil {
		return g.commit, true, err
	}
	if g.reached(seq) {
		return g.commit, true, nil
	}
	return g.commit, false, g.noSpace
}

// fail stops the replica: nothing is written any more, and everybody who waits is told (I8).
func (g *Group) fail(err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.failLocked(err)
}

func (g *Group) failLocked(err error) {
	if g.failed == nil {
		g.failed = err
		g.cfg.Logger.Error("replica stopped", "replica", g.key().replica.String(), "err", err)
	}
	g.wakeAll()
	g.changed.Broadcast()
	g.work.Broadcast()
}

// Status is where the log is.
type Status struct {
	Acceptance record.Acceptance
	Committed  record.Index
	Applied    record.Index
	Err        error             // why the replica has stopped
	Hollow     bool              // its state is being replaced by a peer's
	Replaced   bool              // it was, or is being, since the replica was opened
	Group      *consensus.Status // of a group of several
	Witness    *WitnessStatus    // of a witness
}

// Status returns where the log is.
func (g *Group) Status() Status {
	g.mu.Lock()
	defer g.mu.Unlock()
	s := Status{Acceptance: g.core.acceptance, Committed: g.core.committed, Applied: g.applied, Err: g.failed, Hollow: g.hollow.Load(), Replaced: g.replaced}
	if g.peers != nil {
		of := g.peers.core.Status()
		s.Group = &of
		s.Witness = g.witnessStatus()
	}
	return s
}
