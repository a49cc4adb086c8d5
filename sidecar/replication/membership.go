package replication

import (
	"cmp"
	"slices"

	pb "go.etcd.io/raft/v3/raftpb"

	"github.com/remora-storage/remora/sidecar/replication/consensus"
)

// Roles of a Member.
const (
	Voter   = "voter"
	Learner = "learner"
	Leaving = "leaving"
)

// Member is a replica that the Volume object names.
type Member struct {
	ID      uint64
	Role    string // Voter, Learner or Leaving
	Filled  bool   // a learner that has everything, verified
	Witness bool   // it keeps records and no state
}

// reviewTicks are between two looks at what the Volume object wants.
const reviewTicks = 10

// review proposes the next change of members that brings the group nearer to what the Volume object names, where this replica leads. One
// change at a time; the next waits until it is applied. g.mu is held.
func (g *Group) review() {
	p := g.peers
	if p.cfg.Members == nil || !p.core.Leads() || g.witness() {
		return
	}
	s := p.core.Status()
	if s.Joint {
		g.endJoint(&s)
		return
	}
	if s.Commit < s.Last && p.changing == s.Last {
		return
	}
	want := p.cfg.Members()
	if untold(want, s.Voters, s.Learners) {
		g.announce()
		return
	}
	changes := nextChange(g.covered(want, &s), s.Voters, s.Learners, p.copies(), uint64(g.applied), func(id uint64) uint64 {
		if s.Peers[id].Lagging { // a copy of the state takes the place of what it has
			return 0
		}
		return s.Peers[id].Match
	})
	if len(changes) == 0 && !g.lacks() { // whoever is away may be the only one with a state
		changes = g.givenUp(want, &s)
	}
	stays := func(id uint64) bool {
		return !slices.ContainsFunc(changes, func(c pb.ConfChangeSingle) bool {
			return c.NodeID == id && c.Type == pb.ConfChangeRemoveNode
		})
	}
	switch {
	case !stays(s.ID) && p.serving > 0: // who is caught up by it may be the only one that stays
		return
	case !stays(s.ID) && g.giveLead(stays): // who goes does not lead: nobody would for a while
		return
	case len(changes) == 0:
		g.followOwner(&s)
		return
	case thins(changes, s.Voters, p.isWitness) && (!stays(s.ID) || g.lacks()):
		return // who stays may lack content that only those have who go: it is filled first
	}
	if err := p.core.Change(changes); err != nil {
		g.cfg.Logger.Warn("a change of members was not taken; it is tried again", "err", err)
		return
	}
	p.changing = s.Last + 1
	g.process()
}

// thins tells whether voters with content go for whom nobody comes who has content, too.
func thins(changes []pb.ConfChangeSingle, voters []uint64, witness func(uint64) bool) bool {
	goes := func(c pb.ConfChangeSingle) bool {
		return c.Type == pb.ConfChangeRemoveNode && slices.Contains(voters, c.NodeID) && !witness(c.NodeID)
	}
	comes := func(c pb.ConfChangeSingle) bool { return c.Type == pb.ConfChangeAddNode && !witness(c.NodeID) }
	return slices.ContainsFunc(changes, goes) && !slices.ContainsFunc(changes, comes)
}

