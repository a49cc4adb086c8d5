package store

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"syscall"

	"github.com/cockroachdb/pebble/v2"

	"github.com/remora-storage/remora/cachefs/record"
	"github.com/remora-storage/remora/cachefs/seal/sealfs"
)

// damage marks errors that mean: what is here is not what was written.
func damage(err error) error {
	if pebble.IsCorruptionError(err) || errors.Is(err, pebble.ErrDBDoesNotExist) || errors.Is(err, sealfs.ErrDamaged) {
		return fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	return err
}

// openError is why the metadata of a directory was not opened. A file that is not there is damage; what the system refuses is not.
func openError(o *pebble.Options, dir string, err error) error {
	if _, peek := pebble.Peek(dir, o.FS); peek != nil && !isErrno(peek) {
		return fmt.Errorf("%w: use the version of remora that wrote it, or a newer one; nothing was changed", peek)
	}
	if isErrno(err) && !errors.Is(err, fs.ErrNotExist) {
		return damage(err)
	}
	return fmt.Errorf("%w: %w", ErrDamaged, err)
}

func isErrno(err error) bool {
	var errno syscall.Errno
	return errors.As(err, &errno)
}

// checkArena refuses a directory whose arena is missing, or ends before a block that was durable at the checkpoint. Blocks that are newer
// may be missing: replay writes them again.
func (s *Store) checkArena(need int64, slots int) error {
	path := filepath.Join(s.cfg.Dir, "arena")
	info, err := s.cfg.FS.Stat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist) && slots > 0:
		return fmt.Errorf("%w: %s is missing, and %d blobs are in it", ErrDamaged, path, slots)
	case err == nil && info.Size() < need:
		return fmt.Errorf("%w: %s has %d bytes, and blocks up to %d were synced: it was cut, or copied in part", ErrDamaged, path, info.Size(), need)
	}
	return nil // whoever opens it meets any other error again
}

// usedSlots lists the slots of all blobs, and finds where the last block ends that was durable at the checkpoint.
func (s *Store) usedSlots() (used []uint32, end int64, err error) {
	at := s.cfg.Checkpoint.Acceptance
	lower, upper := []byte{residencyPrefix}, []byte{residencyPrefix + 1}
	err = s.Scan(lower, upper, func(_, value []byte) error {
		r, err := decodeResidency(value)
		if err != nil {
			return err
		}
		used = append(used, r.slot)
		if r.last.Epoch < at.Epoch || r.last.Epoch == at.Epoch && r.last.Seq <= at.Last {
			end = max(end, r.end())
		}
		return nil
	})
	return used, end, err
}

// end is where the last block that is here ends in the arena.
func (r *residency) end() int64 {
	for b := uint32(record.ChunkBlocks); b > 0; b-- {
		if r.here.Has(b - 1) {
			return offset(r.slot, b)
		}
	}
	return 0
}
