package check

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"

	"github.com/remora-storage/remora/cachefs/record"
	"github.com/remora-storage/remora/cachefs/seal"
	"github.com/remora-storage/remora/cachefs/store"
	"github.com/remora-storage/remora/sidecar/replication"
	"github.com/remora-storage/remora/sidecar/replication/diskdir"
	"github.com/remora-storage/remora/sidecar/replication/journal"
)

// replicaCheck is the check of one replica.
type replicaCheck struct {
	*scope
	disk  *diskCheck
	path  string
	state diskdir.ReplicaState
	keys  *seal.Keys
	log   replication.Log

	overlay  *overlay
	store    *store.Store
	replayed bool
	result   Replica
}

// applyBatch bounds the records that go into the store in one batch.
const applyBatch = 128

func (d *diskCheck) replica(ctx context.Context, id diskdir.ID) error {
	path := filepath.Join(d.dir, "replicas", id.String())
	r := &replicaCheck{scope: d.checker.scope(path), disk: d, path: path, result: Replica{Path: path, ID: id}}
	err := r.run(ctx, id)
	d.out.Replicas = append(d.out.Replicas, r.result)
	return err
}

func (r *replicaCheck) run(ctx context.Context, id diskdir.ID) (err error) {
	defer func() {
		// What is damaged must not stop the check of the other replicas, even where a library's invariant breaks.
		if p := recover(); p != nil {
			r.find(r.path, "replica", "", "reading it ended in a panic: %v", p)
			err = nil
		}
	}()
	known, err := r.superblock(id)
	if err != nil || !known {
		return err
	}
	r.result.Group, r.result.Volume, r.result.VolumeUID = r.state.Group, r.state.Volume, r.state.VolumeUID
	r.result.Checkpoint, r.result.Index = r.state.Checkpoint.Index, r.state.Checkpoint.Index
	if r.state.Witness {
		r.note(r.path, "replica", "", "a witness: it has records in the journal, which were checked with it, and nothing else")
		return nil
	}
	if !r.files() {
		return nil
	}
	if r.state.GroupState.Installing {
		r.note(r.path, "replica", "", "it is being caught up by a copy of a peer's state: there is nothing to check until that is done")
		return nil
	}
	replay := r.journal()
	if r.keys, err = r.disk.keys(r.state.Volume, r.path); err != nil {
		r.find(r.path, "key", "", "%v: metadata and arena were not checked", err)
		return nil
	}
	if err := r.open(ctx); err != nil || r.store == nil {
		return err
	}
	defer func() { err = errors.Join(err, r.close()) }()
	if err := errors.Join(r.manifest(), r.tables(ctx)); err != nil {
		return err
	}
	if replay && !(r.history() && r.replay(ctx)) {
		// What was applied before the error is nobody's state: look at the last flush instead.
		if err := errors.Join(ctx.Err(), r.close()); err != nil {
			return err
		}
		if err := r.open(ctx); err != nil || r.store == nil {
			return err
		}
	}
	if err := r.content(ctx); err != nil || !r.replayed || !r.several() {
		return err
	}
	return r.digest(ctx)
}

// digest is what is compared with that of other replicas of the volume.
func (r *replicaCheck) digest(ctx context.Context) error {
	d, err := r.store.Digest(ctx)
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case errors.Is(err, store.ErrIncomplete):
	case err != nil:
		r.find(r.path, "digest", "", "%v", err)
	default:
		r.result.Digest = hex.EncodeToString(d.Sum[:])
	}
	return nil
}

