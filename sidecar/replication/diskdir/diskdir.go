package diskdir

import (
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/remora-storage/remora/cachefs/record"
	"github.com/remora-storage/remora/cachefs/store"
	"github.com/remora-storage/remora/disk"
)

var (
	diskMagic    = [8]byte{'R', 'M', 'R', 'D', 'I', 'S', 'K', '1'}
	replicaMagic = [8]byte{'R', 'M', 'R', 'R', 'E', 'P', 'L', '1'}
)

// ID is a random 64-bit name, never 0: of a replica, or of a volume's group.
type ID uint64

// String is 16 hexadecimal digits.
func (id ID) String() string { return fmt.Sprintf("%016x", uint64(id)) }

// ParseID reads what String wrote.
func ParseID(s string) (ID, error) {
	v, err := strconv.ParseUint(s, 16, 64)
	if err != nil || len(s) != 16 || v == 0 {
		return 0, fmt.Errorf("ID %q: want 16 hexadecimal digits, not all 0", s)
	}
	return ID(v), nil
}

// MarshalText writes String.
func (id ID) MarshalText() ([]byte, error) { return []byte(id.String()), nil }

// UnmarshalText reads String.
func (id *ID) UnmarshalText(b []byte) (err error) {
	*id, err = ParseID(string(b))
	return err
}

// NewID draws an ID from a source of randomness.
func NewID(random io.Reader) (ID, error) {
	for {
		var b [8]byte
		if _, err := io.ReadFull(random, b[:]); err != nil {
			return 0, fmt.Errorf("draw an ID: %w", err)
		}
		if b != [8]byte{} {
			return ParseID(hex.EncodeToString(b[:]))
		}
	}
}

// diskSuper is the superblock of a disk directory.
type diskSuper struct {
	DiskID       string `json:"diskID"` // 32 hexadecimal digits
	Tenant       string `json:"tenant"`
	SegmentBytes int64  `json:"segmentBytes"`
}

// Dir is an open disk directory, locked against other processes.
type Dir struct {
	fs    disk.FS
	path  string
	super diskSuper
	block *superblock
	lock  io.Closer
}

// ErrInUse: another process serves the directory.
var ErrInUse = errors.New("disk directory is served by another process")

// Open locks and opens the disk directory at path, and makes it if it is not there or empty. ErrInUse if it is served.
func Open(fs disk.FS, path, tenant string, segmentBytes int64, random io.Reader) (*Dir, error) {
	if err := fs.MkdirAll(path, 0o700); err != nil {
		return nil, fmt.Errorf("disk directory: %w", err)
	}
	lock, err := lockOf(fs, path)
	if err != nil {
		return nil, err
	}
	d := &Dir{fs: fs, path: path, lock: lock}
	if err := d.open(tenant, segmentBytes, random); err != nil {
		return nil, errors.Join(err, d.Close())
	}
	return d, nil
}

// lockOf locks a disk directory. ErrInUse names who has it, where that can be known.
func lockOf(fs disk.FS, path string) (io.Closer, error) {
	file := filepath.Join(path, "lock")
	lock, err := fs.Lock(file)
	switch {
	case err == nil:
		return lock, nil
	case errors.As(err, new(*os.PathError)): // the file cannot be opened: nobody knows whether it is locked
		return nil, fmt.Errorf("lock the disk directory: %w", err)
	case errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EACCES): // not by ourselves: HeldBy may look
		if by := disk.HeldBy(fs, file); by != "" {
			return nil, fmt.Errorf("%w: %s, by %s", ErrInUse, path, by)
		}
	}
	return nil, fmt.Errorf("%w: %s: %w", ErrInUse, path, err)
}

func (d *Dir) open(tenant string, segmentBytes int64, random io.Reader) error {
	names, err := d.fs.List(d.path)
	if err != nil {
		return err
	}
	if len(names) > 1 && !d.unborn(names) { // more than the lock
		if d.block, err = openSuper(d.fs, d.path, diskMagic, &d.super); err != nil {
			return err
		}
		if d.super.Tenant != tenant {
			return &NotOursError{d.path, fmt.Sprintf("belongs to tenant %q, not %q", d.super.Tenant, tenant), true}
		}
		// Who made it may have died before all of it was durable, and what is durable in it must not be lost with it.
		return errors.Join(d.block.harden(d.fs), disk.SyncDir(d.fs, filepath.Dir(d.path)))
	}
	id := make([]byte, 16)
	if _, err := io.ReadFull(random, id); err != nil {
		return fmt.Errorf("draw a disk ID: %w", err)
	}
	d.super = diskSuper{DiskID: hex.EncodeToString(id), Tenant: tenant, SegmentBytes: segmentBytes}
	if d.block, err = createSuper(d.fs, d.path, diskMagic, d.super); err != nil {
		return fmt.Errorf("make disk directory: %w", err)
	}
	return disk.SyncDir(d.fs, filepath.Dir(d.path))
}

