package replication

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	pb "go.etcd.io/raft/v3/raftpb"

	"github.com/remora-storage/remora/cachefs/record"
	"github.com/remora-storage/remora/cachefs/store"
	"github.com/remora-storage/remora/sidecar/replication/consensus"
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
	self := uint64(g.key().replica)
	stop := g.failed != nil || g.closing
	stop = stop || leader == self && !g.hollow.Load() && !g.witness() // who was elected with a state has what it was told that it lacks
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
	if self := uint64(g.key().replica); !slices.Contains(slices.Concat(members.Voters, members.VotersOutgoing, members.Learners, members.LearnersNext), self) {
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

// lacks is Unfilled with g.mu held.
func (g *Group) lacks() bool {
	return g.peers.copying || g.hollow.Load() || g.store == nil || !g.store.Complete()
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
// That is a witness, if it has more than everybody with content: what is in our arena we cannot send without a state (seed 530). Where somebody
// needs just that, nobody comes to have all of our log, and what is in it alone nobody has committed: then the others lead without it (seed 80021361).
func (g *Group) handOver() {
	g.mu.Lock()
	defer g.unlock()
	p := g.peers
	s := p.core.Status()
	if p.stuck && g.askOthers(&s) {
		return
	}
	witness, most := uint64(0), uint64(0)
	for _, id := range slices.Concat(s.Voters, s.Outgoing) {
		switch peer := s.Peers[id]; {
		case id == s.ID || !peer.Active:
		case p.isWitness(id):
			witness = id
		default:
			most = max(most, peer.Match)
		}
	}
	if witness != 0 && s.Peers[witness].Match > most {
		p.core.Transfer(witness)
		g.process()
		return
	}
	g.giveLead(func(uint64) bool { return true })
}

// askOthers asks the next voter that is there to ask to lead, and tells whether there is one: who may, the others know. Not where one has all of
// our log, or where nobody else is there. g.mu is held.
func (g *Group) askOthers(s *consensus.Status) bool {
	p := g.peers
	others := slices.DeleteFunc(slices.Concat(s.Voters, s.Outgoing), func(id uint64) bool { return id == s.ID || !s.Peers[id].Active })
	if len(others) == 0 || slices.ContainsFunc(others, func(id uint64) bool { return s.Peers[id].Match >= s.Last }) {
		return false
	}
	p.stuck = false
	p.core.Ask(others[p.asks%len(others)])
	p.asks++
	g.process()
	return true
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
	b, err := members.Marshal()
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
