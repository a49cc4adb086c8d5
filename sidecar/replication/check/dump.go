package check

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"slices"

	"github.com/remora-storage/remora/disk"
	"github.com/remora-storage/remora/sidecar/replication"
	"github.com/remora-storage/remora/sidecar/replication/diskdir"
	"github.com/remora-storage/remora/sidecar/replication/journal"
)

// DumpConfig says what to print. Without a part, superblocks, journal and records are printed.
type DumpConfig struct {
	FS      disk.FS    // nil: the real one
	Dir     string     // as Config's
	KeyDir  string     // as Config's
	Replica diskdir.ID // 0: all
	Names   bool       // print the names that users gave to files

	Superblock, Journal, Records, Meta bool
}

// dumper prints the disk directories below a directory.
type dumper struct {
	cfg DumpConfig
	out *bufio.Writer
	*diskCheck
	indexes map[bound]uint64
}

// bound names a record of a replica that has an index.
type bound struct {
	replica    diskdir.ID
	epoch, seq uint64
}

// Dump prints what is in the disk directories below a directory as text, a line for each thing, and changes nothing. What cannot be
// read is said in the text, where it is; then the error at the end says that something is missing.
func Dump(ctx context.Context, cfg DumpConfig, w io.Writer) error {
	c := &checker{cfg: Config{FS: cfg.FS, Dir: cfg.Dir, KeyDir: cfg.KeyDir}.withDefaults(), out: &Report{}}
	if !cfg.Superblock && !cfg.Journal && !cfg.Records && !cfg.Meta {
		cfg.Superblock, cfg.Journal, cfg.Records = true, true, true
	}
	targets, err := find(c.cfg.FS, c.cfg.Dir)
	if err != nil {
		return err
	}
	out := bufio.NewWriter(w)
	errs := []error{}
	for _, t := range targets {
		if cfg.Replica != 0 {
			t.replicas = []diskdir.ID{cfg.Replica}
		}
		d := &dumper{cfg: cfg, out: out, diskCheck: &diskCheck{checker: c, scope: c.scope(t.dir), dir: t.dir}, indexes: map[bound]uint64{}}
		errs = append(errs, d.disk(ctx, t))
	}
	return errors.Join(append(errs, out.Flush())...)
}

func (d *dumper) print(format string, args ...any) { fmt.Fprintf(d.out, format+"\n", args...) }

// stop prints why a part ends early, and returns it.
func (d *dumper) stop(what string, err error) error {
	if err == nil {
		return nil
	}
	err = fmt.Errorf("%s: %w", what, err)
	d.print("# stops: %s", oneLine(err.Error()))
	return err
}

func (d *dumper) disk(ctx context.Context, t target) error {
	lock, err := disk.LockShared(d.diskCheck.cfg.FS, filepath.Join(t.dir, "lock"))
	if errors.Is(err, disk.ErrLocked) {
		err = fmt.Errorf("a sidecar is serving this directory: stop its pod (or remora dev) first: %w", err)
	}
	if err != nil {
		return d.stop(t.dir, err)
	}
	d.print("# disk directory %s", t.dir)
	return errors.Join(d.parts(ctx, t), lock.Close())
}

func (d *dumper) parts(ctx context.Context, t target) error {
	replicas, err := d.list()
	if err != nil {
		return d.stop(t.dir, err)
	}
	if t.replicas != nil {
		replicas = slices.DeleteFunc(replicas, func(id diskdir.ID) bool { return !slices.Contains(t.replicas, id) })
	}
	var errs []error
	if d.cfg.Superblock {
		errs = append(errs, d.super(t.dir))
		for _, id := range replicas {
			errs = append(errs, d.super(filepath.Join(t.dir, "replicas", id.String())))
		}
	}
	s, err := diskdir.InspectSuper(d.diskCheck.cfg.FS, t.dir)
	if err == nil {
		d.info, err = s.Disk()
	}
	if err != nil {
		return errors.Join(append(errs, d.stop(t.dir, err))...)
	}
	if d.cfg.Journal || d.cfg.Records {
		errs = append(errs, d.frames(ctx, t.replicas))
	}
	for _, id := range replicas {
		errs = append(errs, d.replica(ctx, id))
	}
	return errors.Join(errs...)
}

// super prints both copies of a superblock.
func (d *dumper) super(dir string) error {
	s, err := diskdir.InspectSuper(d.diskCheck.cfg.FS, dir)
	if err != nil {
		return d.stop(dir, err)
	}
	for _, c := range s.Copies {
		line := struct {
			File string `json:"file"`
			diskdir.SuperCopy
			Error string `json:"error,omitempty"`
		}{File: filepath.Join(dir, "superblock"), SuperCopy: c}
		if c.Err != nil {
			line.Error = c.Err.Error()
		}
		b, err := json.Marshal(line)
		if err != nil {
			return d.stop(dir, err)
		}
		d.print("superblock %s", b)
	}
	return nil
}

