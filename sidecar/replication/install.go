package replication

import (
	"cmp"
	"errors"
	"fmt"
	"slices"

	"github.com/remora-storage/remora/cachefs/store"
	"github.com/remora-storage/remora/sidecar/replication/consensus"
	"github.com/remora-storage/remora/sidecar/replication/journal"
)

// What catchup.go outlines, step by step: the store is emptied, a state taken in, the log brought to it, the store opened again.

// empty makes the replica hollow; done if it has what the leader has.
func (g *Group) empty(at store.Checkpoint) (done bool, err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	switch {
	case g.hollow.Load() && at.Index < g.applied:
		// What was applied to the store that is gone does not come out of Raft again. A leader comes that far, too.
		return false, fmt.Errorf("the leader's state at index %d is older than what this replica had applied, %d", at.Index, g.applied)
	case g.hollow.Load():
		return false, nil
	case at.Index <= g.applied:
		return true, nil
	case g.onApplied != nil:
		g.failLocked(errOpen)
		return true, nil
	}
	g.hollow.Store(true)
	return false, nil
}

// overtook tells that what was being applied when the replica became hollow has come as far as the state. g.applying is held.
func (g *Group) overtook(at store.Checkpoint) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.store == nil || g.cfg.Replica.GroupState().Installing || at.Index > g.applied {
		return false
	}
	g.hollow.Store(false)
	g.work.Broadcast()
	g.changed.Broadcast()
	return true
}

// install replaces the store. From its first save on there is no way back but forward. g.applying is held.
func (g *Group) install(in *store.SnapshotReader, to consensus.State) error {
	at, replica := in.Position(), g.cfg.Replica
	if !replica.GroupState().Installing {
		if err := g.Checkpoint(); err != nil { // content stays that a checkpoint has
			g.fail(err)
			return err
		}
	}
	old, state := replica.Checkpoint(), replica.GroupState()
	if !state.Installing {
		err := g.bringIn()
		if err == nil {
			_, err = g.disk.sync()
		}
		if err != nil {
			g.fail(err)
			return err
		}
		if err := g.guard(nil); err != nil { // slots that journal frames name may go
			return err
		}
		if err := g.keepSalts(); err != nil {
			g.fail(err)
			return err
		}
		state.Installing = true
		if state.Members == nil {
			state.Members = []byte{}
		}
		if err := replica.SaveGroupCheckpoint(old, replica.JournalFrom(), state); err != nil {
			g.fail(err)
			return err
		}
	}
	g.unused()
	if s := g.Store(); s != nil {
		g.setStore(nil)
		if err := s.Close(); err != nil {
			g.cfg.Logger.Warn("the old state did not close well", "err", err)
		}
	}
	g.mu.Lock()
	g.replaced = true
	g.mu.Unlock()
	salts := &saltsOf{next: in.Next}
	if err := store.Install(g.storeConfig(), at, salts.Next); err != nil {
		if failed := g.disk.syncs.failure(); failed != nil { // it will never work in this process
			g.fail(failed)
		}
		return err
	}
	if err := g.voidLog(to.Index, to.Term); err != nil {
		g.fail(err)
		return err
	}
	saved, err := encodeState(to)
	if err == nil { // from then on nothing else has them, if the new state is damaged before its first checkpoint
		err = g.keepSalts(salts.found...)
	}
	if err == nil {
		from := min(g.needsAbove(to.Index), g.disk.journal.Synced())
		err = replica.SaveGroupCheckpoint(at, uint64(from), saved)
	}
	if err == nil {
		err = g.reopen(at)
	}
	if err != nil {
		g.fail(err)
		return err
	}
	return g.goOn(at, to)
}

// has tells whether our log has an index as the group has it. g.mu is held.
func (g *Group) has(index, term uint64) bool {
	if index < g.peers.core.Base() {
		return true // it was applied, and the log goes on behind it
	}
	have, _, err := g.peers.core.At(index)
	return err == nil && have == term
}