// WentAlone tells that this replica, whose group has lost the majority of its disks, is the group for good: it leads it, and what it had of
// the old one's changes of members is behind its checkpoint, from which it starts again. Until then it must be opened with
// PeersConfig.Force.
func (g *Group) WentAlone() bool {
	if g.peers == nil || !g.peers.cfg.Force {
		return false
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	p := g.peers
	voters := p.core.Members().Voters
	if g.failed != nil || !p.core.Leads() || len(voters) != 1 || uint64(g.applied) < p.forcedTo {
		return false
	}
	if uint64(g.saved) < p.forcedTo && !g.pressed {
		g.pressed = true // a checkpoint
		g.work.Signal()
	}
	return uint64(g.saved) >= p.forcedTo
}

// giveLead hands leadership to the voter of some that has most, and tells whether there is one. Raft forgets every ten ticks who has answered,
// so one that has all of the log may be asked although it seems to be silent. g.mu is held.
func (g *Group) giveLead(may func(id uint64) bool) bool {
	s, to := g.peers.core.Status(), uint64(0)
	for _, id := range slices.Concat(s.Voters, s.Outgoing) {
		peer, best := s.Peers[id], s.Peers[to]
		if id == s.ID || !may(id) || g.peers.isWitness(id) || peer.Lagging || !peer.Active && peer.Match < s.Last {
			continue
		}
		if to == 0 || peer.Active && !best.Active || peer.Active == best.Active && peer.Match > best.Match {
			to = id
		}
	}
	if to == 0 {
		return false
	}
	g.peers.core.Transfer(to)
	g.process()
	return true
}

// followTicks are between two attempts to have the owner lead.
const followTicks = 100

// followOwner hands leadership to the owner, if it is a voter elsewhere: every write of its would go to this replica first. Who proposes is
// there. g.mu is held.
func (g *Group) followOwner(s *consensus.Status) {
	p := g.peers
	owner := p.core.Proposer()
	if peer := s.Peers[owner]; owner == 0 || owner == s.ID || !slices.Contains(s.Voters, owner) || peer.Lagging || peer.Match+near < s.Last {
		return
	}
	if p.followed == 0 || p.ticks-p.followed >= followTicks {
		p.followed = p.ticks
		p.core.Transfer(owner)
		g.process()
	}
}

// untold tells whether the Volume object has not heard yet of a change that is done.
func untold(want []Member, voters, learners []uint64) bool {
	return slices.ContainsFunc(want, func(m Member) bool {
		votes := slices.Contains(voters, m.ID)
		leaves := m.Role == Leaving && slices.Contains(learners, m.ID) // a witness that had given up its vote when it was told to leave
		return m.Role == Learner && votes || m.Role != Learner && !votes && !leaves
	})
}

func (p *peers) copies() int {
	if p.cfg.Copies == nil {
		return len(p.core.Members().Voters)
	}
	return p.cfg.Copies()
}

// near is how many entries a learner may lack when it becomes a voter.
const near = 256

// nextChange decides what to change, in this order: learners that the object does not name, or that are leaving, go; learners that it names come; a learner that
// is filled becomes a voter, in the place of one that is leaving where there are enough voters; those that are leaving go without a substitute where
// there are too many. A voter that the object does not name is leaving: it was given up before the object heard that it had become one.
func nextChange(want []Member, voters, learners []uint64, copies int, applied uint64, match func(uint64) uint64) []pb.ConfChangeSingle {
	find := func(id uint64) *Member {
		if i := slices.IndexFunc(want, func(m Member) bool { return m.ID == id }); i >= 0 {
			return &want[i]
		}
		return nil
	}
	if len(want) == 0 {
		return nil // the object could not be read
	}
	for _, id := range learners {
		if m := find(id); m == nil || m.Role == Leaving {
			return []pb.ConfChangeSingle{single(pb.ConfChangeRemoveNode, id)}
		}
	}
	var leaving []uint64 // those that have least first
	for _, id := range voters {
		if m := find(id); m == nil || m.Role == Leaving {
			leaving = append(leaving, id)
		}
	}
	slices.SortStableFunc(leaving, func(a, b uint64) int { return cmp.Compare(match(a), match(b)) })
	var ready []uint64
	for _, m := range want {
		known := slices.Contains(voters, m.ID) || slices.Contains(learners, m.ID)
		switch {
		case m.Role == Learner && !known:
			return []pb.ConfChangeSingle{single(pb.ConfChangeAddLearnerNode, m.ID)}
		case m.Role == Learner && m.Filled && slices.Contains(learners, m.ID) && match(m.ID)+near >= applied:
			ready = append(ready, m.ID)
		}
	}
	witness := func(id uint64) bool { m := find(id); return m != nil && m.Witness }
	was := func(id uint64) bool { // one that the object does not name was the witness, if there is to be one and no other voter is
		return witness(id) || find(id) == nil && !slices.ContainsFunc(voters, witness) && slices.ContainsFunc(want, func(m Member) bool { return m.Witness })
	}
	many := len(voters) - max(copies, 1)
	if many < 0 {
		if slices.ContainsFunc(voters, witness) { // one is enough
			ready = slices.DeleteFunc(ready, witness)
		}
		return added(ready, len(voters), copies)
	}
	// Where a volume of one copy got two new ones before its witness was back, the old copy's place is the witness'.
	full := !slices.ContainsFunc(voters, was) && len(voters)-len(leaving) >= copies-1
	for _, in := range ready {
		for _, out := range leaving {
			if witness(in) == was(out) || witness(in) && full { // so there is never a majority without content
				return []pb.ConfChangeSingle{single(pb.ConfChangeAddNode, in), single(pb.ConfChangeRemoveNode, out)}
			}
		}
	}
	return removed(leaving, many)
}

// added has learners become voters where there are too few: so many at once that the number is odd, because an even one survives no more
// losses, and more of them can happen.
func added(ready []uint64, voters, copies int) (changes []pb.ConfChangeSingle) {
	n := min(len(ready), copies-voters)
	if (voters+n)%2 == 0 {
		n--
	}
	for _, id := range ready[:max(n, 0)] {
		changes = append(changes, single(pb.ConfChangeAddNode, id))
	}
	return changes
}

// removed has as many of those that leave go as there are too many, all in one joint change: between two changes of one each, a smaller group
// might wait for one that is away.
func removed(leaving []uint64, many int) (changes []pb.ConfChangeSingle) {
	for _, id := range leaving[:max(0, min(many, len(leaving)))] {
		changes = append(changes, single(pb.ConfChangeRemoveNode, id))
	}
	return changes
}

func single(t pb.ConfChangeType, id uint64) pb.ConfChangeSingle {
	return pb.ConfChangeSingle{Type: t, NodeID: id}
}

// confirmation is the entry that tells the members of their newest change.
type confirmation struct{ term, changed, index uint64 }

// known tells whether a majority of the members knows durably who they are. Who is told that a change is done ends those that are no members
// any more; if the leader is lost then, too, and the others know of no more than the beginning of the change, they wait for votes of those for
// ever. Until it is known, the leader puts an entry into the log that makes it so; process looks when that is committed. g.mu is held.
func (g *Group) known(s *consensus.Status) bool {
	p := g.peers
	if s.Changed == 0 { // the founders
		return true
	}
	if c := &p.confirming; c.term == s.Term && c.changed == s.Changed {
		return p.confirmed()
	}
	index, err := p.core.Confirm()
	if err != nil {
		return false // review comes again
	}
	p.confirming = confirmation{s.Term, s.Changed, index}
	g.process()
	return false // or process has said it by now
}

// confirmed tells that the entry is committed.
func (p *peers) confirmed() bool {
	index, _ := p.core.Delivered()
	return index >= p.confirming.index
}

// announce tells who wants to know that members or leader have changed. g.mu is held.
func (g *Group) announce() {
	p := g.peers
	if p.cfg.Changed == nil {
		return
	}
	s := p.core.Status()
	if s.Joint || s.Leads && !g.known(&s) {
		return
	}
	index, _ := p.core.Delivered()
	changed := p.cfg.Changed
	go changed(index, slices.Clone(s.Voters), slices.Clone(s.Learners), s.Leads)
}
