package journal

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"
	"syscall"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// Prepare makes the next segment ready, if it is not, so that no Append has to. Meant for the owner's maintenance.
//
// ErrNoSpace: writing to the new file, which is not a part of the log yet, met ENOSPC or EDQUOT. It was removed again (or stays
// free, if it was), so nothing has changed. Only writes are forgiven so: a failed sync is final whatever its cause, because it
// tells nothing about what else the disk has lost.
func (j *Journal) Prepare() error {
	j.maint.Lock()
	defer j.maint.Unlock()
	j.mu.Lock()
	err, seq, have := j.usable(), j.next, j.ready != nil
	j.mu.Unlock()
	if err != nil || have {
		return err
	}
	// Only Prepare sets j.ready, under j.maint, and only its use changes j.next: both are still the same below.
	s, err := j.prepare(seq)
	if err != nil {
		return err
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	j.ready = s
	return nil
}

func (j *Journal) prepare(seq uint64) (*segment, error) {
	s := &segment{seq: seq, name: segmentName(seq), base: j.o.base(seq)}
	var err error
	if s.generation, err = j.newGeneration(); err != nil {
		return nil, j.fail("prepare", s.name, err)
	}
	if len(j.free) > 0 {
		s.file, err = j.reuseFree(s.name)
	} else {
		s.file, err = j.create(seq)
	}
	if err != nil {
		return nil, err
	}
	if err := syncDir(j.o.FS, j.o.Dir); err != nil {
		s.file.Close()
		return nil, j.fail("prepare", s.name, err)
	}
	return s, nil
}

func (j *Journal) newGeneration() (uint64, error) {
	var b [8]byte
	if _, err := io.ReadFull(j.o.Rand, b[:]); err != nil {
		return 0, fmt.Errorf("journal: random generation: %w", err)
	}
	return binary.LittleEndian.Uint64(b[:]), nil
}

// reuseFree turns a free file into the named segment. Its headers are zero, durably, before it has the name: under that name
// a header that verifies has been written by activate and by nothing else.
func (j *Journal) reuseFree(name string) (vfs.File, error) {
	from := j.free[len(j.free)-1]
	f, err := j.o.FS.OpenReadWrite(j.o.path(from), vfs.WriteCategoryUnspecified)
	if err != nil {
		return nil, j.fail("prepare", from, err)
	}
	err = writeHeaders(f, make([]byte, headerPageBytes), j.o.SegmentBytes)
	if isNoSpace(err) {
		f.Close()
		return nil, fmt.Errorf("%w: %s: %w", ErrNoSpace, from, err)
	}
	if err == nil {
		err = f.SyncData()
	}
	if err == nil {
		err = j.o.FS.Rename(j.o.path(from), j.o.path(name))
	}
	if err != nil {
		f.Close()
		return nil, j.fail("prepare", from, err)
	}
	j.free = j.free[:len(j.free)-1]
	return f, nil
}

// create makes a new, zero-filled segment. It has a temporary name until it is whole and durable.
func (j *Journal) create(seq uint64) (vfs.File, error) {
	name := tempName(seq)
	f, err := j.o.FS.Create(j.o.path(name), vfs.WriteCategoryUnspecified)
	if isNoSpace(err) {
		return nil, fmt.Errorf("%w: create %s: %w", ErrNoSpace, name, err)
	}
	if err != nil {
		return nil, j.fail("prepare", name, err)
	}
	err = zeroFill(f, j.o.SegmentBytes)
	if isNoSpace(err) {
		f.Close()
		if rerr := j.o.FS.Remove(j.o.path(name)); rerr != nil {
			return nil, j.fail("prepare", name, rerr)
		}
		return nil, fmt.Errorf("%w: zero-fill %s: %w", ErrNoSpace, name, err)
	}
	if err == nil {
		err = f.Sync()
	}
	if err == nil {
		err = j.o.FS.Rename(j.o.path(name), j.o.path(segmentName(seq)))
	}
	if err != nil {
		f.Close()
		return nil, j.fail("prepare", name, err)
	}
	return f, nil
}

// Release gives segments back whose frames all end at or below the given LSN. The caller promises that it needs none of them;
// after a crash they may be visited once more. The current segment and those with unsynced frames stay for a
// later call, and so does the last one before a segment of which nothing is synced.
func (j *Journal) Release(below LSN) error {
	j.maint.Lock()
	defer j.maint.Unlock()
	for {
		s, err := j.releasable(below)
		if s == nil || err != nil {
			return err
		}
		if err := j.retire(s.seq); err != nil {
			return j.fail("release", s.name, err)
		}
	}
}

// releasable takes the lowest segment out of the log if it may go; nil if it may not.
func (j *Journal) releasable(below LSN) (*segment, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if err := j.usable(); err != nil {
		return nil, err
	}
	// One segment stays in any case: its name keeps LSNs from starting again, its header says where the log starts. So that
	// header is durable before the segment below goes, and when it does not verify later, that is damage. By the order of
	// syncs, all frames of the segment that goes are synced then, and its file is closed.
	if len(j.segs) < 2 || j.segs[0].end > below || j.synced < j.segs[1].base+headerPageBytes {
		return nil, nil
	}
	s := j.segs[0]
	j.segs = j.segs[1:]
	return s, nil
}

// retire takes a segment's file out of the log, durably. j.maint is held.
func (j *Journal) retire(seq uint64) error {
	from, to := segmentName(seq), freeName(seq)
	info, err := j.o.FS.Stat(j.o.path(from))
	if err != nil {
		return err
	}
	if len(j.free) < j.o.MaxFree && j.o.isWhole(info) {
		if err := j.o.FS.Rename(j.o.path(from), j.o.path(to)); err != nil {
			return err
		}
		// A crash may have left both names; the rename has replaced that file.
		if !slices.Contains(j.free, to) {
			j.free = append(j.free, to)
		}
	} else if err := j.o.FS.Remove(j.o.path(from)); err != nil {
		return err
	}
	return syncDir(j.o.FS, j.o.Dir)
}

func isNoSpace(err error) bool {
	return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT)
}

func syncDir(fs vfs.FS, dir string) error {
	d, err := fs.OpenDir(dir)
	if err != nil {
		return err
	}
	err = d.Sync()
	if cerr := d.Close(); err == nil {
		err = cerr
	}
	return err
}
