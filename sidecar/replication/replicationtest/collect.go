package replicationtest

import (
	"fmt"
	"math/rand/v2"
	"sync"

	"github.com/remora-storage/remora/disk/faultfs"
)

// image is a disk after a crash, and what must be on it.
type image struct {
	fs     *faultfs.FS
	cut    faultfs.Cut
	at     string
	lo, hi int // states of the history
	synced int // the state that was durable
	nested bool
}

// collector takes images while something runs on a disk.
type collector struct {
	fs     *faultfs.FS
	lie    func(*faultfs.Op) bool
	h      *History // whose states count
	nested bool
	other  int // one of so many calls that are no syncs is a point, too; 0: none
	hold   hold

	mu     sync.Mutex
	rng    *rand.Rand
	most   int
	images []image
}

func (c *collector) hooks() *faultfs.Hooks {
	return &faultfs.Hooks{
		Before: func(op *faultfs.Op) error {
			c.hold.wait(op)
			if isSync(op) {
				c.take(op, "before", faultfs.SomeSectors, faultfs.SomeBlocks, faultfs.LoseAll, faultfs.TornLast, faultfs.KeepAll)
			}
			if c.lie != nil && c.lie(op) {
				return faultfs.ErrPretend
			}
			return nil
		},
		After: func(op *faultfs.Op) {
			switch {
			case isSync(op):
				c.take(op, "after", faultfs.Killed, faultfs.SomeSectors, faultfs.LoseAll)
			case op.Kind == faultfs.Read || op.Kind == faultfs.Open:
			case c.chance():
				c.take(op, "in", faultfs.KilledWriting, faultfs.Killed, faultfs.SomeSectors, faultfs.SomeBlocks, faultfs.TornLast)
			}
		},
	}
}

func isSync(op *faultfs.Op) bool { return op.Kind == faultfs.Sync || op.Kind == faultfs.SyncDir }

func (c *collector) chance() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.other > 0 && c.rng.IntN(c.other) == 0
}

// take takes one image, cut in one of the given ways.
func (c *collector) take(op *faultfs.Op, when string, cuts ...faultfs.Cut) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.images) >= c.most {
		return
	}
	cut := pick(c.rng, cuts)
	// Before the image: what is answered later need not be in it.
	img := image{cut: cut, lo: int(c.h.seen.answered.Load()), synced: int(c.h.seen.durable.Load()), nested: c.nested}
	if cut.Power() {
		img.lo = img.synced
	}
	img.fs = c.fs.Image(c.rng, cut, op)
	img.hi = int(c.h.seen.begun.Load())
	img.at = fmt.Sprintf("%v %s %v %s, call %d, sync %d", cut, when, op.Kind, op.Path, op.Call, op.Sync)
	c.images = append(c.images, img)
}

// see says how far the history is.
func (h *History) see(begun, answered, durable int) {
	h.seen.begun.Store(int64(begun))
	h.seen.answered.Store(int64(answered))
	h.seen.durable.Store(int64(durable))
}
