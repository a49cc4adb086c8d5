// Package diskdir is what is on a disk: directories of a tenant with one journal each, replicas in them, and the superblocks that
// say what is what (FORMAT.md). It promises that a directory has one user at a time, that a replica that CreateReplica returned
// survives a power cut, and that a directory of another tenant, volume or version is refused and left as it is.
package diskdir

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"path/filepath"

	"github.com/remora-storage/remora/disk"
)

// A superblock is kept twice, one copy a page, written in turn: a torn write costs the newer copy and leaves the older.
const (
	copySize     = 4096
	superHeader  = 32
	superVersion = 1
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// NotOursError: a superblock is missing, damaged, or of something else.
type NotOursError struct {
	Path   string
	Reason string
	Sound  bool // nothing is damaged: it is another tenant's, or another version's
}

var errVersion = errors.New("use the version that wrote it, or a newer one")

func (e *NotOursError) Error() string {
	return fmt.Sprintf("%s: %s", e.Path, e.Reason)
}

// superblock is an open superblock file.
type superblock struct {
	file       disk.File
	path       string
	magic      [8]byte
	generation uint64
	read       []byte // the copy that openSuper took
}

func encodeSuper(magic [8]byte, generation uint64, v any) ([]byte, error) {
	body, err := json.Marshal(v)
	if err != nil {
		return nil, err
	}
	if len(body) > copySize-superHeader {
		return nil, fmt.Errorf("superblock of %d bytes, at most %d", len(body), copySize-superHeader)
	}
	b := make([]byte, copySize)
	copy(b, magic[:])
	le := binary.LittleEndian
	le.PutUint16(b[8:], superVersion)
	le.PutUint64(b[12:], generation)
	le.PutUint32(b[20:], uint32(len(body)))
	copy(b[superHeader:], body)
	le.PutUint32(b[28:], superSum(b[:superHeader+len(body)]))
	return b, nil
}

// decodeSuper reads one copy.
func decodeSuper(magic [8]byte, b []byte) (generation uint64, body []byte, err error) {
	le := binary.LittleEndian
	if len(b) < copySize || [8]byte(b[:8]) != magic {
		return 0, nil, errors.New("no superblock")
	}
	n := int(le.Uint32(b[20:]))
	if n > copySize-superHeader || superSum(b[:superHeader+n]) != le.Uint32(b[28:]) {
		return 0, nil, errors.New("superblock is damaged")
	}
	if v := le.Uint16(b[8:]); v != superVersion {
		return 0, nil, fmt.Errorf("superblock has version %d, this program reads %d: %w", v, superVersion, errVersion)
	}
	return le.Uint64(b[12:]), b[superHeader : superHeader+n], nil
}

// superSum is the CRC32C of a superblock without its checksum field.
func superSum(b []byte) uint32 {
	return crc32.Update(crc32.Checksum(b[:28], castagnoli), castagnoli, b[superHeader:])
}

// createSuper makes a superblock file, durable with its name when it returns.
func createSuper(fs disk.FS, dir string, magic [8]byte, v any) (*superblock, error) {
	s := &superblock{path: filepath.Join(dir, "superblock"), magic: magic}
	var err error
	if s.file, err = fs.OpenReadWrite(s.path, disk.Category); err != nil {
		return nil, err
	}
	for range 2 {
		if err = s.save(v); err != nil {
			return nil, errors.Join(err, s.close())
		}
	}
	if err = disk.SyncDir(fs, dir); err != nil {
		return nil, errors.Join(err, s.close())
	}
	return s, nil
}

// openSuper reads the newer good copy into v.
func openSuper(fs disk.FS, dir string, magic [8]byte, v any) (*superblock, error) {
	s := &superblock{path: filepath.Join(dir, "superblock"), magic: magic}
	if _, err := fs.Stat(s.path); err != nil {
		return nil, &NotOursError{dir, "has no superblock", false}
	}
	var err error
	if s.file, err = fs.OpenReadWrite(s.path, disk.Category); err != nil {
		return nil, err
	}
	b := make([]byte, 2*copySize)
	if _, err := s.file.ReadAt(b, 0); err != nil && !errors.Is(err, io.EOF) {
		return nil, errors.Join(fmt.Errorf("read %s: %w", s.path, err), s.close())
	}
	var best []byte
	var reason error
	sound := false
	for i := range 2 {
		g, body, err := decodeSuper(magic, b[i*copySize:(i+1)*copySize])
		if err != nil {
			reason, sound = err, sound || errors.Is(err, errVersion)
		} else if best == nil || g > s.generation {
			s.generation, best, s.read = g, body, b[i*copySize:(i+1)*copySize]
		}
	}
	if best == nil {
		return nil, errors.Join(&NotOursError{s.path, reason.Error(), sound}, s.close())
	}
	if err := json.Unmarshal(best, v); err != nil {
		return nil, errors.Join(&NotOursError{s.path, err.Error(), false}, s.close())
	}
	return s, nil
}

// save writes v over the older copy and syncs it.
func (s *superblock) save(v any) error {
	g := s.generation + 1
	b, err := encodeSuper(s.magic, g, v)
	if err != nil {
		return err
	}
	if _, err := s.file.WriteAt(b, int64(g%2)*copySize); err != nil {
		return fmt.Errorf("write %s: %w", s.path, err)
	}
	if err := s.file.SyncData(); err != nil {
		return fmt.Errorf("sync %s: %w", s.path, err)
	}
	s.generation = g
	return nil
}

// harden makes durable what openSuper has read: it writes it again, in its place, and syncs. To sync alone is not enough: if the sync of who wrote
// it failed, the system takes the page for clean, shows it to every reader, and loses it with the power.
func (s *superblock) harden(fs disk.FS) error {
	if _, err := s.file.WriteAt(s.read, int64(s.generation%2)*copySize); err != nil {
		return fmt.Errorf("write %s: %w", s.path, err)
	}
	if err := s.file.SyncData(); err != nil {
		return fmt.Errorf("sync %s: %w", s.path, err)
	}
	return disk.SyncDir(fs, filepath.Dir(s.path))
}

func (s *superblock) close() error { return s.file.Close() }
