package replication

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	pb "go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"

	"github.com/remora-storage/remora/cachefs/record"
	"github.com/remora-storage/remora/cachefs/store"
	"github.com/remora-storage/remora/sidecar/replication/consensus"
	"github.com/remora-storage/remora/sidecar/replication/journal"
)

// A replica whose log does not meet the leader's is caught up by the leader's state (DESIGN 6). It is hollow meanwhile: a member of the
// group with its log and its votes, whose store is being replaced.
//
//  1. The leader's log does not reach back to ours: Raft sends a MsgSnap, or the superblock says that an earlier process was at it.
//  2. The superblock says that the store is being replaced (Installing), durably, before anything of it changes. The checkpoint stays, and
//     so does the journal behind it: what this replica has voted for and acknowledged survives (a voter that forgets is no voter).
//  3. store.Install takes in the metadata at one index, P. Content that is the same there stays; the rest is absent until it is filled.
//  4. Where our log does not have P as the leader has it, what is behind P in it never happened: a binding of no records voids it.
//  5. The superblock gets P as its checkpoint, and the store is opened again. Entries behind P that were committed meanwhile are applied.
//
// A crash before 5 finds Installing and begins again at 3.

// catchUpPause is between two attempts.
const catchUpPause = 200 * time.Millisecond

// errOpen: the state cannot be replaced under a file system.
var errOpen = errors.New("the replica has fallen behind the group's log while its file system is open: it must start again to be caught up")

// catcher waits for a reason to be caught up.
func (g *Group) catcher() {
	p := g.peers
	for {
		select {
		case <-p.ctx.Done():
			return
		case <-p.install:
		case <-time.After(catchUpPause):
			if !g.hollow.Load() {
				continue
			}
		}
		for p.ctx.Err() == nil {
			err := g.catchUp(p.ctx)
			if err == nil {
				break
			}
			if p.ctx.Err() == nil && !errors.Is(err, errNoLeader) && !errors.Is(err, errUnapplied) && !errors.Is(err, errCounts) {
				g.cfg.Logger.Warn("this replica is not caught up yet; it is tried again", "err", err)
			}
			select {
			case <-p.ctx.Done():
			case <-time.After(catchUpPause):
			}
		}
	}
}

var errNoLeader = errors.New("nobody leads the group")

// catchUp brings this replica to where the leader is.
func (g *Group) catchUp(ctx context.Context) error {
	err := g.catchUpOnce(ctx)
	if err == nil {
		g.mu.Lock()
		g.peers.copying = false
		g.mu.Unlock()
	}
	return err
}

// catchUpOnce fetches and installs the leader's state.
func (g *Group) catchUpOnce(ctx context.Context) error {
	p := g.peers
	g.mu.Lock()
	leader, _ := p.core.Leader()
	stop, self := g.failed != nil || g.closing, uint64(g.key().replica)
	g.mu.Unlock()
	if stop {
		return nil
	}
	if leader == self {
		g.handOver()
	}
	if leader == 0 || leader == self {
		return errNoLeader
	}
	if g.witness() {
		return g.position(ctx, leader)
	}
	if p.isWitness(leader) { // it hands on soon
		return g.founders(ctx, leader)
	}
	if g.byLog(ctx, leader) {
		return nil
	}
	if g.countsAsFilled() {
		return errCounts
	}
	start := time.Now()
	r, err := p.cfg.Fetch(ctx, leader, []byte{bulkState})
	if err != nil {
		return fmt.Errorf("fetch the state of %016x: %w", leader, err)
	}
	defer r.Close()
	content := &counted{r: r}
	state, err := readStateHeader(content)
	if err != nil {
		return err
	}
	in, err := store.ReadSnapshot(content)
	if err != nil {
		return err
	}
	members := state.Members
	state.Index, state.Acceptance = uint64(in.Position().Index), in.Position().Acceptance
	if self := uint64(g.key().replica); !slices.Contains(slices.Concat(members.GetVoters(), members.GetVotersOutgoing(), members.GetLearners(), members.GetLearnersNext()), self) {
		return fmt.Errorf("the state of %016x at index %d does not know this replica as a member", leader, in.Position().Index)
	}
	if in.Position().Index == 0 {
		return g.found(members)
	}
	if err := g.learn(state); err != nil {
		return err
	}
	if done, err := g.empty(in.Position()); done || err != nil {
		return err
	}
	g.applying.Lock()
	defer g.applying.Unlock()
	if g.overtook(in.Position()) {
		return nil
	}
	if err := g.install(in, state); err != nil {
		return err
	}
	g.cfg.Logger.Info("caught up with the group by a copy of its state", "from", fmt.Sprintf("%016x", leader), "index", in.Position().Index, "bytes", content.bytes, "took", time.Since(start))
	return nil
}

