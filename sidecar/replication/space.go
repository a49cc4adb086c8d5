package replication

import (
	"errors"
	"sync"
	"syscall"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// space decides whether what makes a volume larger is taken while the disk is nearly full.
//
// What was acknowledged must be applied, and applying needs space: for the blocks, for Pebble's files, for the next segments of the
// journal. So a reserve is kept, into which only deletes, truncates and the like may go: Room refuses the rest. Space comes back with
// the checkpoint, which the apply loop makes early while Room refuses and something is freed. Should others fill the disk all
// the same, the store waits for space, and goes on when there is some.
type space struct {
	mu     sync.Mutex
	budget int64 // bytes that may be taken before the next look at the disk
}

// lookEvery is how many bytes are taken between two looks at the disk, at most.
const lookEvery = 1 << 20

// compaction bounds what Pebble may need beside the metadata that it has.
const compaction = 64 << 20

// room takes n bytes, or tells that the disk has them not.
func (d *Disk) room(n int64) (bool, error) {
	d.space.mu.Lock()
	defer d.space.mu.Unlock()
	if n <= d.space.budget {
		d.space.budget -= n
		return true, nil
	}
	usage, err := d.cfg.FS.GetDiskUsage(d.dir.Path())
	if errors.Is(err, vfs.ErrUnsupported) {
		d.space.budget = lookEvery
		return true, nil
	}
	if err != nil {
		return false, err
	}
	free := int64(min(usage.AvailBytes, 1<<62)) - d.reserve()
	if n > free {
		d.space.budget = 0
		return false, nil
	}
	d.space.budget = min((free-n)/4, lookEvery)
	return true, nil
}

// reserve is what must stay free for everything that was taken.
func (d *Disk) reserve() int64 {
	d.mu.Lock()
	defer d.mu.Unlock()
	need := d.cfg.ReserveBytes + 2*d.dir.SegmentBytes()
	for _, g := range d.groups {
		g.mu.Lock()
		need += 2 * g.unapplied // blocks or metadata, and slack for what is not full
		g.mu.Unlock()
		need += min(g.store.MetadataBytes(), compaction)
	}
	return need
}

// Room takes n bytes of the disk for what makes the volume larger; ENOSPC if it has them not. While something that was freed is on
// its way back to the disk, it waits for that. The caller holds no lock.
func (g *Group) Room(n int64) error {
	const overhead = 16 << 10 // metadata of one operation
	for {
		ok, err := g.disk.room(n + overhead)
		if err != nil || ok && !g.store.Stalled() {
			return err
		}
		if !g.reclaim() {
			return syscall.ENOSPC
		}
	}
}

// reclaim has the apply loop make a checkpoint that gives space back; false if there is nothing to give.
func (g *Group) reclaim() bool {
	if g.store.Stalled() || !g.reclaimable() {
		return false
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	before := g.checkpoints
	for g.failed == nil && !g.closing && g.checkpoints == before && !g.store.Stalled() {
		g.pressed = true
		g.work.Signal()
		g.changed.Wait()
	}
	return g.checkpoints > before
}

// reclaimable tells whether a checkpoint would give space back.
func (g *Group) reclaimable() bool {
	g.mu.Lock()
	busy := len(g.queue)+len(g.core.bound)+len(g.core.unbound) > 0
	journal := g.disk.journal.End() - g.sinceCheckpoint
	g.mu.Unlock()
	return busy || int64(journal) > g.disk.dir.SegmentBytes() || g.store.Freed()
}
