package replication

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	pb "go.etcd.io/raft/v3/raftpb"

	"github.com/remora-storage/remora/cachefs/record"
	"github.com/remora-storage/remora/cachefs/store"
	"github.com/remora-storage/remora/sidecar/replication/consensus"
	"github.com/remora-storage/remora/sidecar/replication/diskdir"
	"github.com/remora-storage/remora/sidecar/replication/journal"
)

// replayPeers is replay for a replica of a group of several: its log may end in what the group never committed.
func (g *Group) replayPeers() error {
	from := g.cfg.Replica.Checkpoint()
	if err := g.checkJournal(); err != nil {
		return err
	}
	h := g.disk.take(g)
	if h == nil {
		h = &history{}
	}
	cfg, err := g.coreConfig(from, h)
	if err != nil {
		return err
	}
	var log, stream []item
	if g.witness() {
		log, err = h.rawLog(from)
	} else {
		log, stream, err = h.log(from, record.Index(cfg.Hard.Commit), g.cfg.Keys)
	}
	if err != nil {
		return err
	}
	if !g.hollow.Load() && !g.witness() {
		err = g.store.Adopt(entries(append(slices.Clone(log), stream...)))
	}
	if err != nil {
		return fmt.Errorf("replay: %w", err)
	}
	p := &peers{cfg: *g.cfg.Peers, tableBytes: tableBytes, table: map[record.Name]*item{}, at: map[uint64]journal.LSN{}, install: make(chan *pb.Message, 1), using: map[int]context.CancelFunc{},
		fetching: map[fetched]chan struct{}{}, flights: map[uint64][]flight{}, placedAt: map[record.BlobID]uint64{}, durableCommit: h.hard.Commit, forcedTo: cfg.Ignore,
		reports: map[uint64]report{}, heard: map[uint64]int{}, joined: map[uint64]int{}, floor: from}
	p.cfg.LogBytes, p.cfg.KeepBytes = cmp.Or(p.cfg.LogBytes, logBytes), cmp.Or(p.cfg.KeepBytes, keepBytes)
	p.room.peer = map[uint64]told{}
	p.room.own.Store(unlimited) // until somebody has looked
	p.ctx, p.stop = context.WithCancel(context.Background())
	kept := g.disk.journal.End()
	for i := range log {
		cfg.Entries = append(cfg.Entries, p.recovered(log[i], h))
	}
	for i := range stream {
		kept = min(kept, stream[i].payload)
		if stream[i].meta, err = h.metaOf(stream[i].rec); err != nil {
			return err
		}
	}
	if p.core, err = consensus.New(cfg); err != nil {
		return err
	}
	g.peers, g.recovered, g.hardAt, g.installed = p, stream, h.hardAt, from.Index
	g.core = core{last: from.Index, committed: from.Index, acceptance: from.Acceptance}
	return g.replayCommitted(kept)
}

// coreConfig is what the checkpoint and the journal have of Raft's state.
func (g *Group) coreConfig(from store.Checkpoint, h *history) (consensus.Config, error) {
	state := g.cfg.Replica.GroupState()
	cfg := consensus.Config{ID: uint64(g.key().replica), Witness: g.witness(), Index: uint64(from.Index), Term: state.Term, Terms: termsOf(state), Acceptance: from.Acceptance,
		Logger:  g.cfg.Logger,
		Members: &pb.ConfState{}, Hard: consensus.HardState{Term: h.hard.Term, Vote: h.hard.Vote, Commit: h.hard.Commit}}
	switch {
	case state.Members != nil:
		if err := cfg.Members.Unmarshal(state.Members); err != nil {
			return cfg, fmt.Errorf("%w: members in the superblock: %w", store.ErrDamaged, err)
		}
	case from.Index > 0 || h.last > 0: // it was a group of one until now, which had committed all of its log
		cfg.Members.Voters, cfg.Hard.Commit = []uint64{cfg.ID}, uint64(h.last)
		cfg.Term, cfg.Hard.Term = term, max(term, cfg.Hard.Term)
	default:
		cfg.Members.Voters = g.cfg.Peers.Founders
	}
	// What the store had applied was committed.
	cfg.Hard.Commit = max(cfg.Hard.Commit, uint64(from.Index))
	if g.store != nil {
		cfg.Hard.Commit = max(cfg.Hard.Commit, uint64(g.store.Opened()))
	}
	if g.cfg.Peers.Force {
		g.cfg.Logger.Error("this replica is the only member from here on: the loss of what the others had was accepted", "replica", g.key().replica.String())
		cfg.Members, cfg.Ignore = &pb.ConfState{Voters: []uint64{cfg.ID}}, uint64(h.last)
	}
	return cfg, nil
}