// unborn tells a directory whose maker died before its superblock was written.
func (d *Dir) unborn(names []string) bool {
	for _, n := range names {
		if n != "lock" && n != "superblock" {
			return false
		}
	}
	s, err := InspectSuper(d.fs, d.path)
	return err == nil && s.Copies[0].Blank && s.Copies[1].Blank
}

// Path is where the directory is.
func (d *Dir) Path() string { return d.path }

// JournalDir is where the journal is.
func (d *Dir) JournalDir() string { return filepath.Join(d.path, "journal") }

// SegmentBytes is the length of the journal's segments.
func (d *Dir) SegmentBytes() int64 { return d.super.SegmentBytes }

// DiskID names the directory in its journal.
func (d *Dir) DiskID() (id [16]byte) {
	b, err := hex.DecodeString(d.super.DiskID)
	if err == nil {
		copy(id[:], b)
	}
	return id
}

// Close gives the directory back.
func (d *Dir) Close() error {
	var err error
	if d.block != nil {
		err = d.block.close()
	}
	return errors.Join(err, d.lock.Close())
}

// ReplicaInfo is what a replica is a copy of. It never changes.
type ReplicaInfo struct {
	Replica   ID     `json:"replica"`
	Group     ID     `json:"group"`
	VolumeUID string `json:"volumeUID"`
	Volume    string `json:"volume"`
	Witness   bool   `json:"witness,omitempty"` // of a witness: there is a log, and nothing else
	DiskID    string `json:"diskID"`            // a replica that was copied to another directory is not one
}

type replicaSuper struct {
	ReplicaInfo
	Checkpoint checkpointJSON `json:"checkpoint"`
}

type checkpointJSON struct {
	Index       uint64 `json:"index"`
	Epoch       uint64 `json:"epoch"`
	Incarnation uint32 `json:"incarnation"`
	Seq         uint64 `json:"seq"`
	JournalFrom uint64 `json:"journalFrom"`
	// Of a replica in a group of several; see GroupState.
	Term       uint64      `json:"term,omitempty"`
	Members    []byte      `json:"members,omitzero"` // none is not the same as never
	Terms      [][2]uint64 `json:"terms,omitempty"`
	Installing bool        `json:"installing,omitempty"`
}

// GroupState is what a replica of a group of several keeps with its checkpoint.
type GroupState struct {
	Term    uint64 // of the checkpoint's index
	Members []byte // of the group there, as the consensus package encodes them; nil: the replica has never been in a group of several
	// Installing: the store is being replaced by a peer's. What it holds is of no use until that is done; blobs may be.
	Installing bool
	// Terms are those of the log up to the checkpoint's index: from which index on, and which.
	Terms [][2]uint64
}

// Replica is an open replica directory.
type Replica struct {
	path  string
	super replicaSuper
	block *superblock
}

// ReplicaPath is the directory of a replica.
func (d *Dir) ReplicaPath(id ID) string { return filepath.Join(d.path, "replicas", id.String()) }

// ArenaPath is the arena of a replica in a disk directory.
func ArenaPath(dir string, id ID) string { return filepath.Join(dir, "replicas", id.String(), "arena") }

// Replicas lists what the directory holds.
func (d *Dir) Replicas() ([]ReplicaInfo, error) {
	parent := filepath.Join(d.path, "replicas")
	if _, err := d.fs.Stat(parent); err != nil {
		return nil, nil //nolint:nilerr // no replica was made yet
	}
	names, err := d.fs.List(parent)
	if err != nil {
		return nil, err
	}
	var infos []ReplicaInfo
	for _, n := range names {
		id, err := ParseID(n)
		if err != nil {
			continue
		}
		r, err := d.readReplica(id)
		if err != nil {
			continue // a crash while it was made, or damage: whoever needs it by its ID gets the error
		}
		infos = append(infos, r.super.ReplicaInfo)
		if err := r.Close(); err != nil {
			return nil, err
		}
	}
	return infos, nil
}

// CheckJournal refuses a directory whose journal is missing although replicas need it: whoever opens it would make an empty one.
func (d *Dir) CheckJournal() error {
	names, err := d.fs.List(d.JournalDir())
	if err == nil && slices.ContainsFunc(names, func(n string) bool { return filepath.Ext(n) == ".seg" }) {
		return nil
	}
	infos, err := d.Replicas()
	if err != nil {
		return err
	}
	for _, info := range infos {
		r, err := d.OpenReplica(info.Replica)
		if err != nil {
			return err
		}
		from := r.JournalFrom()
		if err := r.Close(); err != nil {
			return err
		}
		if from > 0 {
			return &NotOursError{d.JournalDir(), fmt.Sprintf("replica %v needs the journal from %d on, and it is missing", info.Replica, from), false}
		}
	}
	return nil
}

