package store

import (
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/remora-storage/remora/cachefs/record"
	"github.com/remora-storage/remora/disk"
)

// arena is one sparse file of slots of record.ChunkSize bytes, one a blob.
type arena struct {
	file   disk.File
	direct disk.File  // the same, for whoever does not wait when the disk is full
	past   *disk.Past // the same, past the page cache
	freed  []freed

	cleaning sync.Mutex // held while a slot is punched before its first use: nobody may write to it meanwhile; above mu

	mu      sync.Mutex      // not held over disk I/O
	next    uint32          // first slot that was never given out
	free    []uint32        // to be given out again
	warm    []uint32        // likewise, to be written whole: their blocks are still allocated
	old     []uint32        // likewise, if there is no other: they may hold what an earlier process left
	fresh   bool            // no freed slot is given out before the checkpoint that ends replay
	unclean map[uint32]bool // those of old, and those that were given out and not written to
	due     []freed         // punched blocks that are to be given back; guarded by Store.applyMu
}

// freed is a slot that the record at an index freed, or blocks that it punched.
type freed struct {
	at    record.Index
	slot  uint32
	blob  record.BlobID // of punched blocks; 0: the whole slot is free
	first uint32
	count uint32
}

func openArena(fs disk.FS, path string, used []uint32) (*arena, error) {
	f, err := fs.OpenReadWrite(path, disk.Category)
	if err != nil {
		return nil, fmt.Errorf("open arena: %w", err)
	}
	info, err := f.Stat()
	if err != nil {
		return nil, errors.Join(fmt.Errorf("open arena: %w", err), f.Close())
	}
	a := &arena{file: f, direct: f, fresh: true, unclean: map[uint32]bool{}}
	if p, ok := f.(*patientFile); ok {
		a.direct = p.File
	}
	a.past = disk.OpenPast(f)
	a.next = uint32((info.Size() + record.ChunkSize - 1) / record.ChunkSize)
	taken := make(map[uint32]bool, len(used))
	for _, s := range used {
		taken[s] = true
		a.next = max(a.next, s+1)
	}
	for s := range a.next {
		if !taken[s] {
			a.old = append(a.old, s)
			a.unclean[s] = true
		}
	}
	return a, nil
}

// maxWarm slots keep their blocks while they are free; of what is more, the blocks are given back one by one (Store.GiveBack).
const maxWarm = 64

// allocate gives out a slot. One that will be written whole may have blocks already: that is faster than to punch them and to have the
// file system allocate others.
func (a *arena) allocate(whole bool) uint32 {
	a.mu.Lock()
	defer a.mu.Unlock()
	if n := len(a.warm); n > 0 && whole && !a.fresh {
		s := a.warm[n-1]
		a.warm = a.warm[:n-1]
		return s
	}
	if n := len(a.free); n > 0 && !a.fresh {
		s := a.free[n-1]
		a.free = a.free[:n-1]
		return s
	}
	if n := len(a.old); n > 0 && !a.fresh {
		s := a.old[n-1]
		a.old = a.old[:n-1]
		return s
	}
	a.next++
	return a.next - 1
}

// adopt keeps slots that the journal names from being given out.
func (a *arena) adopt(slots map[uint32]bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.old = slices.DeleteFunc(a.old, func(s uint32) bool { return slots[s] })
	for s := range slots {
		a.next = max(a.next, s+1)
		delete(a.unclean, s)
	}
}

// release gives a slot back that nothing was written to, or whose holes are punched.
func (a *arena) release(slot uint32) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.free = append(a.free, slot)
}

// keep makes a slot that is free a warm one.
func (a *arena) keep(slot uint32) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.warm = append(a.warm, slot)
}

// idle tells how many slots are free and may have blocks, beside warm ones.
func (a *arena) idle(warm int) int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return max(len(a.warm)-warm, 0) + len(a.old)
}