// superblock checks the replica's own, and that it belongs here; false if there is nothing more to check.
func (r *replicaCheck) superblock(id diskdir.ID) (bool, error) {
	on, path := r.disk.cfg.FS, filepath.Join(r.path, "superblock")
	used := isDir(on, filepath.Join(r.path, "meta")) || exists(on, filepath.Join(r.path, "arena"))
	s, err := diskdir.InspectSuper(on, r.path)
	missing := errors.Is(err, fs.ErrNotExist)
	if err != nil && !missing {
		return false, err
	}
	if !used && (missing || s.Copies[0].Blank && s.Copies[1].Blank) {
		r.note(path, "superblock", "", "not written yet: its sidecar died while it made the replica, which is nobody's")
		return false, nil
	}
	if missing {
		r.find(path, "superblock", "", "the file is missing: the replica cannot be opened")
		return false, nil
	}
	if r.state, err = s.Replica(); err != nil {
		r.find(path, "superblock", "both copies", "%v: the replica cannot be opened", err)
		return false, nil
	}
	r.disk.copies(path, &s, !used)
	if r.state.Replica != id || r.state.DiskID != r.disk.info.DiskID {
		r.find(path, "superblock", "", "this is a copy of replica %v of disk %s, in the place of replica %v of disk %s: a replica cannot be copied, "+
			"a new one is filled by its peers", r.state.Replica, r.state.DiskID, id, r.disk.info.DiskID)
		return false, nil
	}
	return true, nil
}

// files tells whether the replica has its parts; false if there is nothing more to check.
func (r *replicaCheck) files() bool {
	on, begun := r.disk.cfg.FS, r.state.JournalFrom != 0
	if !begun && !isDir(on, filepath.Join(r.path, "meta")) {
		r.note(r.path, "replica", "", "made, and never opened")
		return false
	}
	if begun && !isDir(on, filepath.Join(r.path, "meta")) {
		r.find(filepath.Join(r.path, "meta"), "metadata", "", "the directory is missing: the replica is lost")
		return false
	}
	if begun && !exists(on, filepath.Join(r.path, "arena")) {
		r.find(filepath.Join(r.path, "arena"), "arena", "", "the file is missing: the content of all files is lost")
	}
	return true
}

// journal checks that the journal has what the last checkpoint left to it; false if the log cannot be applied.
func (r *replicaCheck) journal() bool {
	d := r.disk
	path := filepath.Join(d.dir, "journal")
	from, sum := journal.LSN(r.state.JournalFrom), d.sum
	switch {
	case d.broken:
		r.note(r.path, "replica", "", "the journal is damaged: the metadata is checked as of its last flush, the arena is not")
		return false
	case from == 0:
	case sum.Segments+sum.Free == 0:
		r.find(path, "journal", "", "is empty: what this replica's last checkpoint (index %d) left to the journal is lost", r.state.Checkpoint.Index)
		return false
	case from < sum.From:
		r.find(path, "journal", fmt.Sprintf("LSN %d", from), "replica %v needs the journal from here on, and it starts at %d", r.state.Replica, sum.From)
		return false
	case from > sum.End && from != sum.Next:
		r.find(path, "journal", fmt.Sprintf("LSN %d", sum.End), "ends here, and the checkpoint of replica %v had seen it synced up to %d",
			r.state.Replica, from)
		return false
	}
	return true
}

// history decodes the replica's records in the journal; false if the log cannot be applied.
func (r *replicaCheck) history() bool {
	d, path := r.disk, filepath.Join(r.disk.dir, "journal")
	frames := &frameCheck{scope: r.scope, dir: path, segmentBytes: d.info.SegmentBytes}
	d.logs.Records(r.state.Group, r.state.Replica, r.keys, frames.record)
	var err error
	r.log, err = d.logs.Of(r.state.Group, r.state.Replica, r.state.Checkpoint, r.several(), r.store.Opened(), r.keys)
	if err != nil {
		r.find(path, "log", "replica "+r.state.Replica.String(), "%v: the log cannot be applied", err)
		return false
	}
	r.names(path)
	return true
}

