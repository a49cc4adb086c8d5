package store

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"maps"
	"path/filepath"
	"slices"

	"github.com/cockroachdb/pebble/v2"

	"github.com/remora-storage/remora/cachefs/meta"
	"github.com/remora-storage/remora/cachefs/record"
	"github.com/remora-storage/remora/disk"
)

// installBatch is how many bytes of keys go to Pebble at once.
const installBatch = 1 << 20

// Install brings the store in cfg.Dir, which nobody has open, to a snapshot of a peer: next returns its keys in order, and io.EOF behind
// the last. The directory is empty, or has an older state of the same volume. Content stays where it is the content at the snapshot, of which
// the sender's own gaps tell, too (lacks.go); everything else is absent from then on. It is durable when Install returns; the caller then saves at as the replica's checkpoint, and
// opens the store with it.
//
// cfg.Checkpoint is the replica's last durable one: what is newer than it stays only if it is in no way of the disk's mercy, so nothing
// newer stays. A caller that wants to keep it applies the log and makes a checkpoint first. A crash in the middle leaves a directory that
// Open refuses or that is as it was: the caller, which has noted that it installs, does it again, with the same cfg.Checkpoint (and so after ErrDamaged). The slots
// of content that is dropped are free, and punched after the next Open, when Adopt has taken those that the journal needs: of what else it
// names, frames must have a durable witness before Install begins.
func Install(cfg Config, at Checkpoint, next func() (key, value []byte, err error)) error {
	s, err := openToInstall(cfg)
	if err != nil {
		return fmt.Errorf("install: %w", err)
	}
	in := &install{s: s, batch: s.db.NewBatch()}
	err = in.run(at, next)
	err = damage(errors.Join(err, in.batch.Close(), s.failure(), s.Close()))
	if err == nil {
		err = disk.SyncDir(cfg.FS, cfg.Dir)
	}
	if errors.Is(err, ErrDamaged) { // what there was cannot even be read to decide what stays: the next Install begins with nothing
		cfg.Logger.Error("metadata is damaged: it is removed, and all content is fetched again", "err", err)
		err = errors.Join(err, cfg.FS.RemoveAll(filepath.Join(cfg.Dir, "meta")))
	}
	if err != nil {
		return fmt.Errorf("install index %d: %w", at.Index, err)
	}
	return nil
}

// openToInstall opens the metadata. What is damaged, or not there, is made anew: nothing stays.
func openToInstall(cfg Config) (*Store, error) {
	s, err := openMeta(cfg)
	if err == nil || !errors.Is(err, ErrDamaged) {
		return s, err
	}
	cfg.Logger.Error("metadata is damaged: it is replaced, and all content is fetched again", "err", err)
	if err := cfg.FS.RemoveAll(filepath.Join(cfg.Dir, "meta")); err != nil {
		return nil, err
	}
	cfg.Checkpoint = Checkpoint{}
	return openMeta(cfg)
}

// install is one Install.
//
// All of it is in Pebble, whose batches survive in their order: the first sets a mark, the last takes it away. In between the replicated
// keys are replaced; of local keys those stay that keep names.
type install struct {
	s       *Store
	batch   *pebble.Batch
	last    []byte // newest key of the stream
	absent  int64  // bytes
	kept    int    // blobs
	saved   int    // of an older change, of which the sender lacks what is here
	dropped int
	revised map[record.BlobID]residency // of those that are saved, as they are when everything is here
}

func (in *install) run(at Checkpoint, next func() (key, value []byte, err error)) error {
	if err := errors.Join(in.batch.Set(installingKey, nil, nil), in.commit()); err != nil {
		return err
	}
	// Before a key of the stream: a batch knows an order too.
	err := errors.Join(in.batch.DeleteRange([]byte{0}, []byte{meta.LocalPrefix}, nil), in.batch.Delete(appliedKey, nil),
		in.batch.Delete(answersKey, nil), in.batch.DeleteRange([]byte{keptPrefix}, []byte{lackPrefix + 1}, nil))
	if err != nil {
		return err
	}
	for {
		key, value, err := next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err == nil {
			err = in.take(key, value)
		}
		if err != nil {
			return err
		}
	}
	if err := in.drop(); err != nil {
		return err
	}
	return in.finish(at)
}

