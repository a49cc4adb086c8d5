package replication

import (
	"cmp"
	"fmt"
	"slices"
	"time"
)

// Another number of copies in the middle of everything else, nodes that are away for long and come back with what they had, and nodes that are
// lost while members change: what `remora dev replicas`, `return-node` and `fail-node` do to the Volume object.

// changeMembers begins a change of members, or disturbs one.
func (s *sim) changeMembers(n *simNode) {
	switch s.rng.IntN(9) {
	case 0, 1:
		s.exchange(n)
	case 2, 3:
		if s.plan.witness { // the number of copies stays
			s.changePlaces(n)
		} else {
			s.grow()
		}
	case 4:
		if s.plan.witness {
			s.exchange(n)
		} else {
			s.shrink()
		}
	case 5:
		s.awayForLong(n)
	case 6:
		s.lostInTheMiddle(n)
	case 7:
		s.loseMajority(n)
	case 8:
		s.damageMetadata(n)
	}
	s.disturb()
}

// changePlaces has a copy be where the witness was, and the witness elsewhere: the pod was started on its node. Nobody fails.
func (s *sim) changePlaces(n *simNode) {
	s.mu.Lock()
	o := &s.object
	if n.witness || !slices.ContainsFunc(o.members, func(m Member) bool { return m.ID == n.id }) || !s.begins() {
		s.mu.Unlock()
		return
	}
	for i := range o.members {
		if m := &o.members[i]; m.Witness || m.ID == n.id {
			m.Role = Leaving
		}
	}
	id := uint64(len(s.nodes)) + 1
	o.members = append(o.members, Member{ID: id, Role: Learner}, Member{ID: id + 1, Role: Learner, Witness: true})
	s.mu.Unlock()
	s.fault("places changed", "node %d and the witness leave, node %d and witness %d come", n.id, id, id+1)
	s.join(id, false)
	s.join(id+1, true)
}

// disturb has somebody crash soon, perhaps.
func (s *sim) disturb() {
	n := s.nodes[s.rng.IntN(len(s.nodes))]
	switch s.rng.IntN(4) {
	case 0:
		if l := n.life; l != nil && l.opened.Load() && !l.closing.Load() {
			s.faultAt("crash at a call", n, l)
		}
	case 1:
		s.after(s.between(0, 400*time.Millisecond), func() {
			if l := n.life; l != nil && l.opened.Load() && !l.closing.Load() && !s.healing {
				s.faultAt("crash", n, l)
			}
		})
	}
}

// begins counts a change of members, if one may begin. s.mu is held.
func (s *sim) begins() bool {
	if !s.settled() || s.object.losses >= s.plan.losses() {
		return false
	}
	s.object.losses++
	return true
}

// grow has the volume have more copies. The empty nodes come by themselves: fewEnough.
func (s *sim) grow() {
	s.mu.Lock()
	before := s.object.copies
	if before >= 5 || !s.begins() {
		s.mu.Unlock()
		return
	}
	n := 3
	if before == 3 || s.chance(0.3) {
		n = 5
	}
	s.object.copies, s.object.several = n, true
	s.mu.Unlock()
	s.fault("grows", "from %d to %d copies", before, n)
}

// shrink has it have fewer: the owner's stays, and others that have everything.
func (s *sim) shrink() {
	var whole []uint64
	for _, n := range s.nodes {
		if l := n.life; !n.gone && l != nil && !l.alone && l.opened.Load() && !l.closing.Load() && l.group.Filled() {
			whole = append(whole, n.id)
		}
	}
	owns := func(id uint64) int {
		if o := s.owner; o != nil && o.l.n.id == id {
			return 0
		}
		return 1
	}
	slices.SortStableFunc(whole, func(a, b uint64) int { return cmp.Compare(owns(a), owns(b)) })
	s.mu.Lock()
	before, n := s.object.copies, 1
	if before == 5 && s.chance(0.5) {
		n = 3
	}
	if before <= n || len(whole) < n || !s.begins() {
		s.mu.Unlock()
		return
	}
	s.object.copies = n
	for i := range s.object.members {
		if m := &s.object.members[i]; !slices.Contains(whole[:n], m.ID) {
			m.Role = Leaving
		}
	}
	s.mu.Unlock()
	s.fault("shrinks", "from %d to %d copies: %v", before, n, whole[:n])
}

