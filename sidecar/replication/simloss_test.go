package replication

import (
	"cmp"
	"slices"
	"time"

	pb "go.etcd.io/raft/v3/raftpb"

	"github.com/remora-storage/remora/cachefs/record"
	"github.com/remora-storage/remora/disk/faultfs"
	"github.com/remora-storage/remora/sidecar/replication/consensus"
)

// The loss of a majority, and somebody who accepts it: `remora dev accept-loss --accept-data-loss`. The volume goes on with what one replica
// has. From there on its history is another one, of which the old one is a prefix up to the first index that the survivor lacked.

// loseMajority loses so many voters with their disks that the others can decide nothing. n stays.
func (s *sim) loseMajority(n *simNode) {
	s.mu.Lock()
	named := slices.Clone(s.object.members)
	may := s.ready && s.object.several && !s.object.pending && s.object.survivor == 0 && s.object.losses < s.plan.losses()
	s.mu.Unlock()
	var voters []uint64
	for _, m := range named {
		if m.Role != Learner {
			voters = append(voters, m.ID)
		}
	}
	if !may || len(voters) < 3 || s.copies() < 3 || !slices.Contains(voters, n.id) || !n.whole() {
		return
	}
	stay := 1 + s.rng.IntN(len(voters)/2) // less than a majority; n is one of them
	stays := []uint64{n.id}
	for _, id := range voters {
		if len(stays) < stay && id != n.id && s.node(id).whole() {
			stays = append(stays, id)
		}
	}
	s.mu.Lock()
	s.object.losses++
	s.object.pending = true
	s.mu.Unlock()
	s.fault("majority lost", "%v stay of %v", stays, voters)
	for _, id := range voters {
		if x := s.node(id); !slices.Contains(stays, id) && !x.gone {
			x.away = false
			s.lose(x)
		}
	}
	s.after(s.between(100*time.Millisecond, 1500*time.Millisecond), s.acceptLoss)
}

// acceptLoss has the volume go on with one replica of those that are left: the one with the longest log.
func (s *sim) acceptLoss() {
	var best *simNode
	for _, m := range s.members() {
		n := s.node(m.ID)
		if m.Role == Learner || n.gone {
			continue
		}
		l := n.life
		if n.away || l == nil || !l.opened.Load() || l.closing.Load() || l.applying.Load() || n.thaws() > 0 { // all of them must answer
			s.after(100*time.Millisecond, s.acceptLoss)
			return
		}
		if at := l.group.Status(); best == nil || at.Hollow == best.life.group.Status().Hollow && longer(at, best.life.group.Status()) || !at.Hollow && best.life.group.Status().Hollow {
			best = n
		}
	}
	if !best.whole() { // what it lacks is nowhere any more
		s.worked("volumes of which nobody had all", 1)
		s.ended = true
		return
	}
	s.note("the loss is accepted: node %d goes on", best.id)
	s.mu.Lock()
	s.object.members = []Member{{ID: best.id, Role: Voter, Filled: true}}
	s.object.survivor, s.object.index, s.object.pending = best.id, 0, false
	clear(s.oracle.leaders)
	s.oracle.loss = &simLoss{node: best.id, above: best.part.committed, end: s.oracle.next}
	s.mu.Unlock()
	for _, n := range s.nodes {
		if n != best {
			n.away, n.forgotten = false, true
			if !n.gone {
				s.lose(n)
			}
		}
	}
	cut := faultfs.Killed
	if s.chance(0.3) {
		cut = simCut(s.rng)
	}
	s.crashNow(best.life, cut)
	s.restart(best)
}

// longer tells whether a log is longer than another one, as Raft sees it.
func longer(a, b Status) bool {
	return cmp.Or(cmp.Compare(a.Group.LastTerm, b.Group.LastTerm), cmp.Compare(a.Group.Last, b.Group.Last)) > 0
}

// simLoss is the loss of a majority that was accepted.
type simLoss struct {
	node  uint64
	above record.Index              // what this node knew to be committed stays
	end   record.Index              // the first index that the group had not committed
	log   map[record.Index]simEntry // what this node has, committed or not: it stays
	over  bool
}

// forced notes what the log of the survivor has when it starts: all of that stays. s.mu is held.
func (o *simOracle) forced(l *simLife) {
	if o.loss == nil || o.loss.over || o.loss.node != l.n.id {
		return
	}
	o.loss.log = map[record.Index]simEntry{}
	for _, e := range l.group.peers.core.Entries() {
		at := simEntry{term: e.Term}
		if e.Type == pb.EntryNormal && len(e.Data) > 0 {
			_, name, err := consensus.DecodeName(e.Data)
			if err != nil {
				o.s.violateLocked("node %d: %v", l.n.id, err)
			}
			at.name = name
		}
		o.loss.log[record.Index(e.Index)] = at
	}
}

// parts tells whether an index may be another entry's than it was: the loss of what was there is accepted. Then the history begins anew there.
func (o *simOracle) parts(index record.Index, node uint64) bool {
	if o.loss == nil || o.loss.over || node != o.loss.node || index <= o.loss.above {
		return false
	}
	o.loss.over = true
	o.s.work["histories that ended with a majority"]++
	o.s.work["committed entries lost with a majority"] += int(o.next - index)
	for i := index; i < o.next; i++ {
		delete(o.log, i)
	}
	o.next = 1
	o.at, o.opened = make([]record.Acceptance, 1), map[uint64]simEpoch{}
	clear(o.keys)
	clear(o.blocks)
	o.stepAll()
	for epoch, seq := range o.acked {
		if have := o.opened[epoch].last; seq > have {
			o.s.work["acknowledged records lost with a majority"] += int(seq - have)
			o.acked[epoch] = have
		}
	}
	return true
}

// keeps checks what the survivor of a loss commits.
func (o *simOracle) keeps(index record.Index, e simEntry) {
	if o.loss == nil || e.node != o.loss.node {
		return
	}
	if had, ok := o.loss.log[index]; ok && (had.term != e.term || had.name != e.name) {
		o.s.violateLocked("node %d commits %v of term %d at index %d, where its log had %v of term %d when it went on alone", e.node, e.name, e.term, index, had.name, had.term)
	}
	o.loss.over = o.loss.over || index >= o.loss.end
}
