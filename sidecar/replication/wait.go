package replication

import (
	"errors"
	"runtime"
	"slices"

	"github.com/remora-storage/remora/cachefs/record"
	"github.com/remora-storage/remora/telemetry"
)

// waiter is somebody in Wait of a group of several. Each is woken when its own record is accepted: to wake all of them whenever anything
// changes costs more than a record where there are many.
type waiter struct {
	seq  record.Seq
	wake chan struct{} // has an element when there is something to look at
}

// waitPeers has what was appended sent and synced, and waits until a majority has it.
func (g *Group) waitPeers(seq record.Seq) (telemetry.SpanRef, error) {
	w, _ := g.peers.idle.Get().(*waiter)
	if w == nil {
		w = &waiter{wake: make(chan struct{}, 1)}
	}
	defer g.peers.idle.Put(w) // look has taken it off the list of those who are woken
	w.seq = seq
	select {
	case <-w.wake: // it was meant for who had it before
	default:
	}
	ref, done, err := g.look(w, false)
	if done {
		return ref, err
	}
	if g.company.Load() {
		runtime.Gosched() // those who were woken with this one have their next records soon: one sync and one message serve all of them
	}
	g.disk.commitOrLeave()
	for {
		if ref, done, err := g.look(w, true); done {
			return ref, err
		}
		<-w.wake
	}
}

// look tells whether a waiter has waited for long enough; if not, it will be woken. tried: its record was given to the journal, if that
// had space.
func (g *Group) look(w *waiter, tried bool) (ref telemetry.SpanRef, done bool, err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	done = true
	switch {
	case g.closing && !g.reached(w.seq):
		err = errors.Join(ErrClosed, g.stopped())
	case g.stopped() != nil:
		err = g.stopped()
	case g.reached(w.seq):
	case g.core.acceptance.Epoch > g.owner.Epoch:
		err = ErrFenced // whether it was accepted before, nobody here can tell
	case tried && g.noSpace != nil:
		err = g.noSpace
	default:
		done = false
	}
	g.peers.waiters = slices.DeleteFunc(g.peers.waiters, func(o *waiter) bool { return o == w })
	if !done {
		g.peers.waiters = append(g.peers.waiters, w)
	}
	return g.commit, done, err
}

// wakeReached wakes those whose record is accepted, or never will be. g.mu is held.
func (g *Group) wakeReached() {
	over := g.core.acceptance.Epoch > g.owner.Epoch
	before := len(g.peers.waiters)
	g.peers.waiters = slices.DeleteFunc(g.peers.waiters, func(w *waiter) bool {
		if !over && !g.reached(w.seq) {
			return false
		}
		wake(w.wake)
		return true
	})
	if woken := before - len(g.peers.waiters); woken > 0 {
		g.company.Store(woken > 1)
	}
}

// wakeAll has everybody who waits look again. g.mu is held.
func (g *Group) wakeAll() {
	if g.peers == nil {
		return
	}
	for _, w := range g.peers.waiters {
		wake(w.wake)
	}
}
