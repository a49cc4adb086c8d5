package replication

import (
	"fmt"
	mrand "math/rand/v2"
	"slices"
	"time"

	"github.com/remora-storage/remora/cachefs/record"
	"github.com/remora-storage/remora/cachefs/seal"
	"github.com/remora-storage/remora/disk/faultfs"
)

// simPlan is what a seed decides in advance: not every group meets every fault, so that none hides another.
type simPlan struct {
	nodes                       int
	duration, faultEvery        time.Duration
	tick, latency, lag          time.Duration
	applyLag, restart, syncTime time.Duration
	writeEvery, impatience      time.Duration
	fsync                       float64
	loss, repeat, late          float64
	reorder, exchange           bool  // of replicas
	witness                     bool  // the last node has no state
	keepBytes                   int64 // PeersConfig.KeepBytes
	logBytes                    int64 // PeersConfig.LogBytes
	disks                       int   // 1: bits turn over; 2: disks are full, too
	changes                     bool  // of the number of copies, if there is no witness; and the loss of a majority, damage, disks that come back
	beside                      bool  // a group of one shares each node's disk
	kinds                       []string
	key                         []byte
	checkpointBytes, placeBytes int64
}

func (p *simPlan) has(kind string) bool { return slices.Contains(p.kinds, kind) }

var simKinds = []string{"crash", "crash at a call", "kill", "all crash", "isolate", "split", "one way", "slow disk", "fsync error", "freeze", "clock jump",
	"takeover", "orderly stop", "transfer"}

func drawPlan(rng *mrand.Rand) simPlan {
	ms := func(of ...int) time.Duration { return time.Duration(of[rng.IntN(len(of))]) * time.Millisecond }
	some := func(of ...float64) float64 { return of[rng.IntN(len(of))] }
	p := simPlan{nodes: []int{3, 3, 3, 3, 3, 3, 5, 2}[rng.IntN(8)], duration: ms(3000, 4000, 6000), faultEvery: ms(150, 300, 500, 800), tick: ms(10),
		latency: ms(1, 1, 3, 10), lag: ms(1, 1, 10), applyLag: ms(1, 5, 5, 50, 500), restart: ms(10, 100, 500, 1000), syncTime: ms(1, 1, 2, 10),
		writeEvery: ms(10, 20, 50), impatience: ms(1000, 2000), fsync: some(0.05, 0.3, 0.7, 1), loss: some(0, 0, 0.01, 0.1), repeat: some(0, 0, 0.05),
		late: some(0, 0, 0.01, 0.1), reorder: rng.IntN(2) == 0, checkpointBytes: int64(64+rng.IntN(500)) << 10, placeBytes: []int64{-1, 4096, 4096, 8192}[rng.IntN(4)]}
	for _, k := range simKinds {
		if rng.IntN(5) < 2 {
			p.kinds = append(p.kinds, k)
		}
	}
	if rng.IntN(4) > 0 {
		p.key = make([]byte, seal.KeySize)
		_, _ = (&simReader{r: rng}).Read(p.key)
	}
	return p
}

// drawLater decides what came into the simulation later: by the seed itself, so that the rest of a plan stays what it was.
func (p *simPlan) drawLater(seed uint64) {
	p.witness = mix(seed, 8)%3 == 0 && p.nodes == 3
	if p.changes = mix(seed, 8)%2 == 0 && !p.witness; p.changes {
		p.exchange = true
		if mix(seed, 9)%3 == 0 {
			p.nodes = 1
		}
	}
	if p.witness && mix(seed, 14)%2 == 0 {
		p.changes, p.exchange = true, true
	}
	if p.witness && p.exchange && mix(seed, 12)%2 == 0 { // who is away for a while is given up
		p.keepBytes = int64(4+mix(seed, 13)%60) << 10
	}
	p.beside = mix(seed, 10)%4 == 0
	if mix(seed, 11)%10 == 0 {
		p.disks = max(p.disks, 1)
	}
}

// losses is how many changes of members are begun.
func (p *simPlan) losses() int {
	if p.changes {
		return 8
	}
	return 3
}

// faultSoon brings one fault after the other.
func (s *sim) faultSoon() {
	if s.healing {
		return
	}
	s.after(s.between(s.plan.faultEvery/4, s.plan.faultEvery*7/4), s.faultSoon)
	if len(s.plan.kinds) == 0 {
		return
	}
	kind := s.plan.kinds[s.rng.IntN(len(s.plan.kinds))]
	n := s.nodes[s.rng.IntN(len(s.nodes))]
	if o := s.owner; o != nil && s.chance(0.3) {
		n = o.l.n
	}
	if s.plan.exchange && s.chance(0.2) {
		if s.plan.changes {
			s.changeMembers(n)
		} else {
			s.exchange(n)
		}
		return
	}
	l := n.life
	running := l != nil && l.opened.Load() && !l.closing.Load()
	switch kind {
	case "all crash":
		s.crashAll()
	case "isolate", "split", "one way":
		s.partition(kind, n.id)
	case "takeover":
		if s.owner != nil && s.owner.opened.Load() {
			s.fault("takeover", "epoch %d", s.epoch+1)
			s.takeOver()
		}
	case "clock jump":
		s.fault(kind, "node %d", n.id)
		for range 5 + s.rng.IntN(60) {
			s.tick(n)
		}
	default:
		if running {
			s.faultAt(kind, n, l)
		}
	}
}

