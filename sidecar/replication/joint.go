package replication

import (
	"slices"

	"github.com/remora-storage/remora/sidecar/replication/consensus"
	"github.com/remora-storage/remora/sidecar/replication/diskdir"
)

// While voters change, the old and the new ones decide together (Raft's joint consensus). What the old ones had committed before may be where the
// new majority is not: in those who go, and in others by a copy of the metadata only, which does not bring content (docs/decisions/0015). So the
// leader lets the old ones go when a majority of the new ones has all of it.

// jointTicks are between two looks at a change of members that is under way.
const jointTicks = 2

// jointSlow is how many ticks a change may take before the log says what it waits for.
const jointSlow = 200

// joint is a change of voters that this replica leads.
type joint struct {
	term, changed uint64
	last          uint64 // end of the log when it was seen: what was committed by the old members alone is not behind it
	tick          int    // when it was seen
	asked         uint64 // index of the entry that is to end it; 0: none
	slow          bool   // the log has said so
}

// endJoint ends a change of voters when the new ones have everything that the old ones have committed. g.mu is held.
func (g *Group) endJoint(s *consensus.Status) {
	p := g.peers
	if j := &p.joint; j.term != s.Term || j.changed != s.Changed {
		*j = joint{term: s.Term, changed: s.Changed, last: s.Last, tick: p.ticks}
	}
	if delivered, _ := p.core.Delivered(); p.joint.asked > delivered || p.core.Members().AutoLeave { // under way: or by an older version, by itself
		return
	}
	var without []string
	for _, id := range s.Voters {
		if !g.hasAll(s, id) {
			without = append(without, diskdir.ID(id).String())
		}
	}
	if len(without) > (len(s.Voters)-1)/2 {
		if p.ticks-p.joint.tick > jointSlow && !p.joint.slow {
			p.joint.slow = true
			g.cfg.Logger.Warn("those who leave the group stay until a majority of the others has everything", "without", without, "voters", len(s.Voters))
		}
		return
	}
	if !slices.Contains(s.Voters, s.ID) { // who goes does not lead
		g.giveLead(func(id uint64) bool { return slices.Contains(s.Voters, id) && g.hasAll(s, id) })
		return
	}
	index, err := p.core.Leave()
	if err != nil {
		g.cfg.Logger.Warn("a change of members was not ended; it is tried again", "err", err)
		return
	}
	p.joint.asked = index
	g.process()
}

// hasAll tells whether a voter has, durably, all content up to where the old voters may have committed without the new ones. What it said before
// it was given a copy of the state does not count. A witness has it for those who are behind, if its log begins where they are; whoever is to
// leave, too, needs nothing. g.mu is held.
func (g *Group) hasAll(s *consensus.Status, id uint64) bool {
	p := g.peers
	peer, r := s.Peers[id], p.reports[id]
	switch {
	case peer.Lagging || peer.Match < p.joint.last:
		return false
	case id == s.ID:
		return !g.lacks()
	case r.tick < p.joint.tick:
		return false
	case p.isWitness(id):
		return r.witness && !slices.ContainsFunc(p.cfg.Members(), func(m Member) bool {
			return !m.Witness && m.Role != Leaving && slices.Contains(s.Voters, m.ID) && s.Peers[m.ID].Match < r.index
		})
	}
	return r.complete && r.applied >= p.gave
}

// report is what this replica, with content, says of itself. g.mu is held.
func (g *Group) report() report {
	return report{index: uint64(g.saved), complete: !g.lacks(), applied: uint64(g.applied)}
}

// tellLeader tells who leads a change of members whether this replica has everything. g.mu is held.
func (g *Group) tellLeader() {
	p := g.peers
	leader, _ := p.core.Leader()
	if p.core.Joint() && !g.witness() && leader != 0 && !p.core.Leads() {
		p.sendTo(leader, FrameReport, g.report().encode())
	}
}
