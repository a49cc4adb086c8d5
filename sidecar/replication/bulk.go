package replication

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	pb "go.etcd.io/raft/v3/raftpb"

	"github.com/remora-storage/remora/cachefs/store"
	"github.com/remora-storage/remora/sidecar/replication/consensus"
)

// Bulk requests of one replica to another. The first byte of a request says what it is for.
const (
	bulkState   = 1 // the replicated keys at one index: term u64, length of members u32, members, then store.Snapshot's stream
	bulkContent = 2 // a store.Want; the answer is a byte, and the content if it is contentHere
	bulkDigest  = 3 // the digest at an index u64: see verify.go
	bulkScrub   = 4 // a scrub, now: see verify.go
	// bulkPosition asks for what a witness needs to go on behind an index: the head of a state, and the index with its acceptance state.
	bulkPosition = 5
	bulkLog      = 6 // the log that a witness keeps: see witnesslog.go
)

const (
	contentHere   = 0
	contentBehind = 1
	contentGone   = 2
)

// errNotHere: this replica cannot answer now.
var errNotHere = errors.New("this replica is being caught up itself")

// Bulk answers a request of a peer.
func (g *Group) Bulk(ctx context.Context, request []byte, w io.Writer) error {
	if g.peers == nil || len(request) == 0 {
		return fmt.Errorf("%w: an empty bulk request, or one to a group of one", ErrMessage)
	}
	switch {
	case request[0] == bulkPosition:
		return g.sendPosition(w)
	case request[0] == bulkLog:
		return g.sendLog(ctx, request[1:], w)
	case g.witness():
		return errWitness
	}
	ctx, done, err := g.use(ctx)
	if err != nil {
		return err
	}
	defer done()
	switch request[0] {
	case bulkState:
		defer g.serving()()
		return g.sendState(ctx, w)
	case bulkContent:
		return g.sendContent(request[1:], w)
	case bulkDigest:
		return g.sendDigest(ctx, request[1:], w)
	case bulkScrub:
		return g.sendScrub(ctx, w)
	}
	return fmt.Errorf("%w: a bulk request of kind %d, which this version does not know", ErrMessage, request[0])
}

// use keeps the store open until done is called; ctx ends when the store is to be closed.
func (g *Group) use(ctx context.Context) (context.Context, func(), error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.hollow.Load() || g.closing || g.failed != nil {
		return nil, nil, errNotHere
	}
	ctx, cancel := context.WithCancel(ctx)
	p := g.peers
	p.users++
	n := p.users
	p.using[n] = cancel
	return ctx, func() {
		cancel()
		g.mu.Lock()
		delete(p.using, n)
		g.changed.Broadcast()
		g.mu.Unlock()
	}, nil
}

// unused waits until nobody uses the store, and lets no more in: the group is hollow, or closing.
func (g *Group) unused() {
	g.mu.Lock()
	defer g.mu.Unlock()
	for len(g.peers.using) > 0 {
		for _, cancel := range g.peers.using {
			cancel()
		}
		g.changed.Wait()
	}
}

// serving notes that a peer fetches the state, until the function that it returns is called.
func (g *Group) serving() (done func()) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.peers.serving++
	return func() {
		g.mu.Lock()
		defer g.mu.Unlock()
		g.peers.serving--
		g.peers.served = g.peers.ticks
	}
}

func (g *Group) sendState(ctx context.Context, w io.Writer) (err error) {
	snapshot, state, err := g.stateNow(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, snapshot.Close()) }()
	g.mu.Lock()
	g.peers.gave = max(g.peers.gave, state.Index)
	g.mu.Unlock()
	head, err := stateHeader(state)
	if err != nil {
		return err
	}
	if _, err := w.Write(head); err != nil {
		return err
	}
	return snapshot.Send(ctx, w)
}

