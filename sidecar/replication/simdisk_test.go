package replication

import (
	"errors"
	"syscall"
	"time"

	"github.com/remora-storage/remora/cachefs/meta"
	"github.com/remora-storage/remora/cachefs/record"
	"github.com/remora-storage/remora/cachefs/store"
	"github.com/remora-storage/remora/sidecar/replication/diskdir"
)

// Faults of disks that work (-sim-disks): one bit of content turns over, and scrubs find it and heal it; and a disk is full for a while.

// disks begins them.
func (s *sim) disks() {
	if mix(s.seed, 6)%2 == 0 {
		s.after(time.Second, s.rotSoon)
	}
	if s.plan.disks > 1 && mix(s.seed, 7)%2 == 0 {
		s.after(time.Second, s.fullSoon)
	}
	s.after(time.Second, s.scrubSoon)
}

// rotSoon turns a bit over where everybody has everything, so that it can be healed.
func (s *sim) rotSoon() {
	if s.healing {
		return
	}
	s.after(s.between(500*time.Millisecond, 2*time.Second), s.rotSoon)
	s.mu.Lock()
	may := !s.plan.changes && !s.plan.witness || s.settled() && s.object.copies > 1 // others must be there to heal it
	may = may && s.plan.keepBytes == 0                                              // and stay: a witness that keeps little gives up who is away
	s.mu.Unlock()
	if !may {
		return
	}
	var all []*simNode
	for _, n := range s.nodes {
		if n.gone || n.witness {
			continue
		}
		l := n.life
		if l == nil || l.alone || !l.opened.Load() || l.closing.Load() || l.applying.Load() || n.rotten || l.group.hollow.Load() || !l.group.Store().Complete() {
			return
		}
		if s.plan.witness && l.group.Status().Applied < s.committed() { // of two copies, the other one would be all that there is
			return
		}
		all = append(all, n)
	}
	n := all[s.rng.IntN(len(all))]
	if at, ok := s.durableBlock(n.life); ok {
		path := diskdir.ArenaPath(n.life.disk.dir.Path(), diskdir.ID(n.id))
		if n.fs.Flip(path, at+int64(s.rng.IntN(record.BlockSize)), uint(s.rng.IntN(8))) == nil {
			n.rotten = true
			s.fault("bit rot", "node %d, arena at %d", n.id, at)
		}
	}
}

// committed is the newest index that the group has committed.
func (s *sim) committed() record.Index {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.oracle.next - 1
}

// durableBlock draws a block of content that is not in the journal alone. (Rot of what is looks like a torn write: docs/durability.md.)
func (s *sim) durableBlock(l *simLife) (at int64, ok bool) {
	saved := l.group.cfg.Replica.Checkpoint().Acceptance
	var places []int64
	err := l.group.Store().Scan([]byte{meta.LocalPrefix}, []byte{0xff}, func(key, value []byte) error {
		local, err := store.DecodeLocal(key, value)
		if err != nil || local.Residency == nil {
			return err
		}
		if r := local.Residency; r.Last.Epoch < saved.Epoch || r.Last.Epoch == saved.Epoch && r.Last.Seq <= saved.Last {
			for i := range uint32(simBlocks) {
				if r.Here.Has(i) {
					places = append(places, store.BlockOffset(r.Slot, i))
				}
			}
		}
		return nil
	})
	if err != nil || len(places) == 0 {
		return 0, false
	}
	return places[s.rng.IntN(len(places))], true
}

// scrubSoon scrubs where content is bad, until all of it is healed.
func (s *sim) scrubSoon() {
	s.after(200*time.Millisecond, s.scrubSoon)
	for _, n := range s.nodes {
		l := n.life
		if !n.rotten || l == nil || !l.opened.Load() || l.closing.Load() || l.scrubbing.Load() || l.group.hollow.Load() {
			continue
		}
		l.scrubbing.Store(true)
		l.run(func() {
			done, err := l.group.Scrub(l.group.peers.ctx, 0)
			if err == nil { // what has changed while it was being healed is looked at again: it is well when a scrub finds nothing
				s.worked("blocks healed", int(done.Healed))
				l.healed.Store(done.Bad == 0)
			}
			l.scrubbing.Store(false)
		})
	}
}

// fullSoon makes a disk full, for a while.
func (s *sim) fullSoon() {
	if s.healing {
		return
	}
	s.after(s.between(time.Second, 3*time.Second), s.fullSoon)
	n := s.nodes[s.rng.IntN(len(s.nodes))]
	if n.gone || n.life == nil || !n.life.opened.Load() {
		return
	}
	n.fs.Limit(n.fs.Used() + int64(1+s.rng.IntN(256<<10)))
	s.fault("full disk", "node %d", n.id)
	s.after(s.between(100*time.Millisecond, time.Second), func() { s.space(n) })
}

// space ends that.
func (s *sim) space(n *simNode) {
	n.fs.Limit(0)
	if l := n.life; l != nil && l.opened.Load() {
		l.disk.poke(true)
	}
}

// isFull tells whether an error is that of a full disk.
func isFull(err error) bool { return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) }