// faultAt is a fault of a running process.
func (s *sim) faultAt(kind string, n *simNode, l *simLife) {
	switch kind {
	case "crash", "kill":
		cut := simCut(s.rng)
		if kind == "kill" {
			cut = faultfs.Killed
		}
		s.fault(kind+": "+cut.String(), "node %d", n.id)
		s.crashNow(l, cut)
		s.restart(n)
	case "crash at a call":
		l.mu.Lock()
		l.crashAt, l.crashCut, l.after = l.ops+1+s.rng.IntN(40), simCut(s.rng), s.chance(0.5)
		l.mu.Unlock()
	case "slow disk":
		s.fault(kind, "node %d", n.id)
		n.slow.Store(int64(s.between(10*time.Millisecond, 400*time.Millisecond)))
		s.after(s.between(200*time.Millisecond, 2*time.Second), func() { n.slow.Store(0) })
	case "fsync error":
		l.mu.Lock()
		l.failIn = 1 + s.rng.IntN(20)
		l.mu.Unlock()
	case "freeze":
		n.freeze(s.between(50*time.Millisecond, 2*time.Second))
		s.fault(kind, "node %d for %v", n.id, n.thaws())
	case "orderly stop":
		s.stop(l)
	case "transfer":
		to := s.nodes[s.rng.IntN(len(s.nodes))].id
		g := l.group
		g.mu.Lock()
		if g.peers != nil && g.peers.core.Leads() && to != n.id {
			g.peers.core.Transfer(to)
			g.process()
		}
		g.mu.Unlock()
		s.fault(kind, "node %d to %d", n.id, to)
	}
}

// crashAll cuts the power of all, or kills all processes.
func (s *sim) crashAll() {
	cut := simCut(s.rng)
	s.fault("all crash: "+cut.String(), "")
	for _, n := range s.nodes {
		if n.life != nil {
			s.crashNow(n.life, cut)
			s.restart(n)
		}
	}
}

// partition cuts links for a while.
func (s *sim) partition(kind string, id uint64) {
	s.fault(kind, "node %d", id)
	side := map[uint64]bool{id: true}
	if kind == "split" {
		for _, n := range s.nodes {
			side[n.id] = s.chance(0.5)
		}
	}
	in, out := true, true
	if kind == "one way" {
		in = s.chance(0.5)
		out = !in
	}
	var cut []*simLink
	s.mu.Lock()
	for _, a := range s.nodes {
		for _, b := range s.nodes {
			if side[a.id] && !side[b.id] && out || !side[a.id] && side[b.id] && in {
				l := s.link(a.id, b.id)
				l.cut = true
				cut = append(cut, l)
			}
		}
	}
	s.mu.Unlock()
	s.after(s.between(50*time.Millisecond, 2*time.Second), func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		for _, l := range cut {
			l.cut = false
		}
	})
}

// simPatience is how long a group may take to be well when all faults are over.
const simPatience = 2 * time.Minute

// heal ends the faults, and looks that the group comes to agree, with a new owner's work in it.
func (s *sim) heal() {
	s.note("all faults are over")
	s.mu.Lock()
	s.healing = true
	for _, l := range s.links {
		l.cut = false
	}
	s.mu.Unlock()
	for _, n := range s.nodes {
		n.freeze(0)
		n.slow.Store(0)
		s.space(n)
		s.comeBack(n)
		if l := n.life; l != nil {
			l.mu.Lock()
			l.crashAt, l.failIn = 0, 0
			l.mu.Unlock()
		}
	}
	s.plan.restart, s.plan.fsync, s.plan.applyLag = 10*time.Millisecond, 0.3, 5*time.Millisecond
	began, from := time.Now(), s.ackedUpTo()
	var wait func()
	wait = func() {
		why := s.unwell(from)
		switch {
		case why == "":
			s.worked("groups well after", 1)
			s.ended = true
		case time.Since(began) > simPatience:
			s.violate("the group is not well %v after the last fault: %s", simPatience, why)
			s.asideAll()
		default:
			s.after(100*time.Millisecond, wait)
		}
	}
	wait()
}

// ackedUpTo is the newest record that was acknowledged.
func (s *sim) ackedUpTo() record.Name {
	s.mu.Lock()
	defer s.mu.Unlock()
	newest := record.Name{}
	for e, seq := range s.oracle.acked {
		if record.Epoch(e) > newest.Epoch {
			newest = record.Name{Epoch: record.Epoch(e), Seq: seq}
		}
	}
	return newest
}

// unwell is what the group still lacks, at the end.
func (s *sim) unwell(from record.Name) string {
	s.mu.Lock()
	losing := s.object.pending || s.object.survivor != 0 // then what is acknowledged now may go with the majority, and the owner must go on
	s.mu.Unlock()
	if losing {
		return "the loss of a majority is not over"
	}
	now := s.ackedUpTo()
	if now.Epoch == from.Epoch && now.Seq <= from.Seq {
		return "nothing was acknowledged since"
	}
	s.plan.writeEvery = time.Hour // enough
	s.mu.Lock()
	last := s.oracle.next - 1
	s.mu.Unlock()
	if why := s.unsettled(); why != "" {
		return why
	}
	for _, n := range s.nodes {
		l := n.life
		if n.gone {
			continue
		}
		if l == nil || !l.opened.Load() {
			return "a node does not run"
		}
		if l.applying.Load() {
			return "a node applies"
		}
		if l.beside != nil && l.beside.opened.Load() {
			s.verify(l.beside)
		}
		if at := l.group.Status(); at.Applied != last {
			return fmt.Sprintf("node %d has applied %d of %d", n.id, at.Applied, last)
		}
		if n.witness {
			continue
		}
		if l.group.hollow.Load() || !l.group.Store().Complete() {
			return "a replica is not filled"
		}
		if n.rotten {
			return "bad content is not healed"
		}
	}
	for _, n := range s.nodes {
		if !n.gone {
			s.verify(n.life)
		}
	}
	return ""
}