// frames reads the journal and prints its frames.
func (d *dumper) frames(ctx context.Context, only []diskdir.ID) error {
	id, err := d.info.Identity()
	if err != nil {
		return d.stop(d.dir, err)
	}
	d.logs = replication.NewLogs()
	var lines []string
	dir := filepath.Join(d.dir, "journal")
	o := journal.Options{FS: d.diskCheck.cfg.FS, Dir: dir, DiskID: id, SegmentBytes: d.info.SegmentBytes,
		Arena: d.logs.Arena(d.diskCheck.cfg.FS, d.dir, func() { lines, d.indexes = nil, map[bound]uint64{} })}
	d.sum, err = journal.Scan(o, func(f journal.Frame) error {
		if err := ctx.Err(); err != nil {
			return err
		}
		if only == nil || slices.Contains(only, diskdir.ID(f.Replica)) {
			lines = append(lines, d.frame(f))
		}
		return d.logs.Visit(f)
	})
	if d.cfg.Journal {
		for _, l := range lines {
			d.print("%s", l)
		}
	}
	if err != nil {
		return d.stop(dir, err)
	}
	if d.cfg.Journal {
		d.print("# the log ends at LSN %d (%s), synced up to %d; %s, %d behind the end", d.sum.End, d.sum.Stopped, d.sum.SyncedEnd,
			count(d.sum.Frames, "frame"), d.sum.Stray)
	}
	return nil
}

// frame is a line for a frame, and notes which indexes it gives.
func (d *dumper) frame(f journal.Frame) string {
	line := fmt.Sprintf("frame %d %s group=%v replica=%v synced=%d", f.LSN, f.Kind, diskdir.ID(f.Group), diskdir.ID(f.Replica), f.SyncedEnd)
	var err error
	switch f.Kind {
	case journal.KindPayload, journal.KindPlaced:
		var p journal.Payload
		if p, _, err = journal.PayloadOf(f); err == nil {
			line += fmt.Sprintf(" record=%d/%d/%d bytes=%d", p.Epoch, p.Incarnation, p.Seq, len(p.Record))
		}
		for _, pl := range p.Placed {
			line += fmt.Sprintf(" placed=%d:slot=%d,blocks=%d+%d", pl.Op, pl.Slot, pl.First, pl.Count)
		}
	case journal.KindBinding:
		var b journal.Binding
		if b, err = journal.DecodeBinding(f.Body); err == nil {
			line += fmt.Sprintf(" index=%d count=%d term=%d epoch=%d seq=%d", b.Index, b.Count, b.Term, b.Epoch, b.Seq)
			for k := range uint64(b.Count) {
				d.indexes[bound{diskdir.ID(f.Replica), b.Epoch, b.Seq + k}] = b.Index + k
			}
		}
	case journal.KindHardState:
		var h journal.HardState
		if h, err = journal.DecodeHardState(f.Body); err == nil {
			line += fmt.Sprintf(" term=%d vote=%v commit=%d", h.Term, diskdir.ID(h.Vote), h.Commit)
		}
	case journal.KindEntry:
		var e journal.Entry
		if e, err = journal.DecodeEntry(f.Body); err == nil {
			line += fmt.Sprintf(" index=%d term=%d type=%d bytes=%d", e.Index, e.Term, e.Type, len(e.Data))
		}
	}
	if err != nil {
		line += " # " + oneLine(err.Error())
	}
	return line
}

// replica prints the records and the metadata of a replica. What needs a key that is not there is printed as far as it goes without.
func (d *dumper) replica(ctx context.Context, id diskdir.ID) error {
	if !d.cfg.Records && !d.cfg.Meta {
		return nil
	}
	path := filepath.Join(d.dir, "replicas", id.String())
	s, err := diskdir.InspectSuper(d.diskCheck.cfg.FS, path)
	if err != nil {
		return d.stop(path, err)
	}
	r := &replicaCheck{scope: d.checker.scope(path), disk: d.diskCheck, path: path}
	if r.state, err = s.Replica(); err != nil {
		return d.stop(path, err)
	}
	d.print("# replica %v of volume %s (%s), group %v", id, r.state.Volume, r.state.VolumeUID, r.state.Group)
	var keyErr error
	if r.keys, keyErr = d.keys(r.state.Volume, path); keyErr != nil {
		d.print("# no key: %s", oneLine(keyErr.Error()))
	} else if err := r.open(ctx); err != nil { // the salts of old incarnations are in the metadata
		return d.stop(path, err)
	}
	if d.cfg.Records && d.logs != nil {
		d.logs.Records(r.state.Group, r.state.Replica, r.keys, d.record(id))
	}
	err = keyErr
	if d.cfg.Meta && keyErr == nil {
		err = d.meta(r)
	}
	return errors.Join(err, r.close())
}
