package replication

import (
	"errors"
	"slices"

	"github.com/remora-storage/remora/cachefs/record"
)

// One owner (I5): who sees a newer epoch accepted stops, and says what of its answered work is lost.

// ErrFenced: another owner has opened a newer epoch. What this one answered and the group had not accepted is lost.
var ErrFenced = errors.New("another owner has taken over the volume")

// patience is how many ticks a change may be unaccepted before new ones wait unanswered.
const patience = 20

// usurped tells that the owner here is not the newest any more. g.mu is held.
func (g *Group) usurped() bool {
	return g.peers != nil && g.owner.Epoch != 0 && g.core.acceptance.Epoch > g.owner.Epoch
}

// fence ends our ownership: another owner's epoch was accepted. g.mu is held.
func (g *Group) fence() {
	p := g.peers
	p.fenced = ErrFenced
	g.wakeAll()
	p.lost += p.core.Drop()
	for _, it := range p.table {
		if it.own {
			it.own = false
			g.unaccepted -= it.size()
			g.unapplied -= it.size()
		}
	}
	g.cfg.Logger.Error("another owner has taken over: what was answered here and not accepted is lost", "records", p.lost)
}

// giveUpRecovered lets go of what an owner that died here has left and what is accepted, or never will be, because another one has taken over.
// Nobody may ever own the volume here again, and the journal would be kept for it. g.mu is held.
func (g *Group) giveUpRecovered(a record.Acceptance) {
	if len(g.recovered) == 0 {
		return
	}
	g.recovered = slices.DeleteFunc(g.recovered, func(it item) bool {
		n := it.rec.Name
		if n.Epoch < a.Epoch {
			g.peers.lost++
			return true
		}
		return n.Epoch == a.Epoch && n.Incarnation == a.Incarnation && n.Seq <= a.Last
	})
}

// stuck tells that the group makes no progress: new changes wait. g.mu is held.
func (g *Group) stuck() bool {
	if g.peers == nil {
		return false
	}
	_, still := g.peers.core.Unaccepted()
	return still >= patience
}