// names checks that each record of the log is the next one: a replica that is alone has no other owner whose records would not count.
func (r *replicaCheck) names(path string) {
	a := r.state.Checkpoint.Acceptance
	for _, e := range r.log.Bound {
		if r.several() { // what does not count is in its log, too
			break
		}
		if !a.Step(e.Record.Kind, e.Record.Name) {
			r.find(path, "log", fmt.Sprintf("index %d (LSN %d)", e.Index, uint64(e.LSN)), "record %v does not follow %d/%d/%d: it does not count",
				e.Record.Name, a.Epoch, a.Incarnation, a.Last)
		}
	}
	if r.result.Unbound = len(r.log.Unbound); r.result.Unbound > 0 {
		r.note(path, "log", "replica "+r.state.Replica.String(), "%s answered and not committed: the next owner proposes them again",
			count(r.result.Unbound, "record"))
	}
}

// several tells whether the replica is or was one of several: then its log may end in what was never committed.
func (r *replicaCheck) several() bool { return r.state.GroupState.Members != nil }

// open opens the store on an overlay; r.store stays nil if it cannot be.
func (r *replicaCheck) open(ctx context.Context) error {
	r.overlay, r.store = newOverlay(r.disk.cfg.FS), nil
	cfg := store.Config{FS: r.overlay, Dir: r.path, Checkpoint: r.state.Checkpoint, Keys: r.keys, Rand: rand.Reader,
		MemTableBytes: 64 << 20, Offline: true, Logger: quietLogger()}
	s, err := store.Open(cfg)
	if err == nil {
		r.store = s
		return nil
	}
	r.find(filepath.Join(r.path, "meta"), "metadata", "", "the store does not open: %v", err)
	return errors.Join(r.blame(ctx, cfg), ctx.Err(), r.overlay.close())
}

// blame looks for the tables that keep a store from being opened. Some may be such as nobody needs any more.
func (r *replicaCheck) blame(ctx context.Context, cfg store.Config) error {
	names, err := r.disk.cfg.FS.List(filepath.Join(r.path, "meta"))
	if err != nil {
		return err
	}
	slices.Sort(names)
	for _, n := range names {
		if !strings.HasSuffix(n, ".sst") || ctx.Err() != nil {
			continue
		}
		if err := store.VerifyTable(ctx, cfg, n); err != nil {
			r.find(filepath.Join(r.path, "meta", n), "metadata", "table", "%v", err)
		}
	}
	return nil
}

func (r *replicaCheck) close() error {
	if r.store == nil {
		return nil
	}
	err := errors.Join(r.store.Close(), r.overlay.close())
	r.store = nil
	return err
}

// tables reads every block of the metadata's files.
func (r *replicaCheck) tables(ctx context.Context) error {
	meta := filepath.Join(r.path, "meta")
	err := r.store.VerifyTables(ctx, func(file string, err error) {
		r.find(filepath.Join(meta, file), "metadata", "table", "%v: what it holds is lost or changed", err)
	})
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if err != nil {
		r.find(meta, "metadata", "levels", "%v", err)
	}
	return nil
}

// replay applies the log above the checkpoint, as recovery does.
func (r *replicaCheck) replay(ctx context.Context) bool {
	if err := r.store.Adopt(entries(slices.Concat(r.log.Bound, r.log.Open, r.log.Unbound))); err != nil {
		r.find(r.path, "log", "", "recovery cannot apply it: %v", err)
		return false
	}
	for batch := range slices.Chunk(r.log.Bound, applyBatch) {
		err := r.store.Apply(entries(batch))
		if ctx.Err() != nil {
			return false
		}
		if err != nil {
			r.find(r.path, "log", fmt.Sprintf("indexes %d to %d", batch[0].Index, batch[len(batch)-1].Index), "recovery cannot apply it: %v", err)
			return false
		}
	}
	at, err := r.store.EndReplay()
	if err != nil {
		r.find(r.path, "log", fmt.Sprintf("index %d", r.log.Last), "recovery does not end: %v", err)
		return false
	}
	r.replayed, r.result.Index = true, at.Index
	return true
}

func entries(log []replication.LogEntry) []store.Entry {
	es := make([]store.Entry, len(log))
	for i := range log {
		es[i] = log[i].Entry
	}
	return es
}

// blobName is how findings name blobs.
func blobName(id record.BlobID) string { return fmt.Sprintf("blob %d", id) }