// recovered is an entry of the log as Raft had it.
func (p *peers) recovered(it item, h *history) pb.Entry {
	b := h.bindings[it.index]
	e := pb.Entry{Index: uint64(it.index), Term: b.term, Type: pb.EntryNormal}
	p.at[uint64(it.index)] = it.payload
	if it.rec == nil {
		e.Type, e.Data = pb.EntryType(b.entry.Type), b.entry.Data
		return e
	}
	e.Data = consensus.Entry{Kind: it.rec.Kind, Name: it.rec.Name}.Encode()
	if it.raw == 0 {
		it.meta, _ = h.metaOf(it.rec)
	}
	for _, pl := range it.placed {
		if uint64(it.index) > p.durableCommit {
			p.placedAt[it.rec.Ops[pl.Op].Blob] = uint64(it.index)
		}
	}
	if old := p.table[it.rec.Name]; old != nil {
		old.index = it.index
		return e
	}
	p.put(&it)
	return e
}

// metaOf returns a record without its content, as it was sealed.
func (h *history) metaOf(r *record.Record) ([]byte, error) {
	k, ok := h.byName[name{r.Name.Epoch, r.Name.Seq}]
	if !ok {
		return nil, fmt.Errorf("%w: the journal has no payload of %v", store.ErrDamaged, r.Name)
	}
	body := h.payloads[k].body
	content := 0
	for i := range r.Ops {
		content += len(r.Ops[i].Data)
	}
	return body[:len(body)-content], nil
}

// replayCommitted applies what was committed, and then makes the checkpoint that ends replay.
func (g *Group) replayCommitted(kept journal.LSN) error {
	g.mu.Lock()
	if g.applied = max(g.applied, g.installed); g.hollow.Load() || g.witness() {
		g.saved = g.installed
		g.process()
		from, err := g.firstKept, g.failed
		g.mu.Unlock()
		if err != nil || !g.witness() {
			return err
		}
		at := g.cfg.Replica.Checkpoint() // with who the members are, or the next start takes it for a group of one
		return g.cfg.Replica.SaveGroupCheckpoint(at, uint64(min(from, g.disk.journal.Synced())), g.groupState(at))
	}
	g.process()
	items := g.queue
	g.queue, g.queued, g.unapplied = nil, 0, 0
	err := g.failed
	g.mu.Unlock()
	if err != nil {
		return err
	}
	for batch := range slices.Chunk(items, applyBatch) {
		if err := g.store.Apply(entries(batch)); err != nil {
			return fmt.Errorf("replay: %w", err)
		}
	}
	at, err := g.store.EndReplay()
	if err != nil {
		return err
	}
	g.mu.Lock()
	g.applied = at.Index
	g.forgetApplied(items)
	kept = g.peers.needs(kept)
	g.mu.Unlock()
	return g.saveCheckpoint(at, kept)
}

// groupState is what the superblock keeps with a checkpoint.
func (g *Group) groupState(at store.Checkpoint) diskdir.GroupState {
	if g.peers == nil {
		return diskdir.GroupState{}
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	t, members, err := g.peers.core.At(uint64(at.Index))
	if err != nil {
		g.failLocked(fmt.Errorf("term of index %d: %w", at.Index, err))
	}
	s, err := encodeState(consensus.State{Term: t, Members: members, Terms: g.peers.core.Terms(uint64(at.Index))})
	if err != nil {
		g.failLocked(err)
	}
	return s
}

// encodeState is what a superblock keeps of a state.
func encodeState(at consensus.State) (diskdir.GroupState, error) {
	b, err := at.Members.Marshal()
	if err != nil {
		return diskdir.GroupState{}, fmt.Errorf("encode members: %w", err)
	}
	if b == nil {
		b = []byte{}
	}
	s := diskdir.GroupState{Term: at.Term, Members: b}
	for _, t := range at.Terms {
		s.Terms = append(s.Terms, [2]uint64{t.Index, t.Term})
	}
	return s, nil
}

func termsOf(s diskdir.GroupState) (terms []consensus.TermStart) {
	for _, t := range s.Terms {
		terms = append(terms, consensus.TermStart{Index: t[0], Term: t[1]})
	}
	return terms
}

// leaveTime bounds how long a replica that stops tries to leave nothing behind: what it has answered is in its journal.
const leaveTime = 2 * time.Second

// leave settles what this owner has answered, as far as the others are there, and hands leadership on.
func (g *Group) leave(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, leaveTime)
	defer cancel()
	_ = g.settle(ctx) // what is not accepted is in the journal: the next owner here proposes it again
	defer context.AfterFunc(ctx, g.changed.Broadcast)()
	g.mu.Lock()
	defer g.mu.Unlock()
	if !g.peers.core.Leads() || !g.giveLead(func(uint64) bool { return true }) {
		return
	}
	for g.failed == nil && ctx.Err() == nil && g.peers.core.Transferring() { // or nobody tells the other one to begin
		g.changed.Wait()
	}
}
