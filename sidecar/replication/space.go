package replication

import (
	"errors"
	"sync"
	"syscall"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/remora-storage/remora/sidecar/replication/journal"
)

// space decides whether what makes a volume larger is taken while the disk is nearly full.
//
// What was acknowledged must be applied, and applying needs space: for the blocks, for Pebble's files, for the next segments of the
// journal. So a reserve is kept, into which only deletes, truncates and the like may go: Room refuses the rest. Space comes back with
// the checkpoint, which the apply loop makes early while Room refuses and something is freed. Should others fill the disk all
// the same, the store waits for space, and goes on when there is some. What Room does not refuse makes the journal longer, too: when
// a part of the reserve is in use, Admit has it wait for the checkpoint that makes the journal shorter again.
type space struct {
	mu     sync.Mutex
	budget int64       // bytes that may be taken before the next look at the disk
	tight  bool        // a part of the reserve is in use
	look   journal.LSN // of the journal's end, for tight
}

// lookEvery is how many bytes are taken between two looks at the disk, at most.
const lookEvery = 1 << 20

// overhead is the metadata of one operation.
const overhead = 16 << 10

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

// tight tells whether a quarter of the reserve is in use. It looks at the disk for each half segment of journal, and for each call while it is.
func (d *Disk) tight() bool {
	end := d.journal.End()
	d.space.mu.Lock()
	defer d.space.mu.Unlock()
	if !d.space.tight && end < d.space.look {
		return false
	}
	d.space.look = end + journal.LSN(d.dir.SegmentBytes()/2)
	usage, err := d.cfg.FS.GetDiskUsage(d.dir.Path())
	d.space.tight = err == nil && int64(min(usage.AvailBytes, 1<<62)) < d.reserve()*3/4
	return d.space.tight
}

// ease waits for a checkpoint while the reserve is in use, as soon as that would make the journal shorter.
func (g *Group) ease() {
	if !g.disk.tight() {
		return
	}
	g.mu.Lock()
	since := g.disk.journal.End() - g.sinceCheckpoint
	g.mu.Unlock()
	if int64(since) > g.disk.dir.SegmentBytes() {
		g.disk.commit()
		g.reclaim()
	}
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
		if s := g.Store(); s != nil {
			need += min(s.MetadataBytes(), compaction)
		}
	}
	return need
}

// Room takes n bytes of the disk for what makes the volume larger; ENOSPC if it has them not. While something that was freed is on
// its way back to the disk, it waits for that. The caller holds no lock.
func (g *Group) Room(n int64) error {
	for {
		ok, err := g.disk.room(n + overhead)
		if err == nil && ok && !g.store.Stalled() && g.peers != nil {
			err = g.peersRoom(n + overhead)
		}
		if err != nil || ok && !g.store.Stalled() {
			return err
		}
		if !g.reclaim() {
			g.warnFull(uint64(g.key().replica), 0)
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
		g.pressed, g.short = true, true
		g.work.Signal()
		g.changed.Wait()
	}
	return g.checkpoints > before
}

// reclaimable tells whether a checkpoint would give space back.
func (g *Group) reclaimable() bool {
	g.mu.Lock()
	busy := len(g.queue)+len(g.core.bound)+len(g.core.unbound) > 0
	since := g.disk.journal.End() - g.sinceCheckpoint
	g.mu.Unlock()
	return busy || int64(since) > g.disk.dir.SegmentBytes() || g.store.Freed()
}
