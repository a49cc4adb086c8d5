package replication

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
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
	failed     error
	closing    bool
	onApplied  func([]*record.Record)

	sinceCheckpoint journal.LSN                   // where the journal was then
	hardAt          journal.LSN                   // where the newest HardState starts, at least
	checkpoints     int                           // so far
	saved           record.Index                  // of the newest checkpoint that is durable
	pressed         bool                          // somebody needs a checkpoint for its space
	placing         sync.Mutex                    // held over a sync of the arena; above mu
	unsynced        atomic.Bool                   // content was placed since
	guards          sync.Mutex                    // below mu
	placed          map[record.BlobID]journal.LSN // ends of frames that name content in the arena and may lack a durable witness; see guard
	lag             *time.Timer                   // sets due
	applier         sync.WaitGroup

	peers     *peers       // nil: a group of one
	replaced  bool         // the state was, or is being, replaced since the replica was opened
	salts     []byte       // what the file of salts has; nil: not known
	installed record.Index // what a peer's state has brought: entries up to here are in the store
	hollow    atomic.Bool  // the store is being replaced: nothing is applied
	applying  sync.Mutex   // held while the store is in use by the apply loop, or being replaced; above mu
}

// OpenGroup opens the replica's store and applies the log to its end. It returns when the store is as new as the log and the
// checkpoint that ends replay is durable.
func (d *Disk) OpenGroup(cfg GroupConfig) (*Group, error) {
	g := &Group{cfg: cfg, disk: d, placed: map[record.BlobID]journal.LSN{}}
	g.changed, g.work = sync.NewCond(&g.mu), sync.NewCond(&g.mu)
	if d.wasTaken(g.key()) {
		return nil, ErrOpenedBefore
	}
	if cfg.Peers == nil && cfg.Replica.GroupState().Members != nil { // its checkpoints would forget who the members are, and its votes
		return nil, ErrSeveral
	}
	g.lag = time.AfterFunc(time.Hour, g.applyDue)
	var err error
	if err = g.openState(); err != nil {
		return nil, err
	}
	replay := g.replay
	if cfg.Peers != nil {
		replay = g.replayPeers
	}
	if err := replay(); err != nil {
		d.forget(g)
		return nil, errors.Join(g.distrust(err), g.closeStore())
	}
	if !d.cfg.Manual {
		g.applier.Go(g.apply)
	}
	if g.peers != nil && cfg.Peers.Tick >= 0 {
		g.applier.Go(g.run)
		g.applier.Go(g.catcher)
	}
	if g.peers != nil && cfg.Peers.Tick >= 0 && !g.witness() {
		g.applier.Go(g.filler)
		g.applier.Go(g.scrubber)
	}
	return g, nil
}

func (g *Group) replay() error {
	from := g.cfg.Replica.Checkpoint()
	if err := g.checkJournal(); err != nil {
		return err
	}
	h := g.disk.take(g)
	g.core = core{last: from.Index, committed: from.Index, acceptance: from.Acceptance}
	kept := g.disk.journal.End()
	if h != nil {
		bound, unbound, err := h.log(from, h.last, g.cfg.Keys)
		if err != nil {
			return err
		}
		if err := g.store.Adopt(entries(append(slices.Clone(bound), unbound...))); err != nil {
			return fmt.Errorf("replay: %w", err)
		}
		for batch := range slices.Chunk(bound, applyBatch) {
			if err := g.store.Apply(entries(batch)); err != nil {
				return fmt.Errorf("replay: %w", err)
			}
		}
		g.tellCommitted(bound)
		g.core.last = max(from.Index, h.last)
		g.recovered, g.hardAt = unbound, h.hardAt
		for _, it := range unbound {
			kept = min(kept, it.payload)
		}
	}
	at, err := g.store.EndReplay()
	if err != nil {
		return err
	}
	g.mu.Lock()
	g.core.committed, g.core.acceptance, g.applied = at.Index, at.Acceptance, at.Index
	g.mu.Unlock()
	return g.saveCheckpoint(at, kept)
}

// checkJournal refuses a journal that lacks what the last checkpoint left to it.
func (g *Group) checkJournal() error {
	from := journal.LSN(g.cfg.Replica.JournalFrom())
	if start, end := g.disk.journal.Start(), g.disk.journal.End(); from != 0 && (from < start || from > end) {
		return fmt.Errorf("%w: the replica needs the journal from %d on, and it has %d to %d", store.ErrDamaged, from, start, end)
	}
	return nil
}