// awayForLong takes a node away, which comes back with its old disk.
func (s *sim) awayForLong(n *simNode) {
	s.mu.Lock()
	may := s.object.copies > 2 && !n.gone && n.life != nil && s.begins()
	s.mu.Unlock()
	if may {
		s.fault("node away", "node %d, whose disk comes back", n.id)
		s.goAway(n)
	}
}

// goAway ends a node for a while.
func (s *sim) goAway(n *simNode) {
	n.away = true
	if n.life != nil {
		s.crashNow(n.life, simCut(s.rng))
	}
	s.after(s.between(300*time.Millisecond, 4*time.Second), func() { s.comeBack(n) })
}

// comeBack brings a node back, as old as it is.
func (s *sim) comeBack(n *simNode) {
	if n.away {
		n.away = false
		s.note("node %d comes back", n.id)
		s.startNode(n)
	}
}

// whole tells that a node's replica has everything that it knows of.
func (n *simNode) whole() bool {
	l := n.life
	if n.gone || l == nil || !l.opened.Load() || l.closing.Load() || n.rotten || n.damaged.Load() || l.group.hollow.Load() {
		return false
	}
	st := l.group.Store()
	return st != nil && st.Complete()
}

// serves tells that a witness runs and has its place in the group's log.
func (n *simNode) serves() bool {
	l := n.life
	return n.witness && !n.gone && l != nil && l.opened.Load() && !l.closing.Load() && l.group.knowsGroup()
}

// spare tells whether the group can spare a node's disk, whatever the object has heard of the members: nobody else is lost or away, all who may
// be voters have everything, and there are two of them at least.
func (s *sim) spare(n *simNode, named []Member) bool {
	others, copies, voters := 0, 0, 0
	for _, m := range named {
		x := s.node(m.ID)
		votes := x.mayVote(m)
		if votes {
			voters++
		}
		switch {
		case x.gone || x.away:
			return false
		case x.alone(n.id):
			return false
		case x.mourns():
			return false
		case s.outvoted(x, n.id): // the object may take for a voter who is none yet
			return false
		case x == n || !votes:
		case !x.whole() && !x.serves():
			return false
		default:
			others++
			copies += x.copies()
		}
	}
	return others > 1 && copies > 0 && voters != 2 // two can spare nobody
}

// outvoted tells whether those who are left without a node's disk could decide nothing, among the voters that another node knows, or among those
// that they replace.
func (s *sim) outvoted(x *simNode, id uint64) bool {
	l := x.life
	if l == nil || !l.opened.Load() || l.alone {
		return false
	}
	l.group.mu.Lock()
	members := l.group.peers.core.Members()
	l.group.mu.Unlock()
	for _, voters := range [][]uint64{members.Voters, members.VotersOutgoing} {
		left := 0
		for _, v := range voters {
			if v != id && !s.node(v).gone {
				left++
			}
		}
		if slices.Contains(voters, id) && left < len(voters)/2+1 {
			return true
		}
	}
	return false
}

// mourns tells that a node knows a voter that is lost already, whatever the object says of it.
func (n *simNode) mourns() bool {
	l := n.life
	if l == nil || !l.opened.Load() || l.alone {
		return false
	}
	of := l.group.Status().Group
	return of != nil && slices.ContainsFunc(of.Voters, func(id uint64) bool { return n.s.node(id).gone })
}

// mayVote tells whether a member may be a voter: a learner that was filled once may be one before the object hears of it.
func (n *simNode) mayVote(m Member) bool { return m.Role != Learner || m.Filled || n.filled }

// copies is 1 if a node has a copy, and 0 if it is a witness.
func (n *simNode) copies() int {
	if n.witness {
		return 0
	}
	return 1
}

// alone tells whether a node knows of a change after which another one is the only voter: the object may not have heard of it yet.
func (n *simNode) alone(id uint64) bool {
	l := n.life
	if l == nil || !l.opened.Load() || l.alone {
		return false
	}
	of := l.group.Status().Group
	return of != nil && len(of.Voters) == 1 && of.Voters[0] == id
}

