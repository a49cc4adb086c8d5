package replication

import (
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
	"github.com/remora-storage/remora/disk"
)

// While the store of a replica is being replaced, the salts that open the records of its journal are nowhere else: they are kept in a file
// (diskdir/FORMAT.md), or the replica could not start again in the middle.

const (
	saltMagic = "RMRSALT1"
	saltBytes = 4 + seal.SaltSize
)

func (g *Group) saltFile() string { return filepath.Join(g.cfg.Replica.Path(), "salts") }

// keepSalts writes the salts that the store has, durably.
func (g *Group) keepSalts() error {
	s := g.Store()
	if s == nil || g.cfg.Keys == nil {
		return nil
	}
	b := []byte(saltMagic)
	err := s.Scan(meta.SaltKey(0), append(meta.SaltKey(math.MaxUint32), 0), func(k, v []byte) error {
		if len(k) == 5 && len(v) == 8+seal.SaltSize {
			b = binary.LittleEndian.AppendUint32(b, binary.BigEndian.Uint32(k[1:]))
			b = append(b, v[8:]...)
		}
		return nil
	})
	if err != nil {
		return err
	}
	b = binary.LittleEndian.AppendUint32(b, crc32.Checksum(b, castagnoli))
	f, err := g.disk.cfg.FS.Create(g.saltFile(), disk.Category)
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
	return disk.SyncDir(g.disk.cfg.FS, g.cfg.Replica.Path())
}

// recallSalts learns what keepSalts wrote. Without the file the journal's records may do.
func (g *Group) recallSalts() error {
	if g.cfg.Keys == nil {
		return nil
	}
	f, err := g.disk.cfg.FS.Open(g.saltFile())
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	b, err := io.ReadAll(f)
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	body := len(b) - 4
	if body < len(saltMagic) || string(b[:len(saltMagic)]) != saltMagic || (body-len(saltMagic))%saltBytes != 0 ||
		crc32.Checksum(b[:body], castagnoli) != binary.LittleEndian.Uint32(b[body:]) {
		return fmt.Errorf("%s: %d bytes are no salts", g.saltFile(), len(b))
	}
	for b = b[len(saltMagic):body]; len(b) > 0; b = b[saltBytes:] {
		if err := g.cfg.Keys.Learn(record.Incarnation(binary.LittleEndian.Uint32(b)), b[4:saltBytes]); err != nil {
			return err
		}
	}
	return nil
}
