package replication

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/remora-storage/remora/disk"
	"github.com/remora-storage/remora/sidecar/replication/diskdir"
	"github.com/remora-storage/remora/sidecar/replication/journal"
	"github.com/remora-storage/remora/telemetry"
)

// Config of a disk directory and its groups.
type Config struct {
	FS              disk.FS
	Rand            io.Reader
	Logger          *slog.Logger
	MaxDelay        time.Duration // after which a record is committed although nobody waits; 0 means 10 ms
	ApplyDelay      time.Duration // that an accepted record may wait for others to be applied with; 0 means 20 ms
	MaxUnaccepted   int64         // bytes of one group beyond which Admit waits; 0 means 16 MiB
	MaxUnapplied    int64         // bytes of one group beyond which Admit waits; 0 means 32 MiB
	CheckpointBytes int64         // of journal between checkpoints; 0 means 32 MiB
	MemTableBytes   uint64        // of metadata that is in memory only; 0 means 4 MiB
	PlaceBytes      int64         // of new content that is written once, into the arena, and not into the journal; 0 means 128 KiB, less nothing
	// ReserveBytes of the disk stay free of what makes volumes larger, beside two segments and what is being applied; 0 means 16 MiB.
	ReserveBytes int64
	// Manual is for simulations: nothing happens in the background.
	Manual bool
}

func (c Config) withDefaults() Config {
	set := func(v *int64, d int64) {
		if *v == 0 {
			*v = d
		}
	}
	if c.MaxDelay == 0 {
		c.MaxDelay = 10 * time.Millisecond
	}
	if c.ApplyDelay == 0 {
		c.ApplyDelay = 20 * time.Millisecond
	}
	set(&c.MaxUnaccepted, 16<<20)
	set(&c.MaxUnapplied, 32<<20)
	set(&c.CheckpointBytes, 32<<20)
	set(&c.PlaceBytes, 128<<10)
	set(&c.ReserveBytes, 16<<20)
	return c
}

// Disk is an open disk directory: one journal for all groups with a replica in it.
type Disk struct {
	cfg        Config
	dir        *diskdir.Dir
	syncs      *failStop
	journal    *journal.Journal
	space      space
	mu         sync.Mutex
	ended      *sync.Cond // a commit has ended
	committing bool       // somebody is in the journal's sync
	wanted     bool       // there is something that the sync under way may not have
	groups     []*Group
	found      histories                  // what the journal had, until the groups have taken it
	closed     map[replicaKey]journal.LSN // from where on replicas that are not open need it
	taken      map[replicaKey]bool        // replicas that were opened: the journal is read once

	owed  atomic.Bool   // something was delivered since Commit
	slow  atomic.Bool   // the last sync was not done at once
	armed atomic.Bool   // the background will commit soon
	kick  chan struct{} // it shall
	now   chan struct{} // much was appended
	done  chan struct{}
	wg    sync.WaitGroup
}

// OpenDisk opens the journal of a directory and reads it. Closing the Disk closes the directory.
func OpenDisk(cfg Config, dir *diskdir.Dir) (*Disk, error) {
	d := &Disk{cfg: cfg.withDefaults(), dir: dir, found: histories{},
		kick: make(chan struct{}, 1), now: make(chan struct{}, 1), done: make(chan struct{})}
	d.ended = sync.NewCond(&d.mu)
	d.syncs = newFailStop(cfg.FS)
	d.cfg.FS = d.syncs
	var err error
	d.journal, err = journal.Open(journal.Options{FS: d.cfg.FS, Dir: dir.JournalDir(), DiskID: dir.DiskID(), SegmentBytes: dir.SegmentBytes(),
		Rand: cfg.Rand, Logger: cfg.Logger, Arena: &arenas{fs: d.cfg.FS, path: func(id diskdir.ID) string { return diskdir.ArenaPath(dir.Path(), id) },
			again: func() { clear(d.found) }}}, d.found.visit)
	if err != nil {
		return nil, fmt.Errorf("open journal: %w", err)
	}
	if err := d.findClosed(); err != nil {
		return nil, errors.Join(err, d.journal.Close())
	}
	if !d.cfg.Manual {
		d.wg.Go(d.background)
	}
	return d, nil
}

// background commits what nobody waits for, and keeps the journal's next segment ready.
func (d *Disk) background() {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		if err := d.journal.Prepare(); err != nil && !errors.Is(err, journal.ErrNoSpace) {
			return // the journal has failed: every Append and Wait says so
		}
		select {
		case <-d.done:
			return
		case <-d.kick:
		}
		timer.Reset(d.cfg.MaxDelay)
		select {
		case <-d.done:
			return
		case <-timer.C:
		case <-d.now:
		}
		d.armed.Store(false) // before the commit: what is appended from here on may miss it
		d.commit()
	}
}

