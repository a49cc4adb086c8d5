package session

import (
	"runtime"
	"sync"
	"sync/atomic"
	"time"
)

// maxWorkers bounds the requests that are served at once.
const maxWorkers = 8

// stuckAfter is how long all workers may be busy, and none finish, before there is one more.
const stuckAfter = 500 * time.Microsecond

// crew is how many workers read requests. The kernel wakes the one that has waited longest: with more of them than are needed, each request
// finds a thread that sleeps, with cold caches, instead of one that has just finished (8 instead of 2 or 4 workers: half as much again of
// processor time for 4 jobs of write and fsync). So there are as many as processors, and more only while requests wait for a disk; those
// that are not needed any more rest.
type crew struct {
	base    int32        // that always read
	waiting atomic.Int32 // that wait for a request
	active  atomic.Int32 // that do not rest; changes under mu
	served  atomic.Uint64

	mu      sync.Mutex
	size    int // all of them
	resting []*worker

	watching atomic.Bool // timer is set
	seen     atomic.Uint64
	timer    *time.Timer
}

func baseWorkers() int32 { return int32(min(max(runtime.GOMAXPROCS(0), 2), maxWorkers)) }

// took is called by a worker that has read a request.
func (s *Session) took(opcode uint32) {
	c := &s.crew
	if c.waiting.Add(-1) > 0 {
		return
	}
	if c.active.Load() < c.base || waits(opcode) {
		s.grow()
		return
	}
	s.watch()
}

// waits tells which requests often wait for a disk.
func waits(opcode uint32) bool {
	switch opcode {
	case opRead, opFsync, opFsyncdir:
		return true
	}
	return false
}

// grow has one more worker wait for requests, if none does and there may be one. It answers whether there may be more still.
func (s *Session) grow() bool {
	c := &s.crew
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.waiting.Load() > 0 {
		return true
	}
	if n := len(c.resting); n > 0 {
		w := c.resting[n-1]
		c.resting = c.resting[:n-1]
		c.active.Add(1)
		c.waiting.Add(1)
		w.wake <- struct{}{}
		return true
	}
	if c.size == maxWorkers {
		return false
	}
	w, _, err := s.newWorker()
	if err != nil {
		s.cfg.Logger.Error("fuse worker", "volume", s.cfg.Volume, "err", err)
		return false
	}
	s.join(w)
	return true
}

// join adds a worker. crew.mu is held, or there are no others yet.
func (s *Session) join(w *worker) {
	s.crew.size++
	s.crew.active.Add(1)
	s.crew.waiting.Add(1)
	go w.loop()
}

// goOn is called by a worker that has served a request. It returns when the worker shall read the next one: soon, or, where others wait
// already, when it is needed again; false when the session has ended.
func (s *Session) goOn(w *worker) bool {
	c := &s.crew
	c.served.Add(1)
	if c.active.Load() <= c.base {
		c.waiting.Add(1)
		return true
	}
	c.mu.Lock()
	if c.active.Load() <= c.base || c.waiting.Load() == 0 {
		c.waiting.Add(1)
		c.mu.Unlock()
		return true
	}
	c.active.Add(-1)
	c.resting = append(c.resting, w)
	c.mu.Unlock()
	select {
	case <-w.wake: // and is counted by whoever woke it
		return true
	case <-s.done:
		return false
	}
}

// watch looks, a little later, whether all workers are stuck: in a change that waits for the log, or for space.
func (s *Session) watch() {
	c := &s.crew
	if c.watching.Swap(true) {
		return
	}
	c.seen.Store(c.served.Load())
	c.timer.Reset(stuckAfter)
}

func (s *Session) look() {
	c := &s.crew
	c.watching.Store(false) // before the look at waiting: who comes later watches again
	select {
	case <-s.done:
		return
	default:
	}
	if c.waiting.Load() > 0 {
		return
	}
	if c.served.Load() == c.seen.Load() && !s.grow() {
		return // they are all there; the next one that takes a request watches again
	}
	if c.waiting.Load() == 0 {
		s.watch()
	}
}
