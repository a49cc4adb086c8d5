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

// FillStatus is how far a replica is with content that it did not have.
type FillStatus struct {
	Complete bool
	store.Progress
	store.Counts
}

const (
	fillPause  = 100 * time.Millisecond
	fillBatch  = 64
	fetchTime  = 10 * time.Second // for one fetch, after which the reader gets an error
	retryFetch = 5 * time.Millisecond
)

// filler brings what is absent, chunk after chunk, until everything is here.
func (g *Group) filler() {
	ctx := g.peers.ctx
	for ctx.Err() == nil {
		if err := g.fillOnce(ctx); err != nil && ctx.Err() == nil {
			g.cfg.Logger.Warn("content is not filled yet; it is tried again", "err", err)
		}
		select {
		case <-ctx.Done():
		case <-time.After(fillPause):
		}
	}
}

// with runs something on a store, if that is still the replica's, and keeps it open meanwhile: it may be replaced at any time.
func (g *Group) with(ctx context.Context, s *store.Store, run func(context.Context) error) error {
	ctx, done, err := g.use(ctx)
	if err != nil {
		return err
	}
	defer done()
	if s == nil || g.Store() != s {
		return errNotHere
	}
	return run(ctx)
}

// fillOnce goes once through what is absent.
func (g *Group) fillOnce(ctx context.Context) error {
	s := g.Store()
	if s == nil || s.Complete() || g.hollow.Load() {
		return nil
	}
	var after, next store.Cursor
	for {
		var wants []store.Want
		err := g.with(ctx, s, func(ctx context.Context) (err error) {
			wants, next, err = s.Missing(ctx, after, fillBatch)
			return err
		})
		if err != nil {
			return err
		}
		for i := range wants {
			start := time.Now()
			if err := g.fetch(ctx, s, wants[i]); err != nil {
				return err
			}
			g.peers.pace(ctx, wants[i].Bytes(), time.Since(start))
		}
		if after = next; after == nil {
			break
		}
	}
	if err := g.checkpointNow(ctx); err != nil { // what was filled counts when it is durable
		return err
	}
	var progress store.Progress
	err := g.with(ctx, s, func(ctx context.Context) (err error) {
		progress, err = s.Progress(ctx)
		return err
	})
	g.mu.Lock()
	g.peers.progress = progress
	g.mu.Unlock()
	return err
}

// pace keeps filling below a rate: what programs do comes first.
func (p *peers) pace(ctx context.Context, bytes int64, took time.Duration) {
	rate := p.cfg.FillRate
	if rate == 0 {
		rate = 200 << 20
	}
	if wait := time.Duration(bytes)*time.Second/time.Duration(rate) - took; wait > 0 {
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
	ctx, cancel := context.WithTimeout(ctx, fetchTime)
	defer cancel()
	s := g.Store()
	if s == nil {
		return errNotHere
	}
	var want store.Want
	err := g.with(ctx, s, func(context.Context) (err error) {
		want, err = s.Want(ino, chunk, first, n)
		return err
	})
	if err != nil || want.IsZero() {
		return err
	}
	return g.fetch(ctx, s, want)
}

// fetch asks the peers in turn, the leader first, until one has the content.
func (g *Group) fetch(ctx context.Context, s *store.Store, want store.Want) error {
	for {
		var errs []error
		wait := false
		for _, peer := range g.others() {
			again, err := g.fetchFrom(ctx, s, peer, want)
			if err == nil && !again {
				return nil
			}
			wait = wait || again
			errs = append(errs, err)
		}
		if !wait || ctx.Err() != nil {
			return fmt.Errorf("content of inode %d, chunk %d: %w", want.Ino, want.Chunk, errors.Join(append(errs, ctx.Err())...))
		}
		select {
		case <-ctx.Done():
		case <-time.After(retryFetch):
		}
	}
}

// others are the other members, the leader first.
func (g *Group) others() []uint64 {
	g.mu.Lock()
	defer g.mu.Unlock()
	s := g.peers.core.Status()
	all := slices.Concat([]uint64{s.Leader}, s.Voters, s.Learners)
	var others []uint64
	for _, id := range all {
		if id != 0 && id != s.ID && !slices.Contains(others, id) {
			others = append(others, id)
		}
	}
	return others
}

// fetchFrom asks one peer. again: one of us has not applied enough yet.
func (g *Group) fetchFrom(ctx context.Context, s *store.Store, peer uint64, want store.Want) (again bool, err error) {
	r, err := g.peers.cfg.Fetch(ctx, peer, want.Append([]byte{bulkContent}))
	if err != nil {
		return false, fmt.Errorf("from %016x: %w", peer, err)
	}
	defer r.Close()
	b, err := io.ReadAll(io.LimitReader(r, store.MaxContent+2))
	switch {
	case err != nil:
		return false, fmt.Errorf("from %016x: %w", peer, err)
	case len(b) == 0:
		return false, fmt.Errorf("from %016x: %w: an empty answer", peer, ErrMessage)
	case b[0] == contentBehind:
		return true, nil
	case b[0] == contentGone:
		return false, nil // so it will be here
	}
	c, err := store.DecodeContent(bytes.Clone(b[1:]))
	if err != nil {
		return false, fmt.Errorf("from %016x: %w", peer, err)
	}
	var filled store.Filled
	err = g.with(ctx, s, func(context.Context) (err error) {
		filled, err = s.Fill(c)
		return err
	})
	switch {
	case errors.Is(err, store.ErrBehind):
		return false, nil // it has changed: look again
	case err != nil:
		return false, fmt.Errorf("from %016x: %w", peer, err)
	case filled.Newer > 0:
		return true, nil
	case filled.Blocks+filled.Healed == 0 && c.Blocks.IsZero():
		return false, fmt.Errorf("%016x does not have it either", peer)
	}
	return false, nil
}

// Filled tells whether this replica has all content and has applied what the group has committed, so that it may become a voter.
func (g *Group) Filled() bool {
	s := g.Store()
	if s == nil || !s.Complete() {
		return false
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	leader := uint64(0)
	if g.peers != nil {
		leader, _ = g.peers.core.Leader()
	}
	return !g.hollow.Load() && g.failed == nil && leader != 0 && g.applied > 0 && g.applied+near >= g.core.committed
}
