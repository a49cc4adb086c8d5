package replication

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/remora-storage/remora/cachefs/record"
	"github.com/remora-storage/remora/cachefs/store"
	"github.com/remora-storage/remora/sidecar/replication/consensus"
)

// Where the log of a new witness begins: at the leader's index, which it asks for.

// position has this witness go on where the leader is, whose log does not reach back to where its own ends.
func (g *Group) position(ctx context.Context, leader uint64) error {
	r, err := g.peers.cfg.Fetch(ctx, leader, []byte{bulkPosition})
	if err != nil {
		return fmt.Errorf("fetch the position of %016x: %w", leader, err)
	}
	defer r.Close()
	state, err := readStateHeader(r)
	if err != nil {
		return err
	}
	b := make([]byte, 8+record.AcceptanceSize)
	if _, err := io.ReadFull(r, b); err != nil {
		return fmt.Errorf("read a position: %w", err)
	}
	state.Index = binary.LittleEndian.Uint64(b)
	if state.Acceptance, err = record.DecodeAcceptance(b[8:]); err != nil {
		return err
	}
	m, self := state.Members, uint64(g.key().replica)
	if !slices.Contains(slices.Concat(m.Voters, m.VotersOutgoing, m.Learners, m.LearnersNext), self) {
		return fmt.Errorf("%016x at index %d does not know this witness as a member", leader, state.Index)
	}
	if state.Index == 0 {
		return g.found(m)
	}
	g.applying.Lock()
	defer g.applying.Unlock()
	if err := g.takePosition(state); err != nil {
		g.fail(err)
		return err
	}
	g.cfg.Logger.Info("this witness goes on where the leader is", "from", fmt.Sprintf("%016x", leader), "index", state.Index)
	return nil
}

// takePosition is install for a witness. g.applying is held.
func (g *Group) takePosition(state consensus.State) error {
	g.mu.Lock()
	done := g.failed != nil || g.closing || record.Index(state.Index) <= g.applied
	kept := g.peers.needsAbove(record.Index(state.Index), g.disk.journal.End())
	if !done && g.has(state.Index, state.Term) { // it is all here, and only not known to be committed
		err := g.peers.core.Learn(state.Terms, state.Index)
		g.process()
		g.unlock()
		return err
	}
	g.mu.Unlock()
	if done {
		return nil
	}
	if err := g.voidLog(state.Index, state.Term); err != nil {
		return err
	}
	saved, err := encodeState(state)
	if err != nil {
		return err
	}
	at := store.Checkpoint{Index: record.Index(state.Index), Acceptance: state.Acceptance}
	if err := g.moveFloor(at, kept, saved); err != nil {
		return err
	}
	g.mu.Lock()
	defer g.unlock()
	g.installed, g.applied, g.saved = at.Index, at.Index, at.Index
	g.core.committed, g.core.last = max(g.core.committed, at.Index), max(g.core.last, at.Index)
	if !g.has(state.Index, state.Term) {
		err := g.peers.core.Restore(state)
		g.process()
		if !g.has(state.Index, state.Term) {
			g.cfg.Logger.Warn("raft did not take the position; it is asked for again", "index", state.Index, "err", err)
		}
	}
	g.process()
	g.disk.poke(true)
	return nil
}

// founders has a founder that has nothing take over from a witness, whose log goes back to the beginning, who the founders are: what it has come
// to then the log brings. Nobody else can be asked where the other one with content is lost.
func (g *Group) founders(ctx context.Context, witness uint64) error {
	g.mu.Lock()
	knows := !g.peers.memberless()
	g.mu.Unlock()
	if knows {
		return errNoLeader
	}
	r, err := g.peers.cfg.Fetch(ctx, witness, []byte{bulkPosition})
	if err != nil {
		return errNoLeader
	}
	defer r.Close()
	state, err := readStateHeader(r)
	b := make([]byte, 8)
	if _, readErr := io.ReadFull(r, b); err != nil || readErr != nil || binary.LittleEndian.Uint64(b) != 0 {
		return errNoLeader
	}
	return g.found(state.Members)
}

// uncovers tells whether a witness must not begin its log at an index now: members change, and one that is to vote has not come so far. What is
// committed up to there, the old members have; that the new ones have it, too, is what this witness may be needed for. Where no change is under
// way, a majority has it without this witness. Else it notes where the witness' log begins, before the witness tells. g.mu is held.
func (g *Group) uncovers(index uint64) bool {
	p := g.peers
	s := p.core.Status()
	for _, id := range s.Voters {
		if s.Leads && s.Joint && id != s.ID && !p.isWitness(id) && s.Peers[id].Match < index && !inherits(&s, p.core.Members().VotersOutgoing, id) {
			return true
		}
	}
	for id, r := range p.reports {
		if s.Leads && r.witness {
			r.index = max(r.index, index)
			p.reports[id] = r
		}
	}
	return false
}

// inherits tells whether a voter has all that is committed, although it does not answer, because it is one of three old members, and another one of
// them ends before the leader's log begins: so the two others are the majority. It may be lost, and then the one that lags is needed to end the
// change (seed 80001428).
func inherits(s *consensus.Status, old []uint64, id uint64) bool {
	return len(old) == 3 && slices.Contains(old, id) && slices.ContainsFunc(old, func(o uint64) bool { return o != id && s.Peers[o].Lagging })
}

// sendPosition answers bulkPosition.
func (g *Group) sendPosition(w io.Writer) error {
	g.mu.Lock()
	core := g.peers.core
	index, acceptance := core.Delivered()
	term, members, err := core.At(index)
	state := consensus.State{Index: index, Term: term, Terms: core.Terms(index), Members: members}
	stop := g.failed != nil || g.closing || g.uncovers(index)
	if g.witness() { // only to founders that have nothing: what follows is in its log
		index, acceptance = 0, record.Acceptance{}
		stop = stop || core.Base() > 0
		_, members, err = core.At(0)
		state = consensus.State{Members: members}
	}
	g.mu.Unlock()
	if stop || err != nil || len(members.Voters) == 0 {
		return errors.Join(errNotHere, err)
	}
	head, err := stateHeader(state)
	if err != nil {
		return err
	}
	_, err = w.Write(acceptance.Append(binary.LittleEndian.AppendUint64(head, index)))
	return err
}