// stateHeader is what readStateHeader reads.
func stateHeader(state consensus.State) ([]byte, error) {
	b, err := state.Members.Marshal()
	if err != nil {
		return nil, err
	}
	le := binary.LittleEndian
	head := le.AppendUint32(le.AppendUint64(nil, state.Term), uint32(len(b)))
	head = le.AppendUint32(append(head, b...), uint32(len(state.Terms)))
	for _, t := range state.Terms {
		head = le.AppendUint64(le.AppendUint64(head, t.Index), t.Term)
	}
	return head, nil
}

// stateNow returns a snapshot, with what Raft must know of its index. It is of no older index than what is committed now: who
// asks has just become a member, most often, and must find itself there.
func (g *Group) stateNow(ctx context.Context) (*store.Snapshot, consensus.State, error) {
	if err := g.applyAll(ctx); err != nil {
		return nil, consensus.State{}, err
	}
	for try := 0; ; try++ {
		s, err := g.Store().Snapshot()
		if err != nil {
			return nil, consensus.State{}, err
		}
		at := s.Position()
		g.mu.Lock()
		term, members, err := g.peers.core.At(uint64(at.Index))
		terms := g.peers.core.Terms(uint64(at.Index))
		g.mu.Unlock()
		// At index 0 the members are the founders.
		if err == nil && (at.Index > 0 || len(members.Voters) > 0) {
			return s, consensus.State{Index: uint64(at.Index), Term: term, Terms: terms, Members: members, Acceptance: at.Acceptance}, nil
		}
		if err = errors.Join(err, s.Close()); err != nil && try < 10 { // the log was compacted in between
			continue
		}
		return nil, consensus.State{}, errors.Join(errNotHere, err)
	}
}

// applyAll returns when everything that is committed now is applied.
func (g *Group) applyAll(ctx context.Context) error {
	defer context.AfterFunc(ctx, g.changed.Broadcast)()
	g.mu.Lock()
	defer g.mu.Unlock()
	defer g.hurry()()
	for to := g.core.committed; g.applied < to; {
		if g.failed != nil || g.closing || ctx.Err() != nil {
			return errors.Join(errNotHere, g.failed, ctx.Err())
		}
		g.changed.Wait()
	}
	return nil
}

// readStateHeader reads what comes before a snapshot. Index and Acceptance are the snapshot's.
func readStateHeader(r io.Reader) (consensus.State, error) {
	le := binary.LittleEndian
	read := func(n uint32) ([]byte, error) {
		if n > 64<<10 {
			return nil, fmt.Errorf("%w: a state that begins with %d bytes", ErrMessage, n)
		}
		b := make([]byte, n)
		if _, err := io.ReadFull(r, b); err != nil {
			return nil, fmt.Errorf("read a state: %w", err)
		}
		return b, nil
	}
	head, err := read(12)
	if err != nil {
		return consensus.State{}, err
	}
	s := consensus.State{Term: le.Uint64(head), Members: &pb.ConfState{}}
	b, err := read(le.Uint32(head[8:]))
	if err == nil {
		err = s.Members.Unmarshal(b)
	}
	if err != nil {
		return s, err
	}
	if b, err = read(4); err != nil {
		return s, err
	}
	n := le.Uint32(b)
	if n > 4<<10 {
		return s, fmt.Errorf("%w: %d terms", ErrMessage, n)
	}
	if b, err = read(16 * n); err != nil {
		return s, err
	}
	for ; len(b) > 0; b = b[16:] {
		s.Terms = append(s.Terms, consensus.TermStart{Index: le.Uint64(b), Term: le.Uint64(b[8:])})
	}
	return s, nil
}

func (g *Group) sendContent(request []byte, w io.Writer) error {
	want, err := store.DecodeWant(request)
	if err != nil {
		return err
	}
	c, err := g.Store().Export(want)
	switch {
	case errors.Is(err, store.ErrBehind):
		_, err = w.Write([]byte{contentBehind})
	case errors.Is(err, store.ErrGone):
		_, err = w.Write([]byte{contentGone})
	case err == nil:
		_, err = w.Write(c.Append([]byte{contentHere}))
	}
	return err
}
