package replication

import (
	"context"
	"errors"
	"fmt"
	"syscall"

	"github.com/remora-storage/remora/cachefs/record"
	"github.com/remora-storage/remora/telemetry"
)

// An owner begins (DESIGN 6, epochs): what the one before it has left is proposed again, unchanged, and then a new epoch is opened.

// Recover proposes the payloads that an earlier owner process left unaccepted, unchanged and under their names, and returns how many there
// were when they are applied, or known to be lost (LostAnswers).
func (g *Group) Recover(ctx context.Context) (int, error) {
	g.mu.Lock()
	items := g.recovered
	g.recovered = nil
	for _, it := range items {
		g.appendItem(it)
	}
	if g.peers != nil { // where the owner is, the leader had better be
		if leader, _ := g.peers.core.Leader(); leader == 0 {
			g.peers.core.Campaign()
			g.process()
		}
	}
	g.mu.Unlock()
	err := g.settle(ctx)
	if errors.Is(err, ErrFenced) { // an owner elsewhere has opened an epoch since: what is here never counts, and we may open the next
		g.mu.Lock()
		g.peers.fenced = nil
		g.mu.Unlock()
		err = nil
	}
	return len(items), err
}

// LostAnswers is how many records were answered here and can never be accepted, because another owner had taken over before they were. Their
// programs hold answers that are not true any more: the session must end.
func (g *Group) LostAnswers() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.peers == nil {
		return 0
	}
	return g.peers.lost
}

// BeginEpoch appends the Owner record that opens an epoch and returns when it is applied.
func (g *Group) BeginEpoch(ctx context.Context, owner *record.Record) error {
	if err := learn(g.cfg.Keys, owner); err != nil {
		return err
	}
	g.mu.Lock()
	g.owner = owner.Name
	g.mu.Unlock()
	if err := g.Append(owner, telemetry.SpanRef{}); err != nil {
		return err
	}
	if err := g.settle(ctx); err != nil {
		return err
	}
	if a := g.Acceptance(); a.Epoch != owner.Name.Epoch {
		return fmt.Errorf("epoch %d is refused: the log is at epoch %d", owner.Name.Epoch, a.Epoch)
	}
	return nil
}

// settle returns when everything that was appended is applied, or ENOSPC when that waits for space on the disk.
func (g *Group) settle(ctx context.Context) error {
	g.disk.commit()
	defer context.AfterFunc(ctx, g.changed.Broadcast)()
	g.mu.Lock()
	defer g.mu.Unlock()
	defer g.hurry()()
	for g.stopped() == nil && ctx.Err() == nil && !g.settled() {
		if g.stalled() {
			return fmt.Errorf("apply the log: %w", syscall.ENOSPC)
		}
		g.changed.Wait()
	}
	return errors.Join(g.stopped(), ctx.Err())
}

// settled tells whether everything that was appended is applied. g.mu is held.
func (g *Group) settled() bool {
	if g.peers != nil {
		if n, _ := g.peers.core.Unaccepted(); n > 0 {
			return false
		}
	}
	return g.applied >= g.core.last
}
