package replication

import (
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/remora-storage/remora/cachefs/record"
	"github.com/remora-storage/remora/cachefs/store"
	"github.com/remora-storage/remora/sidecar/replication/journal"
)

// To open a group is to apply the journal to the store from the last checkpoint on, before anybody asks it anything.

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
	g.core = core{last: from.Index, committed: from.Index, acceptance: from.Acceptance}
	h := g.disk.take(g) // from here on other groups' commits look at this one, too
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
		g.mu.Lock()
		g.core.last = max(from.Index, h.last)
		g.recovered, g.hardAt = unbound, h.hardAt
		g.mu.Unlock()
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