// CreateReplica makes an empty replica, durable when it returns.
func (d *Dir) CreateReplica(info ReplicaInfo) (*Replica, error) {
	info.DiskID = d.super.DiskID
	path := d.ReplicaPath(info.Replica)
	if err := d.fs.MkdirAll(path, 0o700); err != nil {
		return nil, fmt.Errorf("make replica: %w", err)
	}
	r := &Replica{path: path, super: replicaSuper{ReplicaInfo: info}}
	var err error
	if r.block, err = createSuper(d.fs, path, replicaMagic, r.super); err != nil {
		return nil, fmt.Errorf("make replica: %w", err)
	}
	err = errors.Join(disk.SyncDir(d.fs, filepath.Dir(path)), disk.SyncDir(d.fs, d.path))
	if err != nil {
		return nil, errors.Join(fmt.Errorf("make replica: %w", err), r.Close())
	}
	return r, nil
}

// RemoveUnused removes a replica that CreateReplica made and whose ID nobody was told. What looks used stays all the same, with an error: what has a
// checkpoint, the state of a group, or a file but the superblock and those named.
func (d *Dir) RemoveUnused(id ID, files ...string) error {
	r, err := d.readReplica(id)
	if err != nil {
		return err
	}
	path, used := r.path, !reflect.DeepEqual(r.super.Checkpoint, checkpointJSON{})
	if err := r.Close(); err != nil {
		return err
	}
	names, err := d.fs.List(path)
	if err != nil {
		return err
	}
	for _, n := range names {
		if n != "superblock" && !slices.Contains(files, n) {
			return fmt.Errorf("replica %v: it has %s, so it was used", id, n)
		}
	}
	if used {
		return fmt.Errorf("replica %v: it has a checkpoint or a group's state, so it was used", id)
	}
	if err := d.fs.RemoveAll(path); err != nil { // a crash in between leaves a directory that Replicas passes over
		return err
	}
	return disk.SyncDir(d.fs, filepath.Dir(path))
}

// OpenReplica opens a replica by its ID. What its superblock says is durable then: who wrote it may have been killed before it was, and what
// follows relies on it.
func (d *Dir) OpenReplica(id ID) (*Replica, error) {
	r, err := d.readReplica(id)
	if err != nil {
		return nil, err
	}
	if err := errors.Join(r.block.harden(d.fs), disk.SyncDir(d.fs, filepath.Dir(r.path))); err != nil {
		return nil, errors.Join(err, r.Close())
	}
	return r, nil
}

// readReplica is OpenReplica for who only looks.
func (d *Dir) readReplica(id ID) (*Replica, error) {
	r := &Replica{path: d.ReplicaPath(id)}
	var err error
	if r.block, err = openSuper(d.fs, r.path, replicaMagic, &r.super); err != nil {
		return nil, err
	}
	if r.super.Replica != id || r.super.DiskID != d.super.DiskID {
		return nil, errors.Join(&NotOursError{r.path, fmt.Sprintf("is a copy of replica %v of disk %s: a replica cannot be copied, a new one is filled by its peers",
			r.super.Replica, r.super.DiskID), false}, r.Close())
	}
	return r, nil
}

// Path is where the replica's store is.
func (r *Replica) Path() string { return r.path }

// Info is what the replica is a copy of.
func (r *Replica) Info() ReplicaInfo { return r.super.ReplicaInfo }

// Checkpoint is the position up to which the store is durable.
func (r *Replica) Checkpoint() store.Checkpoint {
	c := r.super.Checkpoint
	return store.Checkpoint{Index: record.Index(c.Index), Acceptance: record.Acceptance{
		Epoch: record.Epoch(c.Epoch), Incarnation: record.Incarnation(c.Incarnation), Last: record.Seq(c.Seq)}}
}

// JournalFrom is the position in the journal from which on this replica needs it: what is missing behind it is lost.
func (r *Replica) JournalFrom() uint64 { return r.super.Checkpoint.JournalFrom }

// SaveCheckpoint makes a checkpoint durable, and from where on the journal is needed to go on from it.
func (r *Replica) SaveCheckpoint(c store.Checkpoint, journalFrom uint64) error {
	return r.SaveGroupCheckpoint(c, journalFrom, r.GroupState())
}

// SaveGroupCheckpoint is SaveCheckpoint for a replica in a group of several. After an error the replica is, for whoever asks, as it was: of what
// may or may not be on the disk then, that needs more of the journal.
func (r *Replica) SaveGroupCheckpoint(c store.Checkpoint, journalFrom uint64, g GroupState) error {
	super := r.super
	super.Checkpoint = checkpointJSON{uint64(c.Index), uint64(c.Acceptance.Epoch), uint32(c.Acceptance.Incarnation), uint64(c.Acceptance.Last), journalFrom,
		g.Term, g.Members, g.Terms, g.Installing}
	if err := r.block.save(super); err != nil {
		return err
	}
	r.super.Checkpoint = super.Checkpoint // and nothing else: Info is read meanwhile
	return nil
}

// GroupState is what SaveGroupCheckpoint saved.
func (r *Replica) GroupState() GroupState {
	c := r.super.Checkpoint
	return GroupState{c.Term, c.Members, c.Installing, c.Terms}
}

// Close gives the files back.
func (r *Replica) Close() error { return r.block.close() }
