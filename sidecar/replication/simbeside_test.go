package replication

import (
	"context"

	"github.com/remora-storage/remora/sidecar/replication/diskdir"
)

// A group of one beside the replica, on the same disk and in the same journal, on every node: what one of the two gives back of the journal
// must not be what the other one needs, also while the other one is not open. It has an oracle of its own.

// putBeside makes it.
func (s *sim) putBeside(n *simNode, dir *diskdir.Dir) {
	n.beside = &simPart{oracle: newSimOracle(s), replica: diskdir.ID(1000 + n.id)}
	r, err := dir.CreateReplica(diskdir.ReplicaInfo{Replica: n.beside.replica, Group: diskdir.ID(100 + n.id), VolumeUID: "beside", Volume: "beside"})
	if err == nil {
		err = r.Close()
	}
	if err != nil {
		s.violate("node %d: make a replica: %v", n.id, err)
	}
	s.besideSoon(n)
}

func (n *simNode) ownerBeside() *simOwner {
	if n.beside == nil {
		return nil
	}
	return n.beside.owner
}

// servesBeside draws whether a process serves it.
func (l *simProcess) servesBeside() bool { return l.rng.IntN(5) > 0 }

// besideSoon has its owner write now and then.
func (s *sim) besideSoon(n *simNode) {
	if n.gone {
		return
	}
	s.after(s.between(s.plan.writeEvery, 4*s.plan.writeEvery), func() { s.besideSoon(n) })
	l := n.life
	if l == nil || !l.opened.Load() || l.closing.Load() || l.beside == nil || !l.beside.opened.Load() || n.thaws() > 0 {
		return
	}
	b, o := l.beside, n.beside.owner
	switch {
	case o == nil || o.l != b:
		n.beside.epoch++
		n.beside.owner = s.newOwner(b, n.beside.epoch)
		s.note("node %d: owner of epoch %d beside begins", n.id, n.beside.epoch)
		l.run(n.beside.owner.run)
	case !o.opened.Load() || o.ended.Load():
	case !o.checked:
		o.checked = true
		s.worked("epochs opened beside", 1)
		s.verifyBeside(l)
	case s.chance(0.01) && !o.busy.Load() && l.syncing.Load() == 0 && !l.applying.Load() && !l.committing.Load():
		s.shutBeside(l)
	default:
		seed, sync := s.rng.Uint64(), s.chance(s.plan.fsync)
		o.do(func() {
			o.write(seed)
			if sync && !o.ended.Load() {
				o.sync()
			}
		})
	}
}

// shutBeside closes it, and the process goes on.
func (s *sim) shutBeside(l *simLife) {
	s.fault("closed beside", "node %d", l.n.id)
	b := l.beside
	b.opened.Store(false)
	l.applying.Store(true) // its syncs are not slow: they hold locks
	l.run(func() {
		b.drain()
		err := b.group.Close(context.Background())
		b.shut = true
		if err != nil && !l.dead.Load() && !l.hasFailed() {
			s.violate("node %d: close what is beside: %v", l.n.id, err)
		}
		l.applying.Store(false)
	})
}

// verifyBeside compares it with its oracle's.
func (s *sim) verifyBeside(l *simLife) {
	if b := l.beside; b != nil && b.opened.Load() && !l.applying.Load() {
		s.worked("stores compared beside", 1)
		s.verify(b)
	}
}
