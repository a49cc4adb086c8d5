package replication

import (
	"context"
	"errors"

	"github.com/remora-storage/remora/cachefs/record"
	"github.com/remora-storage/remora/cachefs/store"
	"github.com/remora-storage/remora/sidecar/replication/journal"
)

// applyBatch bounds the records that go into the store in one batch.
const applyBatch = 128

// apply gives committed records to the store, in order, until Close.
func (g *Group) apply() {
	defer g.applier.Done()
	for {
		g.mu.Lock()
		for len(g.queue) == 0 && g.failed == nil && !g.closing {
			g.changed.Wait()
		}
		items := g.queue[:min(len(g.queue), applyBatch)]
		g.queue = g.queue[len(items):]
		stop := g.failed != nil || len(items) == 0
		onApplied := g.onApplied
		g.mu.Unlock()
		if stop {
			return
		}
		if err := g.store.Apply(entries(items)); err != nil {
			g.fail(err)
			return
		}
		g.afterApply(items, onApplied)
		clear(items) // likewise
		if err := g.maybeCheckpoint(); err != nil {
			g.fail(err)
			return
		}
	}
}

func (g *Group) afterApply(items []item, onApplied func([]*record.Record)) {
	records := make([]*record.Record, len(items))
	bytes := int64(0)
	for i := range items {
		records[i] = items[i].rec
		bytes += int64(items[i].rec.EncodedSize())
	}
	if onApplied != nil {
		onApplied(records)
	}
	g.mu.Lock()
	g.applied = items[len(items)-1].index
	g.unapplied -= bytes
	g.changed.Broadcast()
	g.mu.Unlock()
}

func (g *Group) maybeCheckpoint() error {
	if g.disk.journal.End()-g.sinceCheckpoint < journal.LSN(g.disk.cfg.CheckpointBytes) {
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
			kept = min(kept, items[i].payload)
		}
	}
	g.mu.Unlock()
	at, err := g.store.Checkpoint()
	if err != nil {
		return err
	}
	g.mu.Lock()
	g.firstKept = kept
	g.mu.Unlock()
	return g.saveCheckpoint(at)
}

// saveCheckpoint makes the position of a durable store durable, and then gives back slots and segments.
func (g *Group) saveCheckpoint(at store.Checkpoint) error {
	// Never above what is synced: a power cut may leave the journal shorter than its end, and that is no damage.
	from := min(g.keep(), g.disk.journal.Synced())
	if err := g.cfg.Replica.SaveCheckpoint(at, uint64(from)); err != nil {
		return err
	}
	g.sinceCheckpoint = g.disk.journal.End()
	if err := g.store.Reclaim(at.Index); err != nil {
		return err
	}
	// The HardState must outlive the segment that has it.
	key := g.key()
	hard := journal.HardState{Term: term, Vote: uint64(key.replica), Commit: uint64(at.Index)}
	if _, err := g.disk.journal.AppendHardState(uint64(key.group), uint64(key.replica), hard); err != nil {
		return err
	}
	if _, err := g.disk.journal.Sync(); err != nil {
		return err
	}
	return g.disk.release()
}

// keep is the position below which this group needs nothing of the journal.
func (g *Group) keep() journal.LSN {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.firstKept
}

// Close applies what is accepted, makes a checkpoint, and closes the store.
func (g *Group) Close(ctx context.Context) error {
	err := g.settle(ctx)
	g.mu.Lock()
	g.closing = true
	g.changed.Broadcast()
	g.mu.Unlock()
	g.applier.Wait()
	if err == nil {
		err = g.Checkpoint()
	}
	g.disk.forget(g)
	return errors.Join(err, g.store.Close(), g.cfg.Replica.Close())
}

func (d *Disk) forget(g *Group) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for d.committing {
		d.ended.Wait()
	}
	var left []*Group
	for _, other := range d.groups {
		if other != g {
			left = append(left, other)
		}
	}
	d.groups = left
}