// lostInTheMiddle loses a node with its disk while members change: a learner that was never filled; or another, if it can be spared.
func (s *sim) lostInTheMiddle(n *simNode) {
	s.mu.Lock()
	o := &s.object
	i := slices.IndexFunc(o.members, func(m Member) bool { return m.ID == n.id })
	if i < 0 || n.gone || !s.ready || o.pending || o.survivor != 0 || o.losses >= s.plan.losses() || s.settled() {
		s.mu.Unlock()
		return
	}
	named, copies := slices.Clone(o.members), o.copies
	s.mu.Unlock()
	role := named[i].Role
	if n.mayVote(named[i]) && (!s.spare(n, named) || copies < 3 && role != Leaving) {
		return
	}
	s.mu.Lock()
	if o.losses++; role == Learner {
		o.members = slices.Delete(o.members, i, i+1)
	} else {
		o.members[i].Role = Leaving
	}
	s.mu.Unlock()
	s.fault("node lost in a change", "node %d, a %s, with its disk", n.id, role)
	s.lose(n)
}

// damageMetadata has a bit turn over in each block of a replica's metadata, while it does not run.
func (s *sim) damageMetadata(n *simNode) {
	s.mu.Lock()
	named := slices.Clone(s.object.members)
	may := s.settled() && s.object.copies > 2 // while members change, it may be the only one with what is committed
	s.mu.Unlock()
	if !may || !n.whole() || n.life.alone || !s.spare(n, named) || !n.life.group.othersVote(n.life.group.cfg.Replica.GroupState().Members) {
		return // who has never heard of others is given up: package sidecar
	}
	s.fault("metadata damaged", "node %d", n.id)
	s.crashNow(n.life, simCut(s.rng))
	s.restart(n)
	dir := fmt.Sprintf("disk-0/replicas/%s/meta", n.part.replica)
	names, err := n.fs.List(dir)
	if err != nil {
		s.violate("node %d: list its metadata: %v", n.id, err)
	}
	slices.Sort(names)
	for _, name := range names {
		for off := int64(0); n.fs.Flip(dir+"/"+name, off, 4) == nil; off += 512 {
			n.damaged.Store(true)
		}
	}
}

// fewEnough adds empty nodes where the object names too few, and has the process end that serves a replica alone which is to have others.
func (s *sim) fewEnough() {
	s.mu.Lock()
	o := &s.object
	var join []Member
	stay, needs := 0, s.plan.witness
	for _, m := range o.members {
		if m.Role != Leaving {
			stay++
			needs = needs && !m.Witness
		}
	}
	for ; stay < o.copies && o.survivor == 0 && !o.pending; stay++ {
		m := Member{ID: uint64(len(s.nodes)+len(join)) + 1, Role: Learner, Witness: needs}
		o.members, join, needs = append(o.members, m), append(join, m), false
	}
	several, survivor := o.several, o.survivor
	s.mu.Unlock()
	if n := s.node(survivor); n != nil && n.life != nil && n.life.opened.Load() && n.life.group.WentAlone() {
		s.note("node %d went alone", n.id)
		s.mu.Lock()
		o.survivor = 0
		s.mu.Unlock()
	}
	for _, m := range join {
		s.note("node %d comes", m.ID)
		s.join(m.ID, m.Witness)
	}
	for _, n := range s.nodes {
		if l := n.life; several && l != nil && l.alone && l.opened.Load() && !l.closing.Load() && n.thaws() <= 0 && s.chance(0.2) {
			s.note("node %d: the replica is to be one of several", n.id)
			if s.chance(0.5) {
				s.stop(l)
			} else {
				s.faultAt("crash", n, l)
			}
		}
	}
}

// unsettled is why the members are not yet what they are to be, at the end.
func (s *sim) unsettled() string {
	for _, m := range s.members() {
		if m.Role != Voter {
			return fmt.Sprintf("replica %d is a %s", m.ID, m.Role)
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	o := &s.object
	switch {
	case o.pending || o.survivor != 0:
		return "the loss of a majority is not over"
	case len(o.members) != o.copies:
		return "the number of copies is another one"
	}
	for _, n := range s.nodes {
		if n.life != nil && n.life.alone && o.several {
			return "a replica is alone"
		}
	}
	return ""
}
