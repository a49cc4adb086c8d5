package replication

import (
	"context"
	"errors"
	"time"

	"github.com/remora-storage/remora/cachefs/record"
	"github.com/remora-storage/remora/sidecar/replication/journal"
)

// applyBatch bounds the records that go into the store in one batch.
const applyBatch = 512

// applyBytes of records are applied without waiting for more.
const applyBytes = 1 << 20

// size is the record's, in bytes; 0 for an entry of Raft's own.
func (it *item) size() int64 {
	switch {
	case it.rec == nil:
		return 0
	case it.raw > 0:
		return int64(it.raw)
	case it.encoded > 0:
		return int64(it.encoded)
	}
	return int64(it.rec.EncodedSize())
}

// weight is what the record takes in memory.
func (it *item) weight() int64 {
	if it.raw > 0 {
		return int64(len(it.meta))
	}
	return it.size()
}

// enqueue leaves committed records to the apply loop. They may wait a little: reads find them in the overlay, and one batch of many
// costs the store less than many of one, above all where they change the same keys. g.mu is held.
func (g *Group) enqueue(items []item, bytes int64) {
	if len(g.queue) == 0 {
		g.lag.Reset(g.disk.cfg.ApplyDelay)
	}
	g.queue = append(g.queue, items...)
	g.queued += bytes
	if g.applicable() {
		g.work.Signal()
	}
}

// applicable tells whether the apply loop has a batch to apply now. g.mu is held.
func (g *Group) applicable() bool {
	return len(g.queue) >= applyBatch || g.queued >= applyBytes || len(g.queue) > 0 && (g.due || g.urgent > 0)
}

// applyDue is called when the first of the queue has waited for long enough.
func (g *Group) applyDue() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.due = true
	g.work.Signal()
}

// hurry has everything applied at once until the function that it returns is called. g.mu is held, in both.
func (g *Group) hurry() (done func()) {
	g.urgent++
	g.work.Signal()
	return func() { g.urgent-- }
}

// dequeue takes the next batch. g.mu is held.
func (g *Group) dequeue() []item {
	items := g.queue[:min(len(g.queue), applyBatch)]
	g.queue = g.queue[len(items):]
	for i := range items {
		g.queued -= items[i].size()
	}
	g.due = g.due && len(g.queue) > 0
	return items
}

// apply gives committed records to the store, in order, until Close.
func (g *Group) apply() {
	for {
		g.mu.Lock()
		for (g.hollow.Load() || !g.applicable() && !g.pressed) && g.failed == nil && !g.closing {
			if g.surplus() {
				g.mu.Unlock()
				g.giveBack()
				g.mu.Lock()
				continue
			}
			g.work.Wait()
		}
		g.mu.Unlock()
		if !g.applyNext() {
			return
		}
	}
}

// applyNext applies the next batch; where there is none, it makes a checkpoint. False: the group has stopped, or is closed and has applied all.
func (g *Group) applyNext() bool {
	g.mu.Lock()
	var items []item
	if !g.hollow.Load() {
		items = g.dequeue()
	}
	stop := g.failed != nil || len(items) == 0 && g.closing
	onApplied := g.onApplied
	g.mu.Unlock()
	if stop {
		return false
	}
	var err error
	if len(items) > 0 {
		err = g.applyBatch(items, onApplied)
	}
	switch {
	case len(items) > 0:
	case g.witness():
		err = g.truncate()
	case g.useStore():
		err = g.Checkpoint()
		g.applying.Unlock()
	}
	if err != nil {
		g.fail(g.distrust(err))
	}
	return err == nil
}

// applyBatch gives a batch to the store.
func (g *Group) applyBatch(items []item, onApplied func([]*record.Record)) error {
	if !g.useStore() {
		return nil
	}
	defer g.applying.Unlock()
	if g.peers != nil {
		items = g.stillToApply(items)
	}
	if len(items) == 0 {
		return nil
	}
	err := g.guard(items)
	if err == nil {
		err = g.applyMarked(items)
	}
	if err != nil {
		return err
	}
	g.afterApply(items, onApplied)
	clear(items) // likewise
	if err = g.maybeCheckpoint(); err != nil {
		return err
	}
	if g.batches++; g.batches%busyBatches == 0 {
		err = g.giveBackOne()
	}
	return err
}

// busyBatches are applied for each slot that is given back to the disk while there is always a next batch.
const busyBatches = 32

const (
	// giveBackRest is at least how long the disk is left alone between two slots' blocks that it gets back, and giveBackPart how many times as long
	// as one has taken.
	giveBackRest = 50 * time.Millisecond
	giveBackPart = 9
	// ample is how much room a disk must have for that. Where there is less, others may wait for those blocks.
	ample = 4 << 30
)

