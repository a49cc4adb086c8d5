package replication

import (
	"slices"
	"time"

	pb "go.etcd.io/raft/v3/raftpb"
)

// simObject is the Volume object, as far as it names members. Guarded by sim.mu.
type simObject struct {
	index    uint64 // of the newest change that a leader has told
	members  []Member
	copies   int    // wanted
	several  bool   // it has several copies, or had
	survivor uint64 // that goes on alone; 0: none
	pending  bool   // a majority is lost, and nobody has accepted that yet
	losses   int    // so far
}

// members is what the replicas read of the object.
func (s *sim) members() []Member {
	s.mu.Lock()
	defer s.mu.Unlock()
	if i := slices.IndexFunc(s.object.members, func(m Member) bool { return m.ID == s.object.survivor }); i >= 0 {
		return []Member{s.object.members[i]}
	}
	return slices.Clone(s.object.members)
}

func (s *sim) copies() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.object.copies
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
		gone := m.Role != Learner && !slices.Contains(voters, m.ID) && !slices.Contains(learners, m.ID)
		if gone && m.Role == Voter {
			s.work["replicas given up"]++
		}
		return gone
	})
	for i := range s.object.members {
		if m := &s.object.members[i]; m.Role == Voter && slices.Contains(learners, m.ID) {
			m.Role = Learner
		}
		if m := &s.object.members[i]; m.Role == Learner && slices.Contains(voters, m.ID) {
			m.Role = Voter
			s.work["learners that became voters"]++
		}
	}
}

// exchange takes a voter away, with its disk or in good order, and puts an empty node in its place.
func (s *sim) exchange(n *simNode) {
	s.mu.Lock()
	i := slices.IndexFunc(s.object.members, func(m Member) bool { return m.ID == n.id })
	if i < 0 || !s.settled() || !s.object.several || s.object.losses == s.plan.losses() {
		s.mu.Unlock()
		return
	}
	s.object.losses++
	s.object.members[i].Role = Leaving
	id, copies := uint64(len(s.nodes))+1, s.object.copies
	s.object.members = append(s.object.members, Member{ID: id, Role: Learner, Witness: n.witness})
	s.mu.Unlock()
	fails := copies > 2 && s.chance(0.5) && s.spares(n)
	switch {
	case fails && s.plan.changes && s.chance(0.4):
		s.fault("node away", "node %d, whose disk comes back, and node %d comes", n.id, id)
		s.goAway(n)
	case fails:
		s.fault("node lost", "node %d with its disk, node %d comes", n.id, id)
		s.lose(n)
	default:
		s.fault("node leaves", "node %d, node %d comes", n.id, id)
	}
	s.join(id, n.witness)
}

// settled tells that all members are what they are to be. s.mu is held.
func (s *sim) settled() bool {
	o := &s.object
	return s.ready && !slices.ContainsFunc(o.members, func(m Member) bool { return m.Role != Voter }) && len(o.members) == o.copies && o.survivor == 0 && !o.pending &&
		!slices.ContainsFunc(s.nodes, func(n *simNode) bool { return n.rotten || n.away }) // who is rotten needs its peers to be healed
}

// lose takes a node away with its disk.
func (s *sim) lose(n *simNode) {
	n.gone = true
	if n.life != nil {
		s.kill(n.life)
	}
}

// join starts an empty node, which the object names already.
func (s *sim) join(id uint64, witness bool) {
	fresh := s.addNode(id)
	fresh.witness = witness
	s.startNode(fresh)
	s.ticks(fresh)
	s.fillSoon(fresh)
}

// spares tells whether a node may be lost with its disk. Of two replicas beside a witness, the other one must have all of its state: to be in
// the middle of a copy is a failure of its own, of which there may be one. So is damaged metadata: what is in that replica's log alone, and in its
// arena, nobody can be given until it has a state again, so the witness stays that long.
func (s *sim) spares(lost *simNode) bool {
	for _, n := range s.nodes {
		if n != lost && !n.gone && n.damaged.Load() {
			return false
		}
		if s.plan.witness && n.changes() { // it may be the other one that is being given up: the object has not heard of it
			return false
		}
		if !s.plan.witness || n == lost || n.witness || n.gone || lost.witness && !n.damaged.Load() {
			continue
		}
		l := n.life
		if n.damaged.Load() || l == nil || !l.opened.Load() || l.closing.Load() || l.applying.Load() || l.group.hollow.Load() || !l.group.Store().Complete() {
			return false
		}
	}
	return true
}

// membersSoon looks after the object: it says who is filled, and ends the processes of who is no member any more.
func (s *sim) membersSoon() {
	s.after(50*time.Millisecond, s.membersSoon)
	if s.plan.changes || s.plan.witness { // a witness gives up who is away for too long
		s.fewEnough()
	}
	named := s.members()
	for _, n := range s.nodes {
		i := slices.IndexFunc(named, func(m Member) bool { return m.ID == n.id })
		l := n.life
		if i < 0 && !n.gone {
			s.note("node %d is no member any more", n.id)
			s.lose(n)
		}
		if i < 0 || l == nil || !l.opened.Load() || l.closing.Load() || l.applying.Load() || named[i].Role != Learner {
			continue
		}
		filled := named[i].Filled && !l.group.Unfilled() || l.group.Filled()
		if filled == named[i].Filled {
			continue
		}
		if filled && !n.witness {
			s.hasAll(l)
		}
		s.mu.Lock()
		for k := range s.object.members {
			if s.object.members[k].ID == n.id {
				s.object.members[k].Filled = filled
				n.filled = n.filled || filled
			}
		}
		s.mu.Unlock()
		if s.note("node %d is filled: %v", n.id, filled); !filled {
			s.work["learners that were filled, and are not"]++
		}
	}
}

// hasAll checks that a replica which says that it is filled is.
func (s *sim) hasAll(l *simLife) {
	if l.n.rotten || l.n.damaged.Load() || l.group.hollow.Load() {
		return
	}
	st, err := l.stateOf()
	if err != nil {
		s.violate("node %d: %v", l.n.id, err)
	} else if st.absent > 0 {
		s.violate("node %d says that it has everything, and %d blocks are absent", l.n.id, st.absent)
	}
}

// changes tells whether a node's log has a change of members that it does not know to be committed, or that has left one voter.
func (n *simNode) changes() bool {
	l := n.life
	if l == nil || l.alone || !l.opened.Load() {
		return false
	}
	g := l.group
	g.mu.Lock()
	defer g.mu.Unlock()
	committed, _ := g.peers.core.Delivered()
	return len(g.peers.core.Members().Voters) == 1 || slices.ContainsFunc(g.peers.core.Entries(), func(e pb.Entry) bool {
		return e.Index > committed && e.Type != pb.EntryNormal
	})
}
