package replication

import (
	"time"
)

// A group of several has a clock of ticks, PeersConfig.Tick apart: elections, reviews and bounds count them, so that a simulation can be the clock.

// askTicks after nobody has fetched the state, those who were told to are told again.
const askTicks = 100

// tick advances the group's clock.
func (g *Group) tick() {
	if g.peers.room.looks++; g.peers.room.looks%lookTicks == 1 {
		g.lookForRoom()
	}
	g.mu.Lock()
	defer g.unlock()
	if g.failed != nil {
		return
	}
	g.peers.core.Tick()
	g.process()
	g.peers.room.at[g.peers.ticks%roomTicks] = g.peers.room.taken
	g.peers.ticks++
	if g.peers.ticks%reviewTicks == 0 || g.peers.ticks%jointTicks == 0 && g.peers.core.Joint() {
		g.review()
		g.tellLeader()
	}
	if g.peers.ticks%reviewTicks == 0 {
		if g.store != nil && g.store.Stopped() { // the apply loop finds out why
			g.pressed = true
			g.work.Signal()
		}
	}
	if g.peers.ticks%sweepTicks == 0 {
		g.sweep()
	}
	g.witnessTick()
	if p := g.peers; p.serving == 0 && p.ticks-p.served >= askTicks {
		p.served = p.ticks
		p.core.AskAgain()
		g.process()
	}
	if len(g.peers.pending) > 0 {
		g.disk.poke(true)
	}
}

// Gone says that the process that served a peer has ended, or that its connection was closed.
func (g *Group) Gone(peer uint64) {
	if g.peers == nil {
		return
	}
	g.mu.Lock()
	defer g.unlock()
	if g.failed != nil || g.closing {
		return
	}
	g.peers.core.Gone(peer)
	g.process()
}

// run ticks, and catches up with a leader whose log does not reach back to ours.
func (g *Group) run() {
	p := g.peers
	every := p.cfg.Tick
	if every == 0 {
		every = 50 * time.Millisecond
	}
	ticker := time.NewTicker(every)
	defer ticker.Stop()
	for {
		select {
		case <-p.ctx.Done():
			return
		case <-ticker.C:
			g.tick()
		}
	}
}

// lateness is for how long appends to the follower that the majority does not need are gathered (consensus: hold.go).
const lateness = time.Millisecond

// awaitLate has late called if there is a reason. g.mu is held.
func (g *Group) awaitLate() {
	p := g.peers
	if p.lateSoon || !p.core.HasLate() {
		return
	}
	p.lateSoon = true
	if p.cfg.After != nil {
		p.cfg.After(lateness, g.late)
	} else {
		time.AfterFunc(lateness, g.late)
	}
}

// late sends the appends that were gathered.
func (g *Group) late() {
	g.mu.Lock()
	defer g.unlock()
	if g.peers.lateSoon = false; g.failed != nil || g.closing {
		return
	}
	g.peers.core.Late()
	g.process()
}
