package cachefs

import (
	"bytes"
	"slices"

	"github.com/google/btree"

	"github.com/remora-storage/remora/cachefs/record"
)

// overlay holds what was appended to the log and is not in the store yet: newest value by key, newest content by block.
type overlay struct {
	keys   *btree.BTreeG[overKey]
	blocks map[blockID]overBlock       // of small writes
	runs   map[record.BlobID][]overRun // of large ones
}

type overKey struct {
	key     []byte
	value   []byte
	deleted bool
	seq     record.Seq
}

type blockID struct {
	blob  record.BlobID
	block uint32
}

type overBlock struct {
	data []byte // record.BlockSize bytes as they are in the record, never changed
	seal *record.Seal
}

// overRun is what a large operation writes. Its blocks are not kept one by one: that would be a twelfth of what such a write costs.
type overRun struct {
	seq record.Seq
	op  *record.BlockOp
}

// runBlocks is how many blocks make a run.
const runBlocks = 32

func newOverlay() overlay {
	less := func(a, b overKey) bool { return bytes.Compare(a.key, b.key) < 0 }
	return overlay{keys: btree.NewG(32, less), blocks: map[blockID]overBlock{}, runs: map[record.BlobID][]overRun{}}
}

func (o *overlay) get(key []byte) (value []byte, deleted, ok bool) {
	e, ok := o.keys.Get(overKey{key: key})
	return e.value, e.deleted, ok
}

// add takes in a record that the log has taken.
func (o *overlay) add(r *record.Record) {
	seq := r.Name.Seq
	for i := range r.Muts {
		m := &r.Muts[i]
		o.keys.ReplaceOrInsert(overKey{m.Key, m.Value, m.Delete, seq})
	}
	for i := range r.Ops {
		op := &r.Ops[i]
		if len(op.Seals) >= runBlocks {
			o.runs[op.Blob] = append(o.runs[op.Blob], overRun{seq, op})
			continue
		}
		for k := range op.Seals {
			id := blockID{op.Blob, op.First + uint32(k)}
			o.blocks[id] = overBlock{op.Data[k*record.BlockSize : (k+1)*record.BlockSize], &op.Seals[k]}
		}
	}
}

// block is the newest content of a block, if it is here.
func (o *overlay) block(id blockID) (overBlock, bool) {
	b, ok := o.blocks[id]
	for _, r := range o.runs[id.blob] {
		if k := int(id.block) - int(r.op.First); k >= 0 && k < len(r.op.Seals) && (!ok || older(b.seal, &r.op.Seals[k])) {
			b, ok = overBlock{r.op.Data[k*record.BlockSize : (k+1)*record.BlockSize], &r.op.Seals[k]}, true
		}
	}
	return b, ok
}

// older tells which of two writes to a block came first: a record may write to it twice.
func older(a, b *record.Seal) bool { return a.Seq < b.Seq || a.Seq == b.Seq && a.N < b.N }

// drop removes what the store has now, unless something newer has replaced it.
func (o *overlay) drop(r *record.Record) {
	seq := r.Name.Seq
	for i := range r.Muts {
		k := overKey{key: r.Muts[i].Key}
		if e, ok := o.keys.Get(k); ok && e.seq == seq {
			o.keys.Delete(k)
		}
	}
	for i := range r.Ops {
		op := &r.Ops[i]
		if len(op.Seals) >= runBlocks {
			o.dropRun(op.Blob, seq)
			continue
		}
		for k := range op.Seals {
			id := blockID{op.Blob, op.First + uint32(k)}
			if b, ok := o.blocks[id]; ok && b.seal.Seq == seq {
				delete(o.blocks, id)
			}
		}
	}
}

func (o *overlay) dropRun(blob record.BlobID, seq record.Seq) {
	left := slices.DeleteFunc(o.runs[blob], func(r overRun) bool { return r.seq == seq })
	if len(left) == 0 {
		delete(o.runs, blob)
		return
	}
	o.runs[blob] = left
}

// scan calls visit for the newest state of the keys in [lower, upper), in order, until it returns false. fs.mu must be held.
func (fs *FS) scan(lower, upper []byte, visit func(key, value []byte) (bool, error)) error {
	var over []overKey
	fs.over.keys.AscendRange(overKey{key: lower}, overKey{key: upper}, func(e overKey) bool {
		over = append(over, e)
		return true
	})
	i := 0
	more := true
	// upTo visits the overlay's keys below key, or all if key is nil.
	upTo := func(key []byte) error {
		for ; more && i < len(over) && (key == nil || bytes.Compare(over[i].key, key) < 0); i++ {
			if over[i].deleted {
				continue
			}
			var err error
			if more, err = visit(over[i].key, over[i].value); err != nil {
				return err
			}
		}
		return nil
	}
	err := fs.cfg.State.Scan(lower, upper, func(key, value []byte) error {
		if err := upTo(key); err != nil {
			return err
		}
		if !more {
			return errStop
		}
		if i < len(over) && bytes.Equal(over[i].key, key) {
			e := over[i]
			i++
			if e.deleted {
				return nil
			}
			value = e.value
		}
		var err error
		if more, err = visit(key, value); err == nil && !more {
			err = errStop
		}
		return err
	})
	if err != nil {
		return ignoreStop(err)
	}
	return upTo(nil)
}
