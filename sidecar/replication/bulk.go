package replication

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	pb "go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"

	"github.com/remora-storage/remora/cachefs/store"
)

// Bulk requests of one replica to another. The first byte of a request says what it is for.
const (
	bulkState   = 1 // the replicated keys at one index: term u64, length of members u32, members, then store.Snapshot's stream
	bulkContent = 2 // a store.Want; the answer is a byte, and the content if it is contentHere
	bulkDigest  = 3 // the digest at an index u64: see verify.go
	bulkScrub   = 4 // a scrub, now: see verify.go
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
	snapshot, term, members, err := g.stateNow(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, snapshot.Close()) }()
	b, err := proto.Marshal(members)
	if err != nil {
		return err
	}
	head := binary.LittleEndian.AppendUint64(nil, term)
	head = binary.LittleEndian.AppendUint32(head, uint32(len(b)))
	if _, err := w.Write(append(head, b...)); err != nil {
		return err
	}
	return snapshot.Send(ctx, w)
}

// stateNow returns a snapshot, with the term of its index and the members there. It is of no older index than what is committed now: who
// asks has just become a member, most often, and must find itself there.
func (g *Group) stateNow(ctx context.Context) (*store.Snapshot, uint64, *pb.ConfState, error) {
	if err := g.applyAll(ctx); err != nil {
		return nil, 0, nil, err
	}
	for try := 0; ; try++ {
		s, err := g.Store().Snapshot()
		if err != nil {
			return nil, 0, nil, err
		}
		g.mu.Lock()
		term, members, err := g.peers.core.At(uint64(s.Position().Index))
		g.mu.Unlock()
		// At index 0 the members are the founders.
		if err == nil && (s.Position().Index > 0 || len(members.GetVoters()) > 0) {
			return s, term, members, nil
		}
		if err = errors.Join(err, s.Close()); err != nil && try < 10 { // the log was compacted in between
			continue
		}
		return nil, 0, nil, errors.Join(errNotHere, err)
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

func readStateHeader(r io.Reader) (term uint64, members *pb.ConfState, err error) {
	var head [12]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return 0, nil, fmt.Errorf("read a state: %w", err)
	}
	n := binary.LittleEndian.Uint32(head[8:])
	if n > 64<<10 {
		return 0, nil, fmt.Errorf("%w: members of %d bytes", ErrMessage, n)
	}
	b := make([]byte, n)
	if _, err := io.ReadFull(r, b); err != nil {
		return 0, nil, fmt.Errorf("read a state: %w", err)
	}
	members = &pb.ConfState{}
	return binary.LittleEndian.Uint64(head[:]), members, proto.Unmarshal(b, members)
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
