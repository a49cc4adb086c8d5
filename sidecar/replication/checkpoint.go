package replication

import (
	"errors"

	"github.com/remora-storage/remora/cachefs/record"
	"github.com/remora-storage/remora/cachefs/store"
	"github.com/remora-storage/remora/sidecar/replication/journal"
)

// A checkpoint makes what is applied durable in the store, moves the superblock to it, and lets the journal go that it made superfluous: in this
// order.

func (g *Group) maybeCheckpoint() error {
	g.mu.Lock()
	since := g.disk.journal.End() - g.sinceCheckpoint
	g.mu.Unlock()
	if since < journal.LSN(g.disk.cfg.CheckpointBytes) {
		return nil
	}
	return g.Checkpoint()
}

// Checkpoint makes the store durable up to what is applied and gives back what the journal keeps for it. It runs in the apply loop,
// and at Close.
func (g *Group) Checkpoint() error {
	// From here on the journal must keep what is not applied.
	g.mu.Lock()
	kept := g.disk.journal.End()
	if g.appending != 0 {
		kept = min(kept, g.appending)
	}
	for _, items := range [][]item{g.queue, g.core.bound, g.core.unbound, g.recovered} {
		for i := range items {
			if items[i].rec != nil {
				kept = min(kept, items[i].payload)
			}
		}
	}
	if g.peers != nil {
		kept = g.peers.needs(kept)
	}
	g.mu.Unlock()
	at, err := g.store.Checkpoint()
	if err != nil {
		return err
	}
	return g.saveCheckpoint(at, kept)
}

// saveCheckpoint makes the position of a durable store durable, from which on the journal is needed from kept on, and then gives back slots
// and segments.
func (g *Group) saveCheckpoint(at store.Checkpoint, kept journal.LSN) error {
	// Never above what is synced: a power cut may leave the journal shorter than its end, and that is no damage.
	from := min(kept, g.disk.journal.Synced())
	if err := g.disk.syncs.settle(); err != nil {
		return err
	}
	if g.peers != nil {
		if err := g.keepSalts(); err != nil {
			return err
		}
	}
	if err := g.cfg.Replica.SaveGroupCheckpoint(at, uint64(from), g.groupState(at)); err != nil {
		return err
	}
	if err := g.guard(nil); err != nil {
		return err
	}
	g.mu.Lock()
	// Not before: another group may give back the journal's segments at any time, and a crash finds the superblock of before.
	g.firstKept = min(from, g.hardAt)
	all := g.short
	g.mu.Unlock()
	if err := g.store.Reclaim(at.Index, all); err != nil {
		return err
	}
	return g.releaseJournal(at.Index)
}

// releaseJournal gives back what nobody needs of the journal: a checkpoint at an index is durable.
func (g *Group) releaseJournal(index record.Index) error {
	err := g.saveHardState()
	if errors.Is(err, journal.ErrNoSpace) {
		// What goes now has no HardState that is needed, and may be the next segment.
		if err = g.disk.release(g.hardAt); err == nil {
			err = g.saveHardState()
		}
	}
	if err == nil {
		g.mu.Lock()
		g.firstKept = journal.LSN(g.cfg.Replica.JournalFrom())
		g.mu.Unlock()
		err = g.disk.release(g.disk.journal.End())
	}
	if errors.Is(err, journal.ErrNoSpace) {
		err = nil // the old one stays, and so does its segment
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.sinceCheckpoint = g.disk.journal.End()
	g.checkpoints++
	g.saved = index
	g.pressed, g.short = false, false
	if g.noSpace != nil {
		g.disk.poke(true)
	}
	g.changed.Broadcast()
	return err
}

// saveHardState makes a HardState durable: it must outlive the segment that has the one before.
func (g *Group) saveHardState() error {
	start := g.disk.journal.End()
	g.mu.Lock()
	commit, err := g.appendHardLocked()
	g.mu.Unlock()
	if err != nil {
		return err
	}
	g.hardAt = start
	if _, err = g.disk.sync(); err == nil && g.peers != nil {
		g.committed(commit)
	}
	return err
}

// appendHardLocked writes the newest HardState: under g.mu, so that none comes after a newer one.
func (g *Group) appendHardLocked() (commit uint64, err error) {
	key, hard := g.key(), g.hardState()
	_, err = g.disk.journal.AppendHardState(uint64(key.group), uint64(key.replica), hard)
	return hard.Commit, err
}

// hardState is the newest. g.mu is held.
func (g *Group) hardState() journal.HardState {
	if g.peers != nil {
		h := g.peers.core.Hard()
		return journal.HardState{Term: h.Term, Vote: h.Vote, Commit: h.Commit}
	}
	return journal.HardState{Term: term, Vote: uint64(g.key().replica), Commit: uint64(g.applied)}
}

// keep is the position below which this group needs nothing of the journal.
func (g *Group) keep() journal.LSN {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.firstKept
}
