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

// keepSalts writes the salts that the store has, durably, unless the file has them.
func (g *Group) keepSalts(coming ...record.Mutation) error {
	s := g.Store()
	if s == nil || g.cfg.Keys == nil {
		return nil
	}
	b, last := []byte(saltMagic), uint32(0)
	err := s.Scan(meta.SaltKey(0), append(meta.SaltKey(math.MaxUint32), 0), func(k, v []byte) error {
		if len(k) == 5 && len(v) == 8+seal.SaltSize {
			b = binary.LittleEndian.AppendUint32(b, binary.BigEndian.Uint32(k[1:]))
			b = append(b, v[8:]...)
			last = binary.BigEndian.Uint32(k[1:])
		}
		return nil
	})
	for _, m := range coming { // accepted, and perhaps not applied
		if len(m.Key) == 5 && len(m.Value) == 8+seal.SaltSize && bytes.HasPrefix(m.Key, meta.SaltKey(0)[:1]) && binary.BigEndian.Uint32(m.Key[1:]) > last {
			b = binary.LittleEndian.AppendUint32(b, binary.BigEndian.Uint32(m.Key[1:]))
			b = append(b, m.Value[8:]...)
		}
	}
	if err != nil {
		return err
	}
	b = binary.LittleEndian.AppendUint32(b, crc32.Checksum(b, castagnoli))
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
