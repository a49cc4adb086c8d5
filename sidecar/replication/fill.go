package replication

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/remora-storage/remora/cachefs/meta"
	"github.com/remora-storage/remora/cachefs/store"
)

// FillStatus is how far a replica is with content that it did not have, and what it found of its own to be bad.
type FillStatus struct {
	Complete bool
	store.Progress
	store.Counts
}

const (
	fillPause   = 100 * time.Millisecond
	fillBatch   = 64
	fillRate    = 200 << 20
	fillUnsaved = 32 << 20         // bytes that are filled between two checkpoints: their seals are in memory until then
	fetchTime   = 10 * time.Second // for one fetch, after which the reader gets an error
	retryFetch  = 5 * time.Millisecond
	retryMost   = 100 * time.Millisecond
)

// filler brings what is absent, chunk after chunk, until everything is here.
func (g *Group) filler() {
	ctx := g.peers.ctx
	for ctx.Err() == nil {
		if err := g.fillOnce(ctx); err != nil && ctx.Err() == nil && !errors.Is(err, errNotHere) {
			g.cfg.Logger.Warn("content is not filled yet; it is tried again", "err", err)
		}
		select {
		case <-ctx.Done():
		case <-time.After(fillPause):
		}
	}
}

// fillOnce goes once through what is absent, and then through what stayed here while the replica was away.
func (g *Group) fillOnce(ctx context.Context) error {
	ctx, done, err := g.use(ctx)
	if err != nil {
		return err
	}
	defer done()
	s := g.Store()
	if s.Complete() {
		return nil
	}
	if err := g.fillAbsent(ctx, s); err != nil {
		return err
	}
	rate := g.peers.rate()
	if err := s.Verify(ctx, rate, func(w store.Want) error { return g.fetchWithin(ctx, s, w) }); err != nil {
		return err
	}
	if err := g.checkpointNow(ctx); err != nil { // what was filled counts when it is durable
		return err
	}
	return g.progress(ctx, s)
}

func (g *Group) fillAbsent(ctx context.Context, s *store.Store) error {
	if err := g.progress(ctx, s); err != nil {
		return err
	}
	for after := store.Cursor(nil); ; {
		wants, next, err := s.Missing(ctx, after, fillBatch)
		if err != nil {
			return err
		}
		for i := range wants {
			start := time.Now()
			if err := g.fetchWithin(ctx, s, wants[i]); err != nil {
				return err
			}
			g.peers.pace(ctx, wants[i].Bytes(), time.Since(start))
			if s.Counts().UnsavedBytes < fillUnsaved {
				continue
			}
			if err := g.checkpointNow(ctx); err != nil {
				return err
			}
		}
		if after = next; after == nil {
			return nil
		}
	}
}

