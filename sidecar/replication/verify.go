package replication

import (
	"context"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/remora-storage/remora/cachefs/record"
	"github.com/remora-storage/remora/cachefs/store"
	"github.com/remora-storage/remora/sidecar/replication/diskdir"
)

// Verify compares the digests of all replicas at one index (I2). Its asker names an index that the group has committed, or soon will; every
// replica takes a snapshot of its state when it has applied exactly that: where the apply loop is past it already, another index is tried.

// errPassed: this replica has applied more than the index for which a digest was asked.
var errPassed = errors.New("the index has passed")

// errAhead: it has not come to the index in time. Perhaps nobody writes.
var errAhead = errors.New("the index is not reached")

// mark is an index at which somebody wants a snapshot.
type mark struct {
	index record.Index
	taken chan marked
}

type marked struct {
	snapshot *store.Snapshot
	err      error
}

// applyMarked gives records to the store, and takes the snapshots that were asked for at their indexes.
func (g *Group) applyMarked(items []item) error {
	for len(items) > 0 {
		n, due := g.nextMark(items)
		err := g.store.Apply(entries(items[:n]))
		for _, m := range due {
			k := marked{err: err}
			if err == nil {
				k.snapshot, k.err = g.store.Snapshot()
			}
			m.taken <- k
		}
		if err != nil {
			return err
		}
		items = items[n:]
	}
	return nil
}

