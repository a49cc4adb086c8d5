package replication

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"math"
	"path/filepath"

	"github.com/remora-storage/remora/cachefs/meta"
	"github.com/remora-storage/remora/cachefs/record"
	"github.com/remora-storage/remora/cachefs/seal"
	"github.com/remora-storage/remora/cachefs/store"
	"github.com/remora-storage/remora/disk"
)

// While the store of a replica is being replaced, or where it is damaged, the salts that open the records of its journal are nowhere else: they
// are kept in a file (diskdir/FORMAT.md), or the replica could not start again. It has those of the checkpoint; newer ones are in the journal.

const (
	saltMagic = "RMRSALT1"
	saltBytes = 4 + seal.SaltSize
)

func (g *Group) saltFile() string { return filepath.Join(g.cfg.Replica.Path(), "salts") }

// salt is what a row of the metadata says of an incarnation.
type salt struct {
	incarnation uint32
	salt        []byte
}

func saltOf(key, value []byte) (salt, bool) {
	if len(key) != 5 || len(value) != 8+seal.SaltSize || !bytes.HasPrefix(key, meta.SaltKey(0)[:1]) {
		return salt{}, false
	}
	return salt{binary.BigEndian.Uint32(key[1:]), bytes.Clone(value[8:])}, true
}

// saltsOf hands on the rows of a state, and keeps the salts.
type saltsOf struct {
	next  func() (key, value []byte, err error)
	found []salt
}

// Next is the next row.
func (s *saltsOf) Next() (key, value []byte, err error) {
	key, value, err = s.next()
	if one, ok := saltOf(key, value); ok && err == nil {
		s.found = append(s.found, one)
	}
	return key, value, err
}

// keepSalts writes the salts that the store has, durably, unless the file has them: before a checkpoint says that the journal is needed from
// behind their records only. Where the store is being replaced, they are found in what takes its place.
func (g *Group) keepSalts(found ...salt) error {
	if g.cfg.Keys == nil {
		return nil
	}
	if s := g.Store(); s != nil {
		err := s.Scan(meta.SaltKey(0), append(meta.SaltKey(math.MaxUint32), 0), func(k, v []byte) error {
			if one, ok := saltOf(k, v); ok {
				found = append(found, one)
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	b := []byte(saltMagic)
	for _, one := range found {
		b = binary.LittleEndian.AppendUint32(b, one.incarnation)
		b = append(b, one.salt...)
	}
	b = binary.LittleEndian.AppendUint32(b, crc32.Checksum(b, castagnoli))
	var err error
	if g.salts == nil {
		if g.salts, err = g.readSalts(); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	if bytes.Equal(b, g.salts) {
		return nil
	}
	if err := g.writeSalts(b); err != nil {
		return err
	}
	g.salts = b
	return nil
}

// writeSalts replaces the file: a crash leaves the old one, or the new one.
func (g *Group) writeSalts(b []byte) error {
	tmp := g.saltFile() + ".new"
	f, err := g.disk.cfg.FS.Create(tmp, disk.Category)
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	if err := g.disk.cfg.FS.Rename(tmp, g.saltFile()); err != nil {
		return err
	}
	return disk.SyncDir(g.disk.cfg.FS, g.cfg.Replica.Path())
}

func (g *Group) readSalts() ([]byte, error) {
	f, err := g.disk.cfg.FS.Open(g.saltFile())
	if err != nil {
		return nil, err
	}
	b, err := io.ReadAll(f)
	return b, errors.Join(err, f.Close())
}

// recallSalts learns what keepSalts wrote. Without the file the journal's records may do.
func (g *Group) recallSalts() error {
	if g.cfg.Keys == nil {
		return nil
	}
	b, err := g.readSalts()
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	body := len(b) - 4
	if body < len(saltMagic) || string(b[:len(saltMagic)]) != saltMagic || (body-len(saltMagic))%saltBytes != 0 ||
		crc32.Checksum(b[:body], castagnoli) != binary.LittleEndian.Uint32(b[body:]) {
		return fmt.Errorf("%w: %s: %d bytes are no salts", store.ErrDamaged, g.saltFile(), len(b))
	}
	for b = b[len(saltMagic):body]; len(b) > 0; b = b[saltBytes:] {
		if err := g.cfg.Keys.Learn(record.Incarnation(binary.LittleEndian.Uint32(b)), b[4:saltBytes]); err != nil {
			return err
		}
	}
	return nil
}