// surplus tells whether giveBack has something to do. g.mu is held.
func (g *Group) surplus() bool {
	return g.store != nil && !g.resting && !g.hollow.Load() && g.store.Surplus()
}

// giveBack gives the disk one slot's blocks back, between two batches. One at a time: where the disk discards what is punched, each can take
// tens of milliseconds, and a group that gave back a large file at once would stand still for so many seconds. Nor one after the other: each
// sync of the disk waits for what it discards just then.
func (g *Group) giveBack() {
	if !g.useStore() {
		return
	}
	defer g.applying.Unlock()
	if err := g.giveBackOne(); err != nil {
		g.fail(g.distrust(err))
	}
}

// giveBackOne is giveBack, and then lets the disk rest. g.applying is held.
func (g *Group) giveBackOne() error {
	g.mu.Lock()
	surplus := g.surplus()
	g.mu.Unlock()
	if !surplus {
		return nil
	}
	start := time.Now()
	if err := g.store.GiveBack(); err != nil {
		return err
	}
	rest := max(giveBackRest, giveBackPart*time.Since(start))
	if free, err := g.disk.spare(); err == nil && free < ample {
		return nil
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.resting = true
	time.AfterFunc(rest, func() {
		g.mu.Lock()
		defer g.mu.Unlock()
		g.resting = false
		g.work.Signal()
	})
	return nil
}

// stillToApply looks again at a batch of which the state of a peer may have come while it was on its way here: what that has brought is left
// out, and what is left is taken as it is now, because content that was placed in the store before is in the journal since (bringIn).
func (g *Group) stillToApply(items []item) []item {
	g.mu.Lock()
	defer g.mu.Unlock()
	// An owner that is fenced by what is in the batch may be about to place content that it takes for fresh, and that a newer owner has written.
	for g.usurped() && g.appending != 0 && g.failed == nil {
		g.changed.Wait()
	}
	left := items[:0]
	for _, it := range items {
		if it.index <= g.installed {
			g.unapplied -= it.size()
			continue
		}
		if now := g.peers.newest(&it); now != nil {
			g.unapplied += now.size() - it.size()
			it.rec, it.encoded, it.placed, it.payload = now.rec, now.encoded, now.placed, now.payload
		}
		left = append(left, it)
	}
	clear(items[len(left):])
	return left
}

// useStore takes g.applying when the store is there and stays; false if the group ends.
func (g *Group) useStore() bool {
	for {
		g.applying.Lock()
		g.mu.Lock()
		if !g.hollow.Load() {
			g.mu.Unlock()
			return true
		}
		g.applying.Unlock()
		if g.failed != nil || g.closing {
			g.mu.Unlock()
			return false
		}
		g.changed.Wait()
		g.mu.Unlock()
	}
}

func (g *Group) afterApply(items []item, onApplied func([]*record.Record)) {
	records := make([]*record.Record, 0, len(items))
	bytes := int64(0)
	for i := range items {
		if items[i].rec != nil {
			records = append(records, items[i].rec)
		}
		bytes += items[i].size()
	}
	if onApplied != nil {
		onApplied(records)
	}
	g.mu.Lock()
	g.applied = items[len(items)-1].index
	g.unapplied -= bytes
	if g.peers != nil {
		g.forgetApplied(items)
	}
	g.changed.Broadcast()
	g.mu.Unlock()
}

// Close applies what is accepted, makes a checkpoint, and closes the store. Where the disk is full it leaves that to the next start.
func (g *Group) Close(ctx context.Context) error {
	release := func() {
		if s := g.Store(); s != nil {
			s.Release()
		}
	}
	defer context.AfterFunc(ctx, release)()
	var err error
	if g.peers == nil {
		err = g.settle(ctx)
	} else {
		g.leave(ctx)
	}
	if err != nil {
		release()
	}
	g.mu.Lock()
	g.closing = true
	g.wakeAll()
	g.changed.Broadcast()
	g.work.Broadcast()
	g.mu.Unlock()
	if g.peers != nil {
		g.peers.stop()
		g.unused()
	}
	g.applier.Wait()
	g.lag.Stop()
	if err == nil && !g.hollow.Load() && g.Status().Err == nil && !g.witness() {
		err = g.Checkpoint()
	}
	g.disk.forget(g)
	return errors.Join(err, g.closeStore(), g.cfg.Replica.Close())
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
	if from := g.cfg.Replica.JournalFrom(); from != 0 {
		d.closed[g.key()] = journal.LSN(from)
	}
}
