package diskdir

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path/filepath"

	"github.com/remora-storage/remora/cachefs/store"
	"github.com/remora-storage/remora/disk"
)

// SuperKind is whose superblock a file is.
type SuperKind int

// Kinds of superblocks.
const (
	NoSuper      SuperKind = iota // neither copy has a magic
	DiskSuper                     // of a disk directory
	ReplicaSuper                  // of a replica
)

// SuperCopy is one of the two copies of a superblock, as found.
type SuperCopy struct {
	Offset     int64           `json:"offset"` // in the file
	Generation uint64          `json:"generation"`
	Body       json.RawMessage `json:"body,omitempty"`
	Blank      bool            `json:"blank"` // nothing but zeros, or behind the end of the file
	Err        error           `json:"-"`     // why it does not count
}

// Super is a superblock as found, for programs that look at a directory and do not use it.
type Super struct {
	Kind   SuperKind
	Copies [2]SuperCopy
}

// InspectSuper reads the superblock of a directory and changes nothing. The error is one of reading.
func InspectSuper(fs disk.FS, dir string) (Super, error) {
	f, err := fs.Open(filepath.Join(dir, "superblock"))
	if err != nil {
		return Super{}, err
	}
	b := make([]byte, 2*copySize)
	_, err = f.ReadAt(b, 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return Super{}, errors.Join(fmt.Errorf("read superblock of %s: %w", dir, err), f.Close())
	}
	return inspectSuper(b), f.Close()
}

// inspectSuper reads both copies.
func inspectSuper(b []byte) Super {
	s := Super{}
	for i := range 2 {
		switch [8]byte(b[i*copySize:]) {
		case diskMagic:
			s.Kind = DiskSuper
		case replicaMagic:
			s.Kind = ReplicaSuper
		}
	}
	magic := diskMagic
	if s.Kind == ReplicaSuper {
		magic = replicaMagic
	}
	for i := range s.Copies {
		page := b[i*copySize : (i+1)*copySize]
		c := SuperCopy{Offset: int64(i) * copySize, Blank: len(bytes.Trim(page, "\x00")) == 0}
		c.Generation, c.Body, c.Err = decodeSuper(magic, page)
		s.Copies[i] = c
	}
	return s
}

// newest is the copy that counts.
func (s *Super) newest() (*SuperCopy, error) {
	var best *SuperCopy
	for i := range s.Copies {
		if c := &s.Copies[i]; c.Err == nil && (best == nil || c.Generation > best.Generation) {
			best = c
		}
	}
	if best == nil {
		return nil, s.Copies[0].Err
	}
	return best, nil
}

// DiskInfo is what the superblock of a disk directory says.
type DiskInfo = diskSuper

// Disk reads the copy that counts as a disk directory's.
func (s *Super) Disk() (DiskInfo, error) {
	var info DiskInfo
	return info, s.read(DiskSuper, &info)
}

// ReplicaState is what the superblock of a replica says.
type ReplicaState struct {
	ReplicaInfo
	Checkpoint  store.Checkpoint
	JournalFrom uint64
	GroupState  GroupState
}

// Replica reads the copy that counts as a replica's.
func (s *Super) Replica() (ReplicaState, error) {
	r := Replica{}
	err := s.read(ReplicaSuper, &r.super)
	return ReplicaState{r.Info(), r.Checkpoint(), r.JournalFrom(), r.GroupState()}, err
}

func (s *Super) read(kind SuperKind, v any) error {
	c, err := s.newest()
	if err != nil {
		return err
	}
	if s.Kind != kind {
		return errors.New("superblock is of something else")
	}
	return json.Unmarshal(c.Body, v)
}

// Identity is the disk ID as the journal has it.
func (d *diskSuper) Identity() ([16]byte, error) {
	b, err := hex.DecodeString(d.DiskID)
	if err != nil || len(b) != 16 {
		return [16]byte{}, fmt.Errorf("disk ID %q: want 32 hexadecimal digits", d.DiskID)
	}
	return [16]byte(b), nil
}
