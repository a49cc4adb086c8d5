package replication

import (
	"slices"
	"time"
)

// simObject is the Volume object, as far as it names members. Guarded by sim.mu.
type simObject struct {
	index   uint64 // of the newest change that a leader has told
	members []Member
	losses  int // so far
}

// members is what the replicas read of the object.
func (s *sim) members() []Member {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.object.members)
}

// changed is what a leader's process writes into the object.
func (l *simLife) changed(index uint64, voters, learners []uint64, leads bool) {
	s := l.s
	s.mu.Lock()
	defer s.mu.Unlock()
	if !leads || l.dead.Load() || index <= s.object.index {
		return
	}
	s.object.index = index
	s.object.members = slices.DeleteFunc(s.object.members, func(m Member) bool {
		return m.Role == Leaving && !slices.Contains(voters, m.ID) && !slices.Contains(learners, m.ID)
	})
	for i := range s.object.members {
		if m := &s.object.members[i]; m.Role == Learner && slices.Contains(voters, m.ID) {
			m.Role = Voter
			s.work["replicas exchanged"]++
		}
	}
}

// exchange takes a voter away, with its disk or in good order, and puts an empty node in its place.
func (s *sim) exchange(n *simNode) {
	s.mu.Lock()
	i := slices.IndexFunc(s.object.members, func(m Member) bool { return m.ID == n.id })
	settled := !slices.ContainsFunc(s.object.members, func(m Member) bool { return m.Role != Voter })
	settled = settled && !slices.ContainsFunc(s.nodes, func(n *simNode) bool { return n.rotten }) // its peers must be there to heal it
	if i < 0 || !settled || !s.ready || s.object.losses == 3 {
		s.mu.Unlock()
		return
	}
	s.object.losses++
	s.object.members[i].Role = Leaving
	id := uint64(len(s.nodes)) + 1
	s.object.members = append(s.object.members, Member{ID: id, Role: Learner, Witness: n.witness})
	s.mu.Unlock()
	if s.plan.nodes > 2 && s.chance(0.5) && s.spares(n) {
		s.fault("node lost", "node %d with its disk, node %d comes", n.id, id)
		n.gone = true
		if n.life != nil {
			s.kill(n.life)
		}
	} else {
		s.fault("node leaves", "node %d, node %d comes", n.id, id)
	}
	fresh := s.addNode(id)
	fresh.witness = n.witness
	s.startNode(fresh)
	s.ticks(fresh)
	s.fillSoon(fresh)
}

// spares tells whether a node may be lost with its disk. Of two replicas beside a witness, the other one must have all of its state: to be in
// the middle of a copy is a failure of its own, of which there may be one.
func (s *sim) spares(lost *simNode) bool {
	for _, n := range s.nodes {
		if !s.plan.witness || lost.witness || n == lost || n.witness || n.gone {
			continue
		}
		l := n.life
		if l == nil || !l.opened.Load() || l.closing.Load() || l.applying.Load() || l.group.hollow.Load() || !l.group.Store().Complete() {
			return false
		}
	}
	return true
}

// membersSoon looks after the object: it says who is filled, and ends the processes of who is no member any more.
func (s *sim) membersSoon() {
	s.after(50*time.Millisecond, s.membersSoon)
	named := s.members()
	for _, n := range s.nodes {
		i := slices.IndexFunc(named, func(m Member) bool { return m.ID == n.id })
		l := n.life
		if i < 0 && !n.gone {
			n.gone = true
			s.note("node %d is no member any more", n.id)
			if l != nil {
				s.kill(l)
			}
		}
		if i < 0 || l == nil || !l.opened.Load() || l.closing.Load() || l.applying.Load() || named[i].Role != Learner || named[i].Filled || !l.group.Filled() {
			continue
		}
		s.mu.Lock()
		for k := range s.object.members {
			if s.object.members[k].ID == n.id {
				s.object.members[k].Filled = true
			}
		}
		s.mu.Unlock()
		s.note("node %d is filled", n.id)
	}
}
