package replicationtest

import (
	"errors"
	"fmt"
	"math/rand/v2"

	"github.com/remora-storage/remora/disk/faultfs"
	"github.com/remora-storage/remora/sidecar/replication/journal"
)

// rotEvery is how many images there are for each that is tried once more with a bit turned over in the journal.
const rotEvery = 8

// rot turns over one bit of the journal that is known to have been synced, and recovers. A refusal is right, and so is a volume that
// has everything; one that has less took damage for a torn tail. done is false where the journal has no such bit.
func (r *crashes) rot(h *History, fs *faultfs.FS, rng *rand.Rand) (done bool, err error) {
	name, off, err := h.syncedByte(fs, rng)
	if err != nil || name == "" {
		return false, err
	}
	if err := fs.Flip(name, off, uint(rng.IntN(8))); err != nil {
		return false, err
	}
	err = h.recoverAndFind()
	h.Stop()
	if !errors.Is(err, errWrongState) {
		return true, nil
	}
	return true, fmt.Errorf("a bit of %s at %d was turned over: %w", name, off, err)
}

// syncedByte picks a byte of the journal below the highest synced end that a frame names.
func (h *History) syncedByte(fs *faultfs.FS, rng *rand.Rand) (name string, off int64, err error) {
	return h.journalByte(fs, rng, func(s journal.Summary) (from, to journal.LSN) { return s.Start, s.SyncedEnd })
}

// verifyRot does it again with a bit of the journal turned over.
func (r *crashes) verifyRot(g int, h *History, img image, fs *faultfs.FS, rng *rand.Rand) {
	h.see(img.hi, img.lo, img.synced)
	h.fs = fs
	done, err := r.rot(h, fs, rng)
	if done {
		r.point("rot in the journal")
	}
	if err != nil {
		r.violation(fmt.Sprintf("generation %d: %s: states %d to %d: %s", g, img.at, img.lo, img.hi, brief(err)))
	}
}