// keptPrefix, with the blob, is of content that stays, until Verify has read it; the value says which chunk's it is.
const keptPrefix = meta.LocalPrefix + 3

func keptKey(id record.BlobID) []byte {
	return binary.BigEndian.AppendUint64([]byte{keptPrefix}, uint64(id))
}

// take takes in a key of the snapshot.
func (in *install) take(key, value []byte) error {
	if string(key) <= string(in.last) {
		return fmt.Errorf("%w: snapshot with key %x behind key %x", ErrMalformed, key, in.last)
	}
	in.last = append(in.last[:0], key...)
	if string(key) == string(answersKey) {
		if _, err := decodeAnswers(value); err != nil {
			return fmt.Errorf("%w: %w", ErrMalformed, err)
		}
		return in.set(key, value)
	}
	if key[0] == lackPrefix {
		return in.lack(key, value)
	}
	k, err := meta.ParseKey(key)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	if k.Kind == meta.KeyChunk {
		w, err := wantAll(key, value)
		if err == nil {
			err = in.keep(&w)
		}
		if err != nil {
			return err
		}
	}
	return in.set(key, value)
}

func (in *install) set(key, value []byte) error {
	if err := in.batch.Set(key, value, nil); err != nil {
		return err
	}
	return in.commitSome()
}

func (in *install) commitSome() error {
	if in.batch.Len() < installBatch {
		return nil
	}
	return in.commit()
}

func (in *install) commit() error {
	err := errors.Join(in.batch.Commit(pebble.NoSync), in.batch.Close(), in.s.failure())
	in.batch = in.s.db.NewBatch()
	return err
}

// keep notes that the content of a chunk stays, if it is the chunk's.
func (in *install) keep(w *Want) error {
	absent := w.Blocks
	v, ok, err := in.s.Get(residencyKey(w.Blob))
	if err != nil {
		return err
	}
	if ok {
		r, err := decodeResidency(v)
		if err != nil {
			return err
		}
		beyond := without(r.here, w.Blocks)
		if r.last == w.Last && before(r.last, applied(in.s.cfg.Checkpoint.Acceptance)) && beyond.IsZero() {
			absent = without(w.Blocks, r.here)
			in.kept++
			if err := in.batch.Set(keptKey(w.Blob), chunkOf(w), nil); err != nil {
				return err
			}
		}
	}
	in.absent += int64(count(absent)) * record.BlockSize
	if absent.IsZero() {
		return nil
	}
	l := lacks{w.Ino, w.Chunk, []lack{{w.Last, absent}}}
	return in.set(lackKey(w.Blob), l.append(nil))
}

// drop removes residency and seals of what does not stay.
func (in *install) drop() error {
	if err := in.commit(); err != nil {
		return err
	}
	blob, stays := record.BlobID(0), false
	return in.s.Scan([]byte{residencyPrefix}, []byte{sealPrefix + 1}, func(key, _ []byte) error {
		if id := keyBlob(key); id != blob {
			blob = id
			var err error
			if _, stays, err = in.s.Get(keptKey(id)); err != nil {
				return err
			}
		}
		if stays {
			return nil
		}
		if key[0] == residencyPrefix {
			in.dropped++
		}
		if err := in.batch.Delete(key, nil); err != nil {
			return err
		}
		return in.commitSome()
	})
}

// finish makes the store one that can be opened, and durable.
func (in *install) finish(at Checkpoint) error {
	err := errors.Join(in.commit(), in.batch.Set(appliedKey, encodeApplied(nil, at), nil), in.batch.Set(incompleteKey, nil, nil),
		in.batch.Delete(installingKey, nil))
	for _, id := range slices.Sorted(maps.Keys(in.revised)) {
		r := in.revised[id]
		err = errors.Join(err, in.batch.Set(residencyKey(id), r.append(nil), nil))
	}
	err = errors.Join(err, in.commit())
	if err == nil {
		err = in.s.flush()
	}
	in.s.cfg.Logger.Info("snapshot installed", "index", at.Index, "kept", in.kept, "saved", in.saved, "dropped", in.dropped, "absent_bytes", in.absent)
	return err
}

func chunkOf(w *Want) []byte {
	return binary.LittleEndian.AppendUint64(binary.LittleEndian.AppendUint64(nil, uint64(w.Ino)), w.Chunk)
}
