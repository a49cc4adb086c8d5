// Package heap decides how often a sidecar's garbage collector runs. A sidecar lives in somebody else's pod and keeps little: a collector
// that runs whenever that has grown by half (Rest) finds only a few MiB, and yet must look at every goroutine, every global and every span.
// Under load this came to half of a replica's processor time. So a process that is busy may allocate Room before the next collection, and
// one that is not gives all of it back.
//
// It promises: at rest the collector is as Go's SetGCPercent(Rest) has it, and free memory is the kernel's again; under load the heap grows
// to Room beyond what lives, or half as much again as that, whichever is more. It does not bound memory: what lives does.
package heap

import (
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"sync"
	"time"
)

const (
	// Rest is the percentage that the heap grows by between two collections of a process that is not busy.
	Rest = 50
	// Room is what a busy process may allocate between two collections.
	Room = 16 << 20
	// soon after another is a collection of a process that is busy, and often so many one after the other: a start is none.
	soon  = 250 * time.Millisecond
	often = 4
	// idle is a process that has not collected for so long.
	idle = 5 * time.Second
	// least is what Go takes a small heap for: its first collection is at 4 MiB times the percentage.
	least = 4 << 20
)

// keeper follows the collections of this process.
type keeper struct {
	mu      sync.Mutex // guards what follows
	last    time.Time  // collection
	row     int        // of collections, each soon after the one before
	percent int        // as it is set
	rest    *time.Timer
	stopped bool
	before  int // percentage, when it came
}

// cycle is garbage as soon as it is made: the collector says so once in every cycle.
type cycle struct{ k *keeper }

// Keep follows the collections from here on, until stop is called. There is one at a time in a process.
func Keep() (stop func()) {
	k := &keeper{percent: Rest}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.rest = time.AfterFunc(time.Hour, k.idle)
	k.before = debug.SetGCPercent(Rest)
	k.listen()
	return k.stop
}

func (k *keeper) stop() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.stopped = true
	k.rest.Stop()
	debug.SetGCPercent(k.before)
}

// listen has collected called when the next collection is over.
func (k *keeper) listen() {
	runtime.SetFinalizer(&cycle{k}, func(c *cycle) { c.k.collected() })
}

// collected is called after each collection.
func (k *keeper) collected() {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.stopped {
		return
	}
	k.listen()
	now := time.Now()
	if k.row++; now.Sub(k.last) > soon {
		k.row = 0
	}
	k.last = now
	if k.row < often && k.percent == Rest {
		return
	}
	k.rest.Reset(idle)
	// What lives changes a little from one to the next, and to say so stops the process for a moment.
	if want := percent(live()); want < k.percent || want > k.percent+k.percent/4 {
		k.set(want)
	}
}

// idle is called when nothing was collected for a while.
func (k *keeper) idle() {
	k.mu.Lock()
	quiet := !k.stopped && k.percent != Rest
	if quiet {
		k.set(Rest)
		k.row = 0
	}
	k.mu.Unlock()
	if quiet {
		debug.FreeOSMemory()
	}
}

func (k *keeper) set(percent int) {
	k.percent = percent
	debug.SetGCPercent(percent)
}

// percent is how much the heap may grow so that there is room.
func percent(live uint64) int {
	return max(Rest, int(100*Room/max(live, least)))
}

// live is how many bytes the last collection has found in use.
func live() uint64 {
	sample := []metrics.Sample{{Name: "/gc/heap/live:bytes"}}
	metrics.Read(sample)
	if sample[0].Value.Kind() != metrics.KindUint64 {
		return least
	}
	return sample[0].Value.Uint64()
}