// poke has the background commit soon; at once if much waits. It wakes nobody where that is arranged already: most records are
// committed by whoever waits for them, and a goroutine woken for each would cost more than the record.
func (d *Disk) poke(atOnce bool) {
	if !d.armed.Swap(true) {
		wake(d.kick)
	}
	if atOnce {
		wake(d.now)
	}
}

func wake(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// commit binds and syncs everything that was appended before the call.
func (d *Disk) commit() { d.commitUntil(func() bool { return false }) }

// commitUntil returns when done is true, or after a commit of its own. One caller at a time is in the sync; the others wait for it,
// and all whom it served go on at once. done is called with d.mu held.
func (d *Disk) commitUntil(done func() bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for !done() {
		if d.committing {
			d.ended.Wait()
			continue
		}
		d.committing = true
		d.commitLocked()
		d.endLocked()
		return
	}
}

// commitLocked gives back d.mu meanwhile.
func (d *Disk) commitLocked() {
	groups := d.groups
	d.mu.Unlock()
	defer d.mu.Lock()
	d.commitOnce(groups)
}

// endLocked lets others commit, and has it done if somebody relies on it. d.mu is held.
func (d *Disk) endLocked() {
	d.committing = false
	d.ended.Broadcast()
	if d.wanted {
		d.wanted = false
		d.poke(true)
	}
}

// turns are how often somebody commits for others, before the background does.
const turns = 4

// commitOrLeave commits what was appended before the call, or leaves it to who is in a sync now: that one commits once more. The caller is
// told by its group when it is done.
func (d *Disk) commitOrLeave() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.committing {
		d.wanted = true
		return
	}
	d.committing = true
	for turn := 0; turn == 0 || d.wanted && (turn < turns || d.cfg.Manual); turn++ {
		d.wanted = false
		d.commitLocked()
	}
	d.endLocked()
}

// large tells of a record whether it has content that is written once.
func (d *Disk) large(bytes int64) bool { return d.cfg.PlaceBytes >= 0 && bytes >= d.cfg.PlaceBytes }

// slowSync, in nanoseconds, is from when on a sync is left to the background by who has other frames to read.
const slowSync = int64(2 * time.Millisecond)

// Commit makes durable what was delivered (Group.Deliver), and answers for it. It does so here, or, where the disk is slow, has the
// background do it: signs of life of a peer must not wait for a disk.
func (d *Disk) Commit() {
	if !d.owed.Swap(false) {
		return
	}
	if d.slow.Load() {
		d.poke(true)
		return
	}
	d.commitOrLeave()
}

func (d *Disk) commitOnce(groups []*Group) {
	var due []*Group
	for _, g := range groups {
		if g.bind() {
			due = append(due, g)
		}
	}
	if len(due) == 0 {
		return
	}
	start := telemetry.Now()
	lsn, err := d.sync()
	end := telemetry.Now()
	d.slow.Store(end-start > slowSync)
	for _, g := range due {
		g.synced(lsn, err, start, end)
	}
}

// sync makes everything durable that was appended before the call: first the content that it left in arenas, then the journal.
func (d *Disk) sync() (journal.LSN, error) {
	end := d.journal.End()
	d.mu.Lock()
	groups := d.groups
	d.mu.Unlock()
	for _, g := range groups {
		if err := g.syncPlaced(); err != nil {
			return 0, err
		}
	}
	return d.journal.SyncTo(end)
}

// findClosed learns what the directory's replicas need of the journal, before any of them is open.
func (d *Disk) findClosed() error {
	d.closed, d.taken = map[replicaKey]journal.LSN{}, map[replicaKey]bool{}
	infos, err := d.dir.Replicas()
	if err != nil {
		return err
	}
	for _, info := range infos {
		r, err := d.dir.OpenReplica(info.Replica)
		if err != nil {
			return err
		}
		if from := r.JournalFrom(); from != 0 {
			d.closed[replicaKey{info.Group, info.Replica}] = journal.LSN(from)
		}
		if err := r.Close(); err != nil {
			return err
		}
	}
	return nil
}

// Forget says that a replica in the directory that is not open will never be opened again: the journal keeps nothing for it.
func (d *Disk) Forget(info diskdir.ReplicaInfo) {
	d.mu.Lock()
	defer d.mu.Unlock()
	key := replicaKey{info.Group, info.Replica}
	delete(d.found, key)
	delete(d.closed, key)
}

// release gives back the journal's segments below a position that no group needs. What it has of a replica that is not open is kept.
func (d *Disk) release(below journal.LSN) error {
	d.mu.Lock()
	for _, h := range d.found {
		below = h.start(below)
	}
	for _, g := range d.groups {
		below = min(below, g.keep())
	}
	for _, from := range d.closed {
		below = min(below, from)
	}
	d.mu.Unlock()
	return d.journal.Release(below)
}

// Close stops the background and closes journal and directory. The groups must be closed before.
func (d *Disk) Close() error {
	close(d.done)
	d.wg.Wait()
	return errors.Join(d.journal.Close(), d.dir.Close())
}