// errCounts: what this learner has was enough to become a voter, and a copy of the state may have less: first the object must say so.
var errCounts = errors.New("the object says that this replica has everything")

// countsAsFilled tells whether the object has this replica for a learner that is filled. It may be made a voter any time then, which it must not
// be without its content. Unfilled has the object changed.
func (g *Group) countsAsFilled() bool {
	p, self := g.peers, uint64(g.key().replica)
	counts := p.cfg.Members != nil && slices.ContainsFunc(p.cfg.Members(), func(m Member) bool { return m.ID == self && m.Role == Learner && m.Filled })
	g.mu.Lock()
	defer g.mu.Unlock()
	p.copying = true
	return counts
}

// Unfilled tells whether this replica has, or is about to have, less than it has said that it has: the object must not call it filled.
func (g *Group) Unfilled() bool {
	if g.peers == nil || g.witness() {
		return false
	}
	g.mu.Lock()
	waits := g.peers.copying || g.hollow.Load()
	g.mu.Unlock()
	s := g.Store()
	return waits || s != nil && !s.Complete()
}

// counted is a reader that knows how much came.
type counted struct {
	r     io.Reader
	bytes int64
}

func (c *counted) Read(b []byte) (int, error) {
	n, err := c.r.Read(b)
	c.bytes += int64(n)
	return n, err
}

// errUnapplied: not yet, that is.
var errUnapplied = errors.New("what this replica has of the group's log is applied first")

// learn has everything applied that our log has of the group's: what others lack of it stays here (store.Install).
func (g *Group) learn(state consensus.State) error {
	g.mu.Lock()
	defer g.unlock()
	if g.hollow.Load() || record.Index(state.Index) <= g.applied {
		return nil
	}
	if err := g.peers.core.Learn(state.Terms, state.Index); err != nil {
		return err
	}
	g.process()
	if len(g.queue) > 0 || g.applied < g.core.committed {
		g.due = true
		g.work.Signal()
		return errUnapplied
	}
	return nil
}

// handOver hands leadership to one who can do what this replica cannot while its state is being replaced: apply, and bring others up to date.
func (g *Group) handOver() {
	g.mu.Lock()
	defer g.unlock()
	g.giveLead(func(uint64) bool { return true })
}

// found takes over from the leader who the founders are. The leader's group has committed nothing that it knows of, so there is no state to
// take; its log begins where that of every founder does.
func (g *Group) found(members *pb.ConfState) error {
	g.applying.Lock()
	defer g.applying.Unlock()
	g.mu.Lock()
	empty := g.peers.memberless() && g.peers.core.Empty() && !g.hollow.Load()
	g.mu.Unlock()
	if !empty {
		return nil
	}
	b, err := proto.MarshalOptions{Deterministic: true}.Marshal(members)
	if err != nil {
		return err
	}
	replica := g.cfg.Replica
	state := replica.GroupState()
	state.Members = b
	if err := replica.SaveGroupCheckpoint(replica.Checkpoint(), replica.JournalFrom(), state); err != nil { // before it has a log
		g.fail(err)
		return err
	}
	g.mu.Lock()
	defer g.unlock()
	if err := g.peers.core.Found(members); err != nil {
		g.failLocked(err)
		return err
	}
	g.process()
	return nil
}

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
