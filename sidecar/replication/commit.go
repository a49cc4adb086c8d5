package replication

import (
	"errors"
	"fmt"
	"syscall"

	"github.com/remora-storage/remora/sidecar/replication/journal"
)

// bind writes binding frames for everything that has none; false if there is nothing to sync.
func (g *Group) bind() bool {
	if g.peers != nil {
		return g.bindPeers()
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.failed != nil {
		return false
	}
	if len(g.core.unbound) > 0 {
		lsn, err := g.writeBindings(g.core.bind())
		switch {
		case errors.Is(err, journal.ErrNoSpace):
			g.core.unbind() // nothing was written but bindings that the next ones void
			g.noSpace = noSpace(err)
			return false
		case err != nil:
			g.failLocked(fmt.Errorf("bind: %w", err))
			return false
		}
		g.core.written(lsn)
		g.noSpace = nil
	}
	return len(g.core.bound) > 0
}

// bindPeers proposes what is new, to whom it is sent before anything is synced here.
func (g *Group) bindPeers() bool {
	g.mu.Lock()
	defer g.unlock()
	if g.failed != nil {
		return false
	}
	g.process()
	return len(g.peers.pending) > 0
}

func (g *Group) writeBindings(frames []journal.Binding) (lsn journal.LSN, err error) {
	key := g.key()
	for _, b := range frames {
		if lsn, err = g.disk.journal.AppendBinding(uint64(key.group), uint64(key.replica), b); err != nil {
			return lsn, err
		}
	}
	return lsn, nil
}

// noSpace is what the application meets.
func noSpace(err error) error { return fmt.Errorf("%w: %w", syscall.ENOSPC, err) }

func (g *Group) syncedPeers(lsn journal.LSN, err error, start, end int64) {
	g.mu.Lock()
	defer g.unlock()
	if err != nil {
		g.failLocked(err)
		return
	}
	g.durable(lsn, start, end)
}

// tellCommitted tells who wants to know what a group of one has committed.
func (g *Group) tellCommitted(items []item) {
	if g.cfg.Committed == nil {
		return
	}
	for i := range items {
		g.cfg.Committed(items[i].index, term, items[i].rec)
	}
}

// synced takes the result of the journal's sync.
func (g *Group) synced(lsn journal.LSN, err error, start, end int64) {
	if g.peers != nil {
		g.syncedPeers(lsn, err, start, end)
		return
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if err != nil {
		g.failLocked(err)
		return
	}
	items := g.core.synced(lsn)
	if len(items) == 0 {
		return
	}
	bytes := int64(0)
	for i := range items {
		bytes += items[i].size()
	}
	g.unaccepted -= bytes
	g.tellCommitted(items)
	g.enqueue(items, bytes)
	first, last := items[0].rec.Name.Seq, items[len(items)-1].rec.Name.Seq
	defer clear(items) // the queue has them: a record must not live on in a slice that has been left behind
	g.commit = g.cfg.Trace.Commit(start, end, len(items), bytes, uint64(first), uint64(last), nil)
	for i := range items {
		n := items[i].rec.Name
		g.cfg.Trace.Accepted(items[i].span, items[i].since, end, uint64(n.Epoch), uint64(n.Seq), g.commit)
	}
	g.changed.Broadcast()
}