// bringIn writes records whose content is in the arena alone into the journal, whole: their slots may be given to others. Those that are not
// accepted yet were answered here, and must be proposed as they were.
func (g *Group) bringIn() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	items := make([]*item, 0, len(g.recovered))
	for i := range g.recovered {
		items = append(items, &g.recovered[i])
	}
	for _, it := range g.peers.table {
		items = append(items, it)
	}
	slices.SortFunc(items, func(a, b *item) int { return cmp.Compare(a.payload, b.payload) })
	for _, it := range items {
		if len(it.placed) == 0 || it.done {
			continue
		}
		if err := g.whole(it); err != nil {
			g.cfg.Logger.Warn("the content of a record that is not applied cannot be kept", "err", err)
			continue
		}
		from := g.disk.journal.End()
		if err := g.writePayload(it); err != nil {
			return err
		}
		it.payload = from
	}
	return nil
}

// voidLog takes back, durably, what our log has behind an index that it does not have as the group has it.
func (g *Group) voidLog(index, term uint64) error {
	g.mu.Lock()
	has := g.has(index, term)
	g.mu.Unlock()
	if has {
		return nil
	}
	key := g.key()
	if _, err := g.disk.journal.AppendBinding(uint64(key.group), uint64(key.replica), journal.Binding{Index: index + 1, Term: 1}); err != nil {
		return err
	}
	_, err := g.disk.sync()
	return err
}

// needsAbove is from where on the journal is needed for entries behind an index.
func (g *Group) needsAbove(index uint64) journal.LSN {
	g.mu.Lock()
	defer g.mu.Unlock()
	for i := range g.peers.at {
		if i <= index {
			delete(g.peers.at, i)
		}
	}
	return g.needs(g.disk.journal.End())
}

// reopen opens the installed store.
func (g *Group) reopen(at store.Checkpoint) error {
	cfg := g.storeConfig()
	cfg.Checkpoint = at
	s, err := store.Open(cfg)
	if err != nil {
		return err
	}
	g.mu.Lock()
	var placed []store.Entry
	for _, it := range g.peers.table {
		if len(it.placed) > 0 && !it.done && (it.index == 0 || it.index > at.Index) {
			placed = append(placed, store.Entry{Index: it.index, Record: it.rec, Placed: it.placed})
		}
	}
	for _, it := range g.recovered { // where the metadata was damaged, nobody could bring it in
		if len(it.placed) > 0 {
			placed = append(placed, store.Entry{Record: it.rec, Placed: it.placed})
		}
	}
	g.mu.Unlock()
	if err := s.Adopt(placed); err != nil {
		return errors.Join(err, s.Close())
	}
	_, err = s.EndReplay()
	if err == nil {
		err = s.Reclaim(at.Index, false) // that checkpoint is durable: slots may be given out
	}
	if err != nil {
		return errors.Join(err, s.Close())
	}
	g.setStore(s)
	return nil
}

// goOn applies what was committed meanwhile.
func (g *Group) goOn(at store.Checkpoint, to consensus.State) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.installed, g.applied, g.saved = at.Index, at.Index, at.Index
	for n, it := range g.peers.table {
		counts := n.Epoch == at.Acceptance.Epoch && n.Incarnation == at.Acceptance.Incarnation && n.Seq <= at.Acceptance.Last
		if it.own && counts { // accepted, as that state says
			it.own = false
			g.unaccepted -= it.size()
			g.unapplied -= it.size()
		}
		if counts || it.index != 0 && it.index <= at.Index {
			it.done = true
		}
	}
	for i := range g.queue {
		if g.queue[i].index <= at.Index {
			g.queued -= g.queue[i].size()
			g.unapplied -= g.queue[i].size()
		}
	}
	g.queue = slices.DeleteFunc(g.queue, func(it item) bool { return it.index <= at.Index })
	g.core.committed = max(g.core.committed, at.Index)
	g.core.last = max(g.core.last, at.Index)
	g.giveUpRecovered(at.Acceptance)
	g.firstKept = min(g.needs(g.disk.journal.End()), journal.LSN(g.cfg.Replica.JournalFrom()))
	if !g.has(to.Index, to.Term) {
		err := g.peers.core.Restore(to)
		g.process()
		if !g.has(to.Index, to.Term) { // the leader has changed in between, say: again
			return errors.Join(fmt.Errorf("raft did not take the state at index %d", at.Index), err)
		}
	}
	g.hollow.Store(false)
	g.process()
	g.work.Broadcast()
	g.disk.poke(true)
	return nil
}