// progress counts what is absent.
func (g *Group) progress(ctx context.Context, s *store.Store) error {
	filled := s.Counts().FilledBytes
	progress, err := s.Progress(ctx)
	if err != nil {
		return err
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.peers.progress, g.peers.filled = progress, filled
	return nil
}

// FillStatus is how far this replica is. Between two counts what was filled is taken off.
func (g *Group) FillStatus() FillStatus {
	s := g.Store()
	if s == nil || g.hollow.Load() {
		return FillStatus{}
	}
	st := FillStatus{Complete: s.Complete(), Counts: s.Counts()}
	if g.peers == nil {
		return st
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	st.Progress = g.peers.progress
	if st.AbsentBytes -= min(st.AbsentBytes, st.FilledBytes-g.peers.filled); st.Complete {
		st.AbsentBytes, st.AbsentChunks, st.UnverifiedChunks = 0, 0, 0
	}
	return st
}

func (p *peers) rate() int64 {
	if p.cfg.FillRate == 0 {
		return fillRate
	}
	return p.cfg.FillRate
}

// pace keeps filling below a rate: what programs do comes first.
func (p *peers) pace(ctx context.Context, bytes int64, took time.Duration) {
	if wait := time.Duration(float64(bytes)/float64(p.rate())*float64(time.Second)) - took; wait > 0 {
		select {
		case <-ctx.Done():
		case <-time.After(wait):
		}
	}
}

// checkpointNow has the apply loop make a checkpoint.
func (g *Group) checkpointNow(ctx context.Context) error {
	defer context.AfterFunc(ctx, g.changed.Broadcast)()
	g.mu.Lock()
	defer g.mu.Unlock()
	for before := g.checkpoints; g.failed == nil && !g.closing && ctx.Err() == nil && g.checkpoints == before; {
		g.pressed = true
		g.work.Signal()
		g.changed.Wait()
	}
	return errors.Join(g.failed, ctx.Err())
}

// Fetch implements cachefs.Source: it brings content that is absent, or bad, from a peer.
func (g *Group) Fetch(ctx context.Context, ino meta.Ino, chunk uint64, first, n uint32) error {
	if g.peers == nil {
		return errors.New("the volume has one replica")
	}
	ctx, done, err := g.use(ctx)
	if err != nil {
		return err
	}
	defer done()
	s := g.Store()
	want, err := s.Want(ino, chunk, first, n)
	if err != nil || want.IsZero() {
		return err
	}
	return g.fetchWithin(ctx, s, want)
}

type fetched struct {
	ino   meta.Ino
	chunk uint64
}

// fetchWithin fetches content in bounded time. Who comes while the same chunk is being fetched waits for that, and looks again.
func (g *Group) fetchWithin(ctx context.Context, s *store.Store, want store.Want) error {
	ctx, cancel := context.WithTimeout(ctx, fetchTime)
	defer cancel()
	key := fetched{want.Ino, want.Chunk}
	g.mu.Lock()
	if other := g.peers.fetching[key]; other != nil {
		g.mu.Unlock()
		select {
		case <-other:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	mine := make(chan struct{})
	g.peers.fetching[key] = mine
	g.mu.Unlock()
	defer func() {
		g.mu.Lock()
		delete(g.peers.fetching, key)
		g.mu.Unlock()
		close(mine)
	}()
	return g.fetch(ctx, s, want)
}

// fetch asks the peers in turn, the leader first, until one has the content, or all have said that they have it not. A peer that cannot be
// reached, or has not applied enough yet, is asked again.
func (g *Group) fetch(ctx context.Context, s *store.Store, want store.Want) error {
	for pause := retryFetch; ; pause = min(2*pause, retryMost) {
		var errs []error
		others := g.others()
		again := len(others) == 0
		for _, peer := range others {
			err := g.fetchFrom(ctx, s, peer, want)
			if err == nil {
				return nil
			}
			again = again || !errors.Is(err, errLacks)
			errs = append(errs, fmt.Errorf("%016x: %w", peer, err))
		}
		if !again || ctx.Err() != nil {
			return fmt.Errorf("content of inode %d, chunk %d: %w", want.Ino, want.Chunk, errors.Join(append(errs, ctx.Err())...))
		}
		select {
		case <-ctx.Done():
		case <-time.After(pause):
		}
	}
}

// others are the other members that have content, the leader first.
func (g *Group) others() []uint64 {
	g.mu.Lock()
	defer g.mu.Unlock()
	s := g.peers.core.Status()
	all := slices.Concat([]uint64{s.Leader}, s.Voters, s.Outgoing, s.Learners)
	var others []uint64
	for _, id := range all {
		if id != 0 && id != s.ID && !slices.Contains(others, id) && !g.peers.isWitness(id) {
			others = append(others, id)
		}
	}
	return others
}

var (
	errLacks = errors.New("it does not have good content either")
	errLater = errors.New("one of us has not applied enough yet")
)

// fetchFrom asks one peer. With nil there is reason to look again.
func (g *Group) fetchFrom(ctx context.Context, s *store.Store, peer uint64, want store.Want) error {
	r, err := g.peers.cfg.Fetch(ctx, peer, want.Append([]byte{bulkContent}))
	if err != nil {
		return err
	}
	defer r.Close()
	var answer bytes.Buffer
	answer.Grow(int(want.Bytes()) + 32<<10)
	_, err = answer.ReadFrom(io.LimitReader(r, store.MaxContent+2))
	b := answer.Bytes()
	switch {
	case err != nil:
		return err
	case len(b) == 0:
		return fmt.Errorf("%w: an empty answer", ErrMessage)
	case b[0] == contentBehind:
		return errLater
	case b[0] == contentGone:
		return nil // so it will be here
	}
	c, err := store.DecodeContent(b[1:])
	if err != nil {
		return err
	}
	filled, err := s.Fill(c)
	switch {
	case errors.Is(err, store.ErrBehind):
		return nil // it has changed: look again
	case errors.Is(err, store.ErrForged):
		g.cfg.Logger.Error("content from a peer was refused", "peer", fmt.Sprintf("%016x", peer), "err", err)
		return fmt.Errorf("%w: %w", errLacks, err)
	case err != nil:
		return err
	case filled.Blocks+filled.Healed > 0:
		return nil
	case filled.Newer > 0:
		return errLater
	case c.Blocks.IsZero():
		return errLacks
	}
	return nil // somebody else has brought it
}

// Filled tells whether this replica has all content and has applied what the group has committed, so that it may become a voter.
func (g *Group) Filled() bool {
	if g.witness() {
		return g.knowsGroup()
	}
	s := g.Store()
	if s == nil || !s.Complete() {
		return false
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.peers == nil {
		return false
	}
	of := g.peers.core.Status()
	return !g.hollow.Load() && !g.peers.copying && g.failed == nil && of.Known && g.applied > 0 && uint64(g.applied)+near >= of.Target
}
