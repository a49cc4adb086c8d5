package replicationtest

import (
	"runtime"
	"strings"
	"sync"

	"github.com/remora-storage/remora/disk/faultfs"
)

// hold keeps the applier of a machine from its work, as a slow disk does: while it is on, its writes to the arena wait. What is
// committed meanwhile stays in the apply queue, and a checkpoint that the applier makes next finds it there. Nothing that answers
// an operation waits for the applier, as long as little is in hand. The zero value is off.
type hold struct {
	mu   sync.Mutex
	over chan struct{} // closed when the hold is over; nil: there is none
	left int           // steps
}

// step decides before a step of the history, by chance, whether the applier is held for some steps from here on.
func (d *hold) step(intn func(int) int) {
	switch {
	case d.left > 0:
		if d.left--; d.left == 0 {
			d.end()
		}
	case intn(8) == 0:
		d.left = 1 + intn(40)
		d.mu.Lock()
		d.over = make(chan struct{})
		d.mu.Unlock()
	}
}

// end lets the applier go.
func (d *hold) end() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.over != nil {
		close(d.over)
	}
	d.over, d.left = nil, 0
}

// wait is called before each call of the disk.
func (d *hold) wait(op *faultfs.Op) {
	if op.Kind != faultfs.Write || op.Base() != "arena" {
		return
	}
	d.mu.Lock()
	over := d.over
	d.mu.Unlock()
	if over != nil && applying() {
		<-over
	}
}

// applying tells whether the applier is calling: what is placed is written to the arena, too, before an operation is answered.
func applying() bool {
	pcs := make([]uintptr, 64)
	frames := runtime.CallersFrames(pcs[:runtime.Callers(2, pcs)])
	for {
		f, more := frames.Next()
		if strings.HasSuffix(f.Function, "replication.(*Group).apply") {
			return true
		}
		if !more {
			return false
		}
	}
}