// nextMark is how many items may be applied before a snapshot is due, and for whom.
func (g *Group) nextMark(items []item) (n int, due []mark) {
	if g.peers == nil {
		return len(items), nil
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	p := g.peers
	n = len(items)
	for _, m := range p.marks {
		if m.index >= items[0].index && m.index <= items[n-1].index {
			n = int(m.index-items[0].index) + 1
		}
	}
	p.applyingTo = items[n-1].index
	p.marks = slices.DeleteFunc(p.marks, func(m mark) bool {
		if m.index == p.applyingTo {
			due = append(due, m)
		}
		return m.index == p.applyingTo
	})
	return n, due
}

// snapshotAt returns the state at an index, when that is applied; errPassed if it was before.
func (g *Group) snapshotAt(ctx context.Context, index record.Index) (*store.Snapshot, error) {
	g.mu.Lock()
	p := g.peers
	switch {
	case max(g.applied, p.applyingTo) > index:
		g.mu.Unlock()
		return nil, errPassed
	case g.applied == index:
		g.mu.Unlock()
		s, err := g.Store().Snapshot()
		if err == nil && s.Position().Index != index {
			err = errors.Join(errPassed, s.Close())
		}
		return s, err
	}
	if p.applyingTo == index {
		g.mu.Unlock()
		return nil, errPassed // just now
	}
	m := mark{index, make(chan marked, 1)}
	p.marks = append(p.marks, m)
	g.mu.Unlock()
	select {
	case k := <-m.taken:
		return k.snapshot, k.err
	case <-ctx.Done():
	}
	g.mu.Lock()
	waiting := len(p.marks)
	p.marks = slices.DeleteFunc(p.marks, func(x mark) bool { return x.taken == m.taken })
	waiting -= len(p.marks)
	g.mu.Unlock()
	if waiting == 0 { // it comes in the last moment
		if k := <-m.taken; k.err == nil {
			return nil, errors.Join(ctx.Err(), k.snapshot.Close())
		}
	}
	return nil, ctx.Err()
}

// digestAt is the digest of this replica at an index.
func (g *Group) digestAt(ctx context.Context, index record.Index) (store.Digest, error) {
	ctx, done, err := g.use(ctx)
	if err != nil {
		return store.Digest{}, err
	}
	defer done()
	wait, cancel := context.WithTimeout(ctx, verifyWait)
	defer cancel()
	s, err := g.snapshotAt(wait, index)
	if errors.Is(err, context.DeadlineExceeded) {
		err = errAhead
	}
	if err != nil {
		return store.Digest{}, err
	}
	d, err := s.Digest(ctx)
	return d, errors.Join(err, s.Close())
}

// Answers to bulkDigest: a byte, and the digest if it is digestHere.
const (
	digestHere       = 0
	digestPassed     = 1
	digestIncomplete = 2
	digestAhead      = 3
)

// scrubbed is the answer to bulkScrub.
type scrubbed struct {
	Scrubbed
	Err string `json:"error,omitempty"`
}

func (g *Group) sendScrub(ctx context.Context, w io.Writer) error {
	return json.NewEncoder(w).Encode(g.scrubNow(ctx))
}

func (g *Group) scrubNow(ctx context.Context) (s scrubbed) {
	var err error
	if s.Scrubbed, err = g.Scrub(ctx, g.peers.rate()); err != nil {
		s.Err = err.Error()
	}
	return s
}

func (g *Group) scrubOf(ctx context.Context, peer uint64) (s scrubbed) {
	r, err := g.peers.cfg.Fetch(ctx, peer, []byte{bulkScrub})
	if err == nil {
		var b []byte
		b, err = io.ReadAll(io.LimitReader(r, 1<<20))
		err = errors.Join(err, r.Close())
		if err == nil {
			err = json.Unmarshal(b, &s)
		}
	}
	if err != nil {
		s.Err = err.Error()
	}
	return s
}

func (g *Group) sendDigest(ctx context.Context, request []byte, w io.Writer) error {
	if len(request) != 8 {
		return fmt.Errorf("%w: request for a digest of %d bytes", ErrMessage, len(request))
	}
	d, err := g.digestAt(ctx, record.Index(binary.LittleEndian.Uint64(request)))
	switch {
	case errors.Is(err, errPassed):
		_, err = w.Write([]byte{digestPassed})
	case errors.Is(err, errAhead):
		_, err = w.Write([]byte{digestAhead})
	case errors.Is(err, store.ErrIncomplete):
		_, err = w.Write([]byte{digestIncomplete})
	case err == nil:
		_, err = w.Write(append([]byte{digestHere}, d.Sum[:]...))
	}
	return err
}

func (g *Group) digestOf(ctx context.Context, peer uint64, index record.Index) (sum []byte, err error) {
	r, err := g.peers.cfg.Fetch(ctx, peer, binary.LittleEndian.AppendUint64([]byte{bulkDigest}, uint64(index)))
	if err != nil {
		return nil, err
	}
	defer r.Close()
	b, err := io.ReadAll(io.LimitReader(r, 64))
	switch {
	case err != nil:
		return nil, err
	case len(b) == 1 && b[0] == digestPassed:
		return nil, errPassed
	case len(b) == 1 && b[0] == digestAhead:
		return nil, errAhead
	case len(b) == 1 && b[0] == digestIncomplete:
		return nil, store.ErrIncomplete
	case len(b) != 33 || b[0] != digestHere:
		return nil, fmt.Errorf("%w: digest of %d bytes", ErrMessage, len(b))
	}
	return b[1:], nil
}

// Verdict is what Verify found.
type Verdict struct {
	Index    uint64          `json:"index"`
	Same     bool            `json:"same"` // every replica has answered, with the same digest
	Replicas []ReplicaDigest `json:"replicas"`
}

// ReplicaDigest is what a replica answered.
type ReplicaDigest struct {
	Replica string `json:"replica"`
	Digest  string `json:"digest,omitempty"`
	Err     string `json:"error,omitempty"`
	// Scrubbed is what a scrub of it did, if one was asked for; its error, too, is in Err.
	Scrubbed *Scrubbed `json:"scrubbed,omitempty"`

	err error
}

const (
	verifyTries = 12
	verifyWait  = 2 * time.Second // for an index to be applied everywhere
)

// Verify compares the digests of all members at one index. A digest names content by its seals; with scrub, every replica also reads all of
// its content and heals what does not fit them.
func (g *Group) Verify(ctx context.Context, scrub bool) (Verdict, error) {
	if g.peers == nil {
		return Verdict{}, errors.New("the volume has one replica: there is nothing to compare it with; remora check reads it")
	}
	var v Verdict
	step := record.Index(0)
	for range verifyTries {
		g.mu.Lock()
		index := g.core.committed + step
		g.mu.Unlock()
		v = g.verifyAt(ctx, index)
		failed := func(why error) bool {
			return slices.ContainsFunc(v.Replicas, func(r ReplicaDigest) bool { return errors.Is(r.err, why) })
		}
		switch {
		case ctx.Err() != nil:
			return v, ctx.Err()
		case failed(errAhead): // nobody writes: all come to where one of them is
			step = 0
			continue
		case failed(errPassed): // somebody writes: what all have before them is a little further on
			step = max(16, 2*step)
			continue
		}
		break
	}
	if scrub {
		g.scrubAll(ctx, &v)
	}
	return v, ctx.Err()
}

// scrubAll adds scrubs of all members, at once.
func (g *Group) scrubAll(ctx context.Context, v *Verdict) {
	self := g.key().replica.String()
	var wg sync.WaitGroup
	for i := range v.Replicas {
		r := &v.Replicas[i]
		wg.Go(func() {
			var s scrubbed
			if id, err := diskdir.ParseID(r.Replica); r.Replica == self {
				s = g.scrubNow(ctx)
			} else if err == nil {
				s = g.scrubOf(ctx, uint64(id))
			}
			r.Scrubbed, r.Err = &s.Scrubbed, strings.Join(slices.DeleteFunc([]string{r.Err, s.Err}, func(e string) bool { return e == "" }), "; ")
		})
	}
	wg.Wait()
	for _, r := range v.Replicas {
		v.Same = v.Same && r.Err == ""
	}
}

// verifyAt asks all members at once.
func (g *Group) verifyAt(ctx context.Context, index record.Index) Verdict {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	self := uint64(g.key().replica)
	members := append([]uint64{self}, g.others()...)
	v := Verdict{Index: uint64(index), Same: true, Replicas: make([]ReplicaDigest, len(members))}
	var wg sync.WaitGroup
	for i, id := range members {
		wg.Go(func() {
			var sum []byte
			var err error
			if id == self {
				var d store.Digest
				d, err = g.digestAt(ctx, index)
				sum = d.Sum[:]
			} else {
				sum, err = g.digestOf(ctx, id, index)
			}
			r := ReplicaDigest{Replica: diskdir.ID(id).String()}
			if err != nil {
				r.Err, r.err = err.Error(), err
			} else {
				r.Digest = hex.EncodeToString(sum)
			}
			v.Replicas[i] = r
		})
	}
	wg.Wait()
	for _, r := range v.Replicas {
		v.Same = v.Same && r.Err == "" && r.Digest == v.Replicas[0].Digest
	}
	return v
}
