package journal

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"sync"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// Options of a journal.
type Options struct {
	// FS must allow SyncData of a file during WriteAt of the same file: vfs.Default and vfs.MemFS do, vfs.WithDiskHealthChecks
	// panics.
	FS           vfs.FS
	Dir          string   // made if it does not exist; the caller holds the lock that keeps other processes out of it
	DiskID       [16]byte // of the disk directory; files with another one are refused
	SegmentBytes int64    // a multiple of 4096, at least 64 KiB; 0 means 16 MiB
	MaxFree      int      // segment files that Release keeps for reuse; 0 means 4, less means none
	Arena        Arena    // of the replicas that have KindPlaced frames; nil: their content is taken for good
	Rand         io.Reader
	Logger       *slog.Logger // nil discards
}

// Arena is where the content of KindPlaced frames is.
type Arena interface {
	// Verify tells whether the content is what was written.
	Verify(group, replica uint64, placed []Placement) (bool, error)
	// Harden makes content durable that verifies: whoever wrote it may have died before it could, or of a sync that failed.
	Harden(group, replica uint64, placed []Placement) error
	// Again is called when visit forgets everything, because the log turned out shorter: its frames will be visited again.
	Again()
}

func (o Options) withDefaults() (Options, error) {
	if o.SegmentBytes == 0 {
		o.SegmentBytes = 16 << 20
	}
	if o.MaxFree == 0 {
		o.MaxFree = 4
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.FS == nil || o.Dir == "" {
		return o, errors.New("journal: Options.FS and Options.Dir are required")
	}
	if o.SegmentBytes < minSegmentBytes || o.SegmentBytes%headerPageBytes != 0 || o.SegmentBytes > 1<<40 {
		return o, fmt.Errorf("journal: Options.SegmentBytes is %d: use a multiple of %d from %d to 1 TiB",
			o.SegmentBytes, headerPageBytes, minSegmentBytes)
	}
	return o, nil
}

func (o *Options) path(name string) string     { return o.FS.PathJoin(o.Dir, name) }
func (o *Options) base(seq uint64) LSN         { return LSN(seq) * LSN(o.SegmentBytes) }
func (o *Options) firstFrame(seq uint64) LSN   { return o.base(seq) + headerPageBytes }
func (o *Options) frameLimit(seq uint64) LSN   { return o.base(seq+1) - headerPageBytes }
func (o *Options) isWhole(f vfs.FileInfo) bool { return f.Size() == o.SegmentBytes }

// Journal is the log of a disk directory.
//
// # One frame
//
//  1. Append takes j.mu, gives the frame the next LSN, and writes it into the current segment's page cache. Both checksums are
//     seeded with the segment's generation (random, new at each activation) and the frame's LSN: what an earlier life left in
//     a recycled file, and what a disk wrote to the wrong place, never verifies.
//  2. Sync remembers the end of the log, syncs every segment that has unsynced frames, *in order*, without j.mu, and then
//     publishes that end as synced. So "synced up to L" always means every byte of the log below L, headers included, and
//     what fails is failed for good: nothing is published, and no sync is tried again.
//  3. Each later frame, and each later segment header, carries the synced end that was published when it was written. It is
//     the witness that a byte below it must verify.
//
// # One segment
//
//  4. Prepare makes the file of the next segment: zero-filled under a temporary name, or a free file whose two header pages
//     are zeroed; synced; renamed to its name; directory synced. From here on the log needs no directory operation: a file
//     with zero headers is a segment that was never activated.
//  5. When a frame does not fit, Append activates that file: it writes the header (generation, end of the log, synced end)
//     at both ends of the file, and goes on there. The header is not synced by itself: it is the first thing in the segment,
//     and rule 2 holds for it as for a frame. If it is lost, all frames of the segment are lost, and none of them was synced.
//  6. Release renames segments that nobody needs to *.free, or removes them, lowest first, with a directory sync after each:
//     what is there has no gap, whatever a crash leaves. It passes no segment that has unsynced frames, and the segment that is
//     the lowest then has a synced header: the lowest header (of any but segment 1) must verify.
//
// # Recovery
//
//  7. Open syncs the directory first: the names that it goes by stay. The log is walked from the lowest segment. A segment's
//     frames count up to its first bad one, or up to the next header's prevEnd if that is lower (then the rest is the torn tail
//     of an earlier life, known as such when that header was written).
//  8. Let p be the first bad position: a frame, or the header of a segment, or a KindPlaced frame above the highest witness whose
//     content in the arena does not verify: content is synced before the frame may count as synced (SyncTo), and nobody writes
//     over it before the frame has a durable witness (Witness). Everything behind it is read for frames and headers
//     that verify. If one names a synced end above p, a byte that was synced has changed: damage, and Open refuses. Otherwise,
//     by rules 2 and 3, nothing at or above p was ever known to be synced: the log ends at p. That includes frames of p's
//     segment behind p, and whole later segments: their pages reached the disk before those at p, nobody was told so.
//  9. What counts is made durable before anyone may act on it: the part above the highest witness is written again (a process
//     that died of a failed fsync leaves pages that the kernel calls clean and the disk has not got), and all is synced.
//  10. Segments that do not count are given back, highest first, with a directory sync after each. None of them held a witness
//     against p, so a crash in between leads to the same p again.
//  11. The log goes on in a new segment whose prevEnd is p, never behind p in the same one: a frame of the torn tail that
//     verifies might directly follow what would be written there, and come back to life. Its number is the one after the last
//     segment that counts (the lowest counts without frames, for its header); a file of that name is activated again in place,
//     after the copy of its header and then its header were zeroed and synced. Its generation is new, so frames of its earlier
//     life are dead from the moment the new header is written; and until then they are behind p. Open syncs the new header
//     before it returns, so from then on p itself has a witness.
//
// What remains: damage inside the last batch, which no later frame bears witness for, looks like a torn tail; and if the files
// of the last segments vanish as a whole, nothing in the journal can know. The replica's superblock and store may.
type Journal struct {
	o     Options
	heads sync.Pool // of *[headBytes]byte: the fixed parts of bodies

	maint sync.Mutex // held by Prepare and Release, over disk operations: they are not on the write path
	free  []string   // names of free files

	syncing sync.Mutex // held by Sync over fdatasync: who waits for it most often finds its work done
	spans   []span     // Sync's scratch

	mu     sync.Mutex // held over writes to the page cache, because the order of LSNs is the order of writes
	failed *FailedError
	closed bool
	segs   []*segment // all of the log, ascending
	cur    *segment   // the last of segs; nil when Open found no space for it
	ready  *segment   // prepared to come next
	next   uint64     // its number
	dirty  []*segment // have a file, and perhaps unsynced frames; ascending, cur is last
	end    LSN
	synced LSN
	buf    []byte // Append's scratch

	witness         LSN    // a durable frame names it
	naming, nameNow naming // the oldest that is not durable, and the newest
}

// naming is a frame that names a synced end, and where it ends itself.
type naming struct{ synced, end LSN }

// Synced returns the LSN below which everything is durable.
func (j *Journal) Synced() LSN {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.synced
}

// Witness returns the highest synced end that a durable frame names: recovery knows that everything below it was synced.
func (j *Journal) Witness() LSN {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.witness
}

// End returns the LSN at which the next frame will start, if it fits into the segment.
func (j *Journal) End() LSN {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.end
}

// Start returns where the log starts: every frame that was ever appended at or above it, and counts, is there.
func (j *Journal) Start() LSN {
	j.mu.Lock()
	defer j.mu.Unlock()
	if len(j.segs) == 0 {
		return j.end
	}
	if s := j.segs[0]; s.prevEnd > 0 {
		return s.prevEnd
	}
	return j.segs[0].base + headerPageBytes // the first segment of all
}

// Close syncs the log and closes its files. It returns Sync's error; the files are closed in any case. Closing again is nil.
func (j *Journal) Close() error {
	_, err := j.Sync()
	if errors.Is(err, ErrClosed) {
		return nil
	}
	j.maint.Lock()
	defer j.maint.Unlock()
	j.syncing.Lock()
	defer j.syncing.Unlock()
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.closed {
		return err
	}
	j.closed = true
	if j.ready != nil {
		j.dirty = append(j.dirty, j.ready)
	}
	for _, s := range j.dirty {
		if cerr := s.file.Close(); cerr != nil && err == nil {
			err = fmt.Errorf("journal: close %s: %w", s.name, cerr)
		}
	}
	j.dirty = nil
	return err
}

// usable returns why the journal takes no more calls. j.mu is held.
func (j *Journal) usable() error {
	if j.failed != nil {
		return j.failed
	}
	if j.closed {
		return ErrClosed
	}
	return nil
}

func (j *Journal) fail(op, file string, err error) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.failLocked(op, file, err)
}

// failLocked stops the journal and returns the first failure. j.mu is held.
func (j *Journal) failLocked(op, file string, err error) error {
	if j.failed == nil {
		j.failed = &FailedError{Op: op, File: file, Err: err}
		j.o.Logger.Error("journal failed", "op", op, "file", file, "err", err)
	}
	return j.failed
}