func (d *Disk) wasTaken(key replicaKey) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.taken[key]
}

// take hands over what the journal has of a group's replica, and counts the group among those that need the journal.
func (d *Disk) take(g *Group) *history {
	d.mu.Lock()
	defer d.mu.Unlock()
	key := g.key()
	h := d.found[key]
	delete(d.found, key)
	d.taken[key] = true
	g.firstKept = d.journal.End()
	if h != nil {
		g.firstKept = h.start(g.firstKept)
	}
	if from, ok := d.closed[key]; ok {
		g.firstKept = min(g.firstKept, from)
	}
	delete(d.closed, key)
	d.groups = append(slices.Clone(d.groups), g)
	return h
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

// Recover proposes the payloads that an earlier owner process left unaccepted, unchanged and under their names, and returns how many there
// were when they are applied, or known to be lost (LostAnswers).
func (g *Group) Recover(ctx context.Context) (int, error) {
	g.mu.Lock()
	items := g.recovered
	g.recovered = nil
	for _, it := range items {
		g.appendItem(it)
	}
	if g.peers != nil { // where the owner is, the leader had better be
		if leader, _ := g.peers.core.Leader(); leader == 0 {
			g.peers.core.Campaign()
			g.process()
		}
	}
	g.mu.Unlock()
	err := g.settle(ctx)
	if errors.Is(err, ErrFenced) { // an owner elsewhere has opened an epoch since: what is here never counts, and we may open the next
		g.mu.Lock()
		g.peers.fenced = nil
		g.mu.Unlock()
		err = nil
	}
	return len(items), err
}

// LostAnswers is how many records were answered here and can never be accepted, because another owner had taken over before they were. Their
// programs hold answers that are not true any more: the session must end.
func (g *Group) LostAnswers() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.peers == nil {
		return 0
	}
	return g.peers.lost
}

// BeginEpoch appends the Owner record that opens an epoch and returns when it is applied.
func (g *Group) BeginEpoch(ctx context.Context, owner *record.Record) error {
	if err := learn(g.cfg.Keys, owner); err != nil {
		return err
	}
	g.mu.Lock()
	g.owner = owner.Name
	g.mu.Unlock()
	if err := g.Append(owner, telemetry.SpanRef{}); err != nil {
		return err
	}
	if err := g.settle(ctx); err != nil {
		return err
	}
	if a := g.Acceptance(); a.Epoch != owner.Name.Epoch {
		return fmt.Errorf("epoch %d is refused: the log is at epoch %d", owner.Name.Epoch, a.Epoch)
	}
	return nil
}

// OnApplied names who is told which records the store has.
func (g *Group) OnApplied(applied func([]*record.Record)) {
	g.mu.Lock()
	g.onApplied = applied
	g.mu.Unlock()
}

// appendItem puts a record whose payload frame was written at the end of what is to be committed. g.mu is held.
func (g *Group) appendItem(it item) {
	g.unaccepted += int64(it.rec.EncodedSize())
	g.unapplied += int64(it.rec.EncodedSize())
	if g.peers == nil {
		g.core.append(it)
		return
	}
	g.peers.put(&it).own = true
	g.peers.core.Append(consensus.Entry{Kind: it.rec.Kind, Name: it.rec.Name})
}

// settle returns when everything that was appended is applied, or ENOSPC when that waits for space on the disk.
func (g *Group) settle(ctx context.Context) error {
	g.disk.commit()
	defer context.AfterFunc(ctx, g.changed.Broadcast)()
	g.mu.Lock()
	defer g.mu.Unlock()
	defer g.hurry()()
	for g.stopped() == nil && ctx.Err() == nil && !g.settled() {
		if g.stalled() {
			return fmt.Errorf("apply the log: %w", syscall.ENOSPC)
		}
		g.changed.Wait()
	}
	return errors.Join(g.stopped(), ctx.Err())
}

// settled tells whether everything that was appended is applied. g.mu is held.
func (g *Group) settled() bool {
	if g.peers != nil {
		if n, _ := g.peers.core.Unaccepted(); n > 0 {
			return false
		}
	}
	return g.applied >= g.core.last
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
	g.mu.Unlock()
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
