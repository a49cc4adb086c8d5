package check

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"

	"github.com/remora-storage/remora/sidecar/replication"
	"github.com/remora-storage/remora/sidecar/replication/diskdir"
	"github.com/remora-storage/remora/sidecar/replication/journal"
)

// diskCheck is the check of one disk directory.
type diskCheck struct {
	*checker
	*scope
	dir  string
	info diskdir.DiskInfo

	logs   *replication.Logs
	sum    journal.Summary
	broken bool // the journal cannot be applied
}

func (d *diskCheck) run(ctx context.Context, only []diskdir.ID) error {
	replicas, err := d.list()
	if err != nil {
		return err
	}
	known, err := d.superblock(len(replicas) > 0)
	if err != nil || !known {
		return err
	}
	if err := d.journal(ctx, replicas); err != nil {
		return err
	}
	for _, id := range replicas {
		if only != nil && !slices.Contains(only, id) {
			continue
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := d.replica(ctx, id); err != nil {
			return err
		}
	}
	return nil
}

// list returns the replicas that have a directory here.
func (d *diskCheck) list() ([]diskdir.ID, error) {
	names, err := d.cfg.FS.List(filepath.Join(d.dir, "replicas"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	slices.Sort(names)
	var ids []diskdir.ID
	for _, n := range names {
		if id, err := diskdir.ParseID(n); err == nil {
			ids = append(ids, id)
		}
	}
	return ids, nil
}

// superblock checks the disk directory's own; false if nothing below it can be understood.
func (d *diskCheck) superblock(used bool) (bool, error) {
	path := filepath.Join(d.dir, "superblock")
	used = used || isDir(d.cfg.FS, filepath.Join(d.dir, "journal"))
	s, err := diskdir.InspectSuper(d.cfg.FS, d.dir)
	if errors.Is(err, fs.ErrNotExist) {
		if used {
			d.find(path, "superblock", "", "the file is missing: nobody can say whose directory this is, and no replica in it can be opened")
		} else {
			d.note(d.dir, "disk directory", "", "empty")
		}
		return false, nil
	}
	if err != nil {
		return false, err
	}
	if !used && s.Copies[0].Blank && s.Copies[1].Blank {
		d.note(path, "superblock", "", "not written yet: its sidecar died while it made the directory")
		return false, nil
	}
	if d.info, err = s.Disk(); err != nil {
		d.find(path, "superblock", "both copies", "%v: no replica in this directory can be opened", err)
		return false, nil
	}
	d.copies(path, &s, !used)
	if _, err := d.info.Identity(); err != nil {
		d.find(path, "superblock", "", "%v", err)
		return false, nil
	}
	if d.info.SegmentBytes <= 0 {
		d.find(path, "superblock", "", "says that journal segments have %d bytes", d.info.SegmentBytes)
		return false, nil
	}
	return true, nil
}

// copies looks for a copy that does not count beside one that does. Of a superblock that is being made there may be one alone.
func (d *diskCheck) copies(path string, s *diskdir.Super, young bool) {
	for i := range s.Copies {
		c, other := &s.Copies[i], &s.Copies[1-i]
		where := fmt.Sprintf("copy at offset %d", c.Offset)
		switch {
		case c.Err != nil && c.Blank && young && other.Err == nil && other.Generation == 1:
			d.note(path, "superblock", where, "not written yet")
		case c.Err != nil:
			d.find(path, "superblock", where, "%v: the other copy, of generation %d, is good and counts; what was saved since is lost "+
				"if this one was newer", c.Err, other.Generation)
		case c.Generation%2 != uint64(i):
			d.find(path, "superblock", where, "generation %d belongs to the other copy's place: a write went astray", c.Generation)
		case i == 1 && other.Err == nil && c.Generation != other.Generation+1 && other.Generation != c.Generation+1:
			d.find(path, "superblock", "both copies", "generations %d and %d do not follow each other: a synced write is missing",
				other.Generation, c.Generation)
		}
	}
}

// journal reads every frame. Records are decoded on the way.
func (d *diskCheck) journal(ctx context.Context, replicas []diskdir.ID) error {
	d.logs = replication.NewLogs()
	id, err := d.info.Identity()
	if err != nil {
		return err
	}
	dir := filepath.Join(d.dir, "journal")
	if !isDir(d.cfg.FS, dir) {
		return nil // whether that matters, each replica's superblock says
	}
	frames := &frameCheck{scope: d.scope, dir: dir, segmentBytes: d.info.SegmentBytes}
	d.sum, err = journal.Scan(journal.Options{FS: d.cfg.FS, Dir: dir, DiskID: id, SegmentBytes: d.info.SegmentBytes,
		Arena: d.logs.Arena(d.cfg.FS, d.dir, func() {})}, func(f journal.Frame) error {
		if err := ctx.Err(); err != nil {
			return err
		}
		frames.visit(f)
		return d.logs.Visit(f)
	})
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if err != nil {
		d.broken = true
		d.journalFinding(dir, err)
		return nil
	}
	for _, name := range d.sum.BadCopies {
		d.find(filepath.Join(dir, name), "journal", fmt.Sprintf("offset %d", d.info.SegmentBytes-4096), "the copy of the segment's header does not "+
			"verify: the header itself does, so nothing is lost")
	}
	if d.sum.Stray > 0 {
		d.note(dir, "journal", fmt.Sprintf("LSN %d", d.sum.End), "%s behind the end of the log: what a power cut left of writes that "+
			"nobody was told of", count(d.sum.Stray, "frame"))
	}
	d.strangers(dir, replicas)
	return nil
}

func (d *diskCheck) journalFinding(dir string, err error) {
	var damage *journal.DamageError
	var mismatch *journal.MismatchError
	switch {
	case errors.As(err, &damage):
		d.find(filepath.Join(dir, damage.File), "journal", fmt.Sprintf("offset %d (LSN %d)", damage.Offset, uint64(damage.LSN)),
			"%s, and the log was synced up to LSN %d: records that were acknowledged are lost or changed; no replica of this directory "+
				"may be served from it", damage.Reason, uint64(damage.SyncedEnd))
	case errors.As(err, &mismatch):
		d.find(filepath.Join(dir, mismatch.File), "journal", mismatch.What, "is %s, expected %s: %s", mismatch.Found, mismatch.Expected, mismatch.Fix)
	default:
		d.find(dir, "journal", "", "%v", err)
	}
}

// strangers looks for replicas that the journal knows and that have no directory.
func (d *diskCheck) strangers(dir string, replicas []diskdir.ID) {
	var lost []diskdir.ID
	d.logs.Members(func(_, replica diskdir.ID) {
		if !slices.Contains(replicas, replica) {
			lost = append(lost, replica)
		}
	})
	slices.Sort(lost)
	for _, id := range lost {
		d.find(filepath.Join(d.dir, "replicas", id.String()), "replica", "", "the journal in %s has frames of it and its directory is missing", dir)
	}
}
