package store

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"path/filepath"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/sstable"

	"github.com/remora-storage/remora/cachefs/meta"
	"github.com/remora-storage/remora/cachefs/record"
)

// Local is a key of the replica itself (from meta.LocalPrefix on), taken apart. One of the pointers or Incomplete is set, or none for the
// table of answers.
type Local struct {
	Incomplete bool // content may be absent
	Applied    *Checkpoint
	Residency  *Residency
	Seals      *Seals
}

// Residency is which blocks of a blob are here, and where.
type Residency struct {
	Blob record.BlobID
	Slot uint32
	Last meta.Change // the change of the blob that the blocks are of
	Here meta.Bitmap
}

// Seals are the seals of the blocks from First on; holes have none.
type Seals struct {
	Blob  record.BlobID
	First uint32
	Seals [sealGroup]record.Seal
}

// DecodeLocal reads a local key with its value.
func DecodeLocal(key, value []byte) (Local, error) {
	bad := func(err error) (Local, error) {
		return Local{}, fmt.Errorf("%w: local key %x with a value of %d bytes: %w", ErrDamaged, key, len(value), err)
	}
	switch {
	case string(key) == string(appliedKey):
		index, a, err := decodeApplied(value)
		if err != nil {
			return bad(err)
		}
		return Local{Applied: &Checkpoint{index, a}}, nil
	case string(key) == string(answersKey):
		_, err := decodeAnswers(value)
		if err != nil {
			return bad(err)
		}
		return Local{}, nil
	case string(key) == string(incompleteKey) && len(value) == 0:
		return Local{Incomplete: true}, nil
	case len(key) == 9 && key[0] == keptPrefix && len(value) == 16:
		return Local{Incomplete: true}, nil
	case len(key) == 9 && key[0] == lackPrefix:
		if _, err := decodeLacks(value); err != nil {
			return bad(err)
		}
		return Local{Incomplete: true}, nil
	case len(key) == 9 && key[0] == residencyPrefix:
		r, err := decodeResidency(value)
		if err != nil {
			return bad(err)
		}
		return Local{Residency: &Residency{Blob: keyBlob(key), Slot: r.slot, Last: r.last, Here: r.here}}, nil
	case len(key) == 10 && key[0] == sealPrefix && key[9] < sealGroups && len(value) == sealGroup*record.SealSize:
		s := &Seals{Blob: keyBlob(key), First: uint32(key[9]) * sealGroup}
		for i := range s.Seals {
			s.Seals[i] = record.DecodeSeal(value[i*record.SealSize:])
		}
		return Local{Seals: s}, nil
	}
	return bad(errors.New("not a key of a store, or not its value"))
}

func keyBlob(key []byte) record.BlobID { return record.BlobID(binary.BigEndian.Uint64(key[1:])) }

// BlockOffset is where a block is in the arena.
func BlockOffset(slot, block uint32) int64 { return offset(slot, block) }

// VerifyTables reads every block of every live file of the metadata and calls visit for each that is not what was written.
func (s *Store) VerifyTables(ctx context.Context, visit func(file string, err error)) error {
	levels, err := s.db.SSTables()
	if err != nil {
		return fmt.Errorf("list metadata files: %w", damage(err))
	}
	seen := map[string]bool{}
	for _, level := range levels {
		for i := range level {
			if err := ctx.Err(); err != nil {
				return err
			}
			name := fmt.Sprintf("%s.sst", level[i].BackingSSTNum)
			if seen[name] {
				continue
			}
			seen[name] = true
			if err := s.verifyTable(ctx, name); err != nil {
				visit(name, err)
			}
		}
	}
	if len(seen) == 0 {
		return nil
	}
	return damage(s.db.CheckLevels(nil))
}

func (s *Store) verifyTable(ctx context.Context, name string) error {
	return verifyTable(ctx, filepath.Join(s.cfg.Dir, "meta", name), s.pebbleOptions())
}

// VerifyTable reads every block of a file of the metadata of a store that may be too damaged to be opened.
func VerifyTable(ctx context.Context, cfg Config, name string) error {
	s := &Store{cfg: cfg, disk: &patient{FS: cfg.FS, logger: cfg.Logger}}
	return s.verifyTable(ctx, name)
}

func verifyTable(ctx context.Context, path string, o *pebble.Options) error {
	f, err := o.FS.Open(path)
	if err != nil {
		return err
	}
	readable, err := sstable.NewSimpleReadable(f)
	if err != nil {
		return errors.Join(err, f.Close())
	}
	r, err := sstable.NewReader(ctx, readable, o.MakeReaderOptions())
	if err != nil {
		return errors.Join(err, readable.Close())
	}
	return errors.Join(r.ValidateBlockChecksums(), r.Close())
}

// Offset is where a block that is here is in the arena, for tests and for programs that look at a disk.
func (s *Store) Offset(id record.BlobID, block uint32) (int64, error) {
	e, err := s.Locate(id, block, 1)
	return offset(e.slot, block), err
}
