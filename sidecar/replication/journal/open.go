package journal

import (
	"errors"
	"fmt"
	"io"
	"sync"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// Open recovers the journal in o.Dir, or starts one if there is none, and visits the frames of the log in order. What was
// visited is durable when Open returns, not before: visit must not tell anybody. Errors: *DamageError, *MismatchError, visit's
// own, and those of the disk. After an error nothing is open; frames may have been visited, and must be forgotten.
func Open(o Options, visit func(Frame) error) (*Journal, error) {
	o, err := o.withDefaults()
	if err != nil {
		return nil, err
	}
	if o.Rand == nil {
		return nil, errors.New("journal: Options.Rand is required")
	}
	if err := makeDir(o.FS, o.Dir); err != nil {
		return nil, fmt.Errorf("journal: make %s: %w", o.Dir, err)
	}
	// A process that died may have renamed files without syncing the directory. What is seen here must stay so: synced frames
	// may come to lie in any of these files.
	if err := syncDir(o.FS, o.Dir); err != nil {
		return nil, fmt.Errorf("journal: sync directory %s: %w", o.Dir, err)
	}
	w, err := walkLog(&o, visit)
	if err != nil {
		return nil, err
	}
	j := &Journal{o: o, heads: sync.Pool{New: func() any { return new([headBytes]byte) }}}
	j.buf = make([]byte, 0, copyBytes+frameHeaderBytes)
	if err := j.resume(w); err != nil {
		j.abandon()
		return nil, err
	}
	o.Logger.Info("journal open", "segments", len(j.segs), "frames", w.frames, "end", uint64(w.end),
		"dropped_frames", w.stray)
	return j, nil
}

// resume makes what w found durable, gives back what does not count, and starts a new segment.
func (j *Journal) resume(w *walk) error {
	j.end, j.synced, j.next = w.end, w.end, 1
	keep := w.counted()
	if err := w.hardenPlaced(); err != nil {
		return err
	}
	for _, s := range w.files[:keep] {
		if err := w.harden(s); err != nil {
			return fmt.Errorf("journal: make %s durable: %w", s.name, err)
		}
		j.segs = append(j.segs, &segment{
			seq: s.seq, name: s.name, base: j.o.base(s.seq), end: w.endOf(s), prevEnd: s.head.prevEnd, generation: s.head.generation,
		})
	}
	if err := j.collect(w); err != nil {
		return err
	}
	if err := j.discard(w.files[keep:]); err != nil {
		return err
	}
	if len(w.files) > 0 {
		j.next = w.files[0].seq + uint64(keep)
	}
	if err := j.begin(); err != nil {
		return err
	}
	if j.cur == nil && len(w.young()) > 0 {
		return fmt.Errorf("%w: what was written last needs a new segment before it can be replayed: free %d bytes on the disk, and start again",
			ErrNoSpace, j.o.SegmentBytes)
	}
	return nil
}

// counted returns how many segments have frames that count, or lie before such. The lowest one counts without frames: its
// header says where the log starts.
func (w *walk) counted() int {
	for k := len(w.files); k > 0; k-- {
		if w.files[k-1].frames > 0 || k == 1 && w.files[0].headOK {
			return k
		}
	}
	return 0
}

// endOf returns where the log of s ended.
func (w *walk) endOf(s *segmentFile) LSN {
	if i := int(s.seq - w.files[0].seq); i+1 < w.counted() {
		return w.files[i+1].head.prevEnd
	}
	return w.end
}

// harden makes a segment durable up to the end of the log. What no witness covers is written again first: if the process
// before this one died of a failed fsync, the kernel may hold pages that it calls clean and the disk does not have, and no
// fsync would find them.
func (w *walk) harden(s *segmentFile) error {
	f, err := w.o.FS.OpenReadWrite(w.o.path(s.name), vfs.WriteCategoryUnspecified)
	if err != nil {
		return err
	}
	defer f.Close()
	base := w.o.base(s.seq)
	from, to := int64(0), int64(0)
	if w.witness < w.endOf(s) {
		to = int64(w.endOf(s) - base)
	}
	if w.witness > w.o.firstFrame(s.seq) {
		from = int64(w.witness - base)
	}
	w.r.use(f, s.name, windowBytes)
	for off := from; off < to; {
		b, err := w.r.bytes(off, int(min(windowBytes, to-off)))
		if err != nil {
			return err
		}
		if len(b) == 0 {
			return io.ErrUnexpectedEOF
		}
		if _, err := f.WriteAt(b, off); err != nil {
			return err
		}
		off += int64(len(b))
	}
	return f.SyncData()
}

// hardenPlaced is harden for content in arenas.
func (w *walk) hardenPlaced() error {
	for _, f := range w.young() {
		p, err := DecodePlaced(f.Body)
		if err == nil {
			err = w.o.Arena.Harden(f.Group, f.Replica, p.Placed)
		}
		if err != nil {
			return fmt.Errorf("journal: make the content of the frame at %d durable: %w", f.LSN, err)
		}
	}
	return nil
}

// discard takes segments that do not count out of the log, highest first. The lowest keeps its name, because LSNs must not
// start again where no other segment is left, and becomes the prepared segment.
func (j *Journal) discard(files []*segmentFile) error {
	for i := len(files) - 1; i > 0; i-- {
		if err := j.retire(files[i].seq); err != nil {
			return fmt.Errorf("journal: discard %s: %w", files[i].name, err)
		}
	}
	if len(files) == 0 {
		return nil
	}
	s := files[0]
	f, err := j.o.FS.OpenReadWrite(j.o.path(s.name), vfs.WriteCategoryUnspecified)
	if err != nil {
		return fmt.Errorf("journal: %w", err)
	}
	j.ready = &segment{seq: s.seq, name: s.name, base: j.o.base(s.seq), file: f}
	if j.ready.generation, err = j.newGeneration(); err != nil {
		return err
	}
	if err := blank(f, s, j.o.SegmentBytes); err != nil {
		return fmt.Errorf("journal: blank %s: %w", s.name, err)
	}
	return nil
}

// blank makes an activated segment one that never was. The copy goes first: the header alone is still the same end of the log,
// but the copy alone would call the segment damaged, if Open had synced its header and a frame that does not count says so.
func blank(f vfs.File, s *segmentFile, segmentBytes int64) error {
	for _, off := range []int64{segmentBytes - headerPageBytes, 0} {
		if _, err := f.WriteAt(make([]byte, headerPageBytes), off); err != nil {
			return err
		}
		if err := f.Sync(); err != nil {
			return err
		}
	}
	if s.whole {
		return nil
	}
	if err := zeroFill(f, segmentBytes); err != nil {
		return err
	}
	return f.Sync()
}

// collect takes over the free files, and removes what is of no use.
func (j *Journal) collect(w *walk) error {
	for _, name := range w.free {
		if len(j.free) < j.o.MaxFree {
			j.free = append(j.free, name)
		} else {
			w.useless = append(w.useless, name)
		}
	}
	for _, name := range w.useless {
		if err := j.o.FS.Remove(j.o.path(name)); err != nil {
			return fmt.Errorf("journal: remove %s: %w", name, err)
		}
	}
	return nil
}

// begin starts the new segment. A full disk is no reason to refuse: the owner may have segments to release, and until then
// Append answers ErrNoSpace.
func (j *Journal) begin() error {
	err := j.Prepare()
	if errors.Is(err, ErrNoSpace) {
		j.o.Logger.Warn("journal has no space for a segment", "err", err)
		return nil
	}
	if err != nil {
		return err
	}
	j.mu.Lock()
	err = j.activate()
	j.mu.Unlock()
	if err != nil {
		return err
	}
	if _, err = j.Sync(); err == nil {
		j.mu.Lock()
		j.witness = j.segs[len(j.segs)-1].prevEnd // its header says so
		j.mu.Unlock()
	}
	return err
}

// abandon closes what a failed Open has opened.
func (j *Journal) abandon() {
	if j.ready != nil {
		j.ready.file.Close()
	}
	for _, s := range j.dirty {
		s.file.Close()
	}
}

// makeDir makes dir, durably in its parent: also where it is there, because the process that made it may have died before it had done that.
func makeDir(fs vfs.FS, dir string) error {
	if _, err := fs.Stat(dir); err != nil {
		if err := fs.MkdirAll(dir, 0o700); err != nil {
			return err
		}
	}
	return syncDir(fs, fs.PathDir(dir))
}