// cool takes a slot whose blocks are to be given back, and leaves so many warm ones.
func (a *arena) cool(warm int) (slot uint32, ok bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	switch n, m := len(a.warm), len(a.old); {
	case n > warm: // the one that has waited longest
		slot, ok = a.warm[0], true
		a.warm = a.warm[1:]
	case m > 0:
		slot, ok = a.old[0], true
		a.old = a.old[1:]
		delete(a.unclean, slot)
	}
	return slot, ok
}

// endReplay lets freed slots be given out again.
func (a *arena) endReplay() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.fresh = false
}

// replaying tells whether endReplay is still to come.
func (a *arena) replaying() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.fresh
}

// clean punches a slot that may hold what an earlier process left; see write. Place and Apply may come to a slot at the same time.
func (a *arena) clean(f disk.File, slot uint32) error {
	a.cleaning.Lock()
	defer a.cleaning.Unlock()
	a.mu.Lock()
	unclean := a.unclean[slot]
	delete(a.unclean, slot)
	a.mu.Unlock()
	if !unclean {
		return nil
	}
	return disk.PunchHole(f, offset(slot, 0), record.ChunkSize)
}

// place writes blocks whose content nobody needs, and does not wait for space.
func (a *arena) place(slot, block uint32, data []byte) error {
	if err := a.clean(a.direct, slot); err != nil {
		return err
	}
	done := 0
	if len(data) == record.ChunkSize { // nobody else writes to this slot, or reads it, before the record is applied: see disk.Past
		var err error
		if done, err = a.past.WriteAt(data, offset(slot, block)); err != nil {
			return fmt.Errorf("write arena slot %d: %w", slot, err)
		}
	}
	for ; done < len(data); done += placeBytes {
		if _, err := a.direct.WriteAt(data[done:min(len(data), done+placeBytes)], offset(slot, block)+int64(done)); err != nil {
			return fmt.Errorf("write arena slot %d block %d: %w", slot, block, err)
		}
	}
	return nil
}

// placeBytes is what one call writes. The kernel caches it as one folio, and ext4 (Linux 6.18) walks over all blocks of a folio for each
// 4 KiB that are written into it later: 13 us with folios of 1 MiB, 2 with these.
const placeBytes = 32 << 10

// take returns what was freed at or below a checkpoint.
func (a *arena) take(checkpoint record.Index) (due []freed) {
	kept := a.freed[:0]
	for _, f := range a.freed {
		if f.at <= checkpoint {
			due = append(due, f)
		} else {
			kept = append(kept, f)
		}
	}
	a.freed = kept
	return due
}

// punch gives blocks of a slot back to the disk.
func (a *arena) punch(slot, first, count uint32) error {
	return disk.PunchHole(a.file, offset(slot, first), int64(count)*record.BlockSize)
}

func offset(slot uint32, block uint32) int64 {
	return int64(slot)*record.ChunkSize + int64(block)*record.BlockSize
}

// write writes whole blocks. During replay they are punched first. The process before this one may have died of an error of the
// disk, and then ext4 (Linux 6.18: tried) has pages over blocks that it holds for never written: what is written there again is
// synced without an error, and reads as zeros after the next mount. A crash in between loses nothing, since the journal has what
// is replayed.
func (a *arena) write(slot, block uint32, data []byte) error {
	if a.replaying() {
		if err := a.punch(slot, block, uint32(len(data)/record.BlockSize)); err != nil {
			return err
		}
	} else if err := a.clean(a.file, slot); err != nil {
		return err
	}
	if _, err := a.file.WriteAt(data, offset(slot, block)); err != nil {
		return fmt.Errorf("write arena slot %d block %d: %w", slot, block, err)
	}
	return nil
}

func (a *arena) read(slot, block uint32, dst []byte) error {
	n, err := a.file.ReadAt(dst, offset(slot, block))
	if n == len(dst) {
		return nil
	}
	return fmt.Errorf("read arena slot %d block %d: %w", slot, block, err)
}

func (a *arena) sync() error {
	if err := a.file.SyncData(); err != nil {
		return fmt.Errorf("sync arena: %w", err)
	}
	return nil
}

func (a *arena) close() error { return errors.Join(a.past.Close(), a.file.Close()) }
