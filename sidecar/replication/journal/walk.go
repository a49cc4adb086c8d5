package journal

import (
	"bytes"
	"fmt"
	"hash/crc32"
	"slices"
	"strings"
)

// walk reads a journal that nobody writes to. It changes nothing.
type walk struct {
	o       *Options
	r       reader         // of one file at a time
	files   []*segmentFile // ascending, without gap
	free    []string       // *.free files of the right size
	useless []string       // *.tmp and *.free files of the wrong size

	frames  int
	end     LSN    // of the log: the end of the last frame that counts
	stopped string // why the walk ended there
	witness LSN    // the highest synced end that a frame or a header which verifies names
	stray   int    // frames behind end that verify and do not count
	placed  []Frame
	cut     LSN // a frame that verifies, and whose content in the arena does not; 0: none
}

// walkLog lists the files and visits the frames that count.
func walkLog(o *Options, visit func(Frame) error) (*walk, error) {
	for cut, witness := LSN(0), LSN(0); ; {
		w, err := list(o)
		if err != nil {
			return nil, err
		}
		w.cut, w.witness = cut, witness
		if err := w.run(visit); err != nil || o.Arena == nil {
			return w, err
		}
		at, err := w.unplaced()
		if err != nil || at == 0 {
			return w, err
		}
		o.Arena.Again()
		cut, witness = at, w.witness
	}
}

// unplaced returns the first frame that no witness covers and whose content in the arena is not what was written; 0 if there is none.
func (w *walk) unplaced() (LSN, error) {
	for _, f := range w.young() {
		p, err := DecodePlaced(f.Body)
		if err != nil {
			return 0, err
		}
		if good, err := w.o.Arena.Verify(f.Group, f.Replica, p.Placed); err != nil || !good {
			return f.LSN, err
		}
	}
	return 0, nil
}

// young are the KindPlaced frames above the highest witness.
func (w *walk) young() []Frame {
	for i, f := range w.placed {
		if f.LSN >= w.witness {
			return w.placed[i:]
		}
	}
	return nil
}

// segmentFile is a *.seg file as found.
type segmentFile struct {
	seq    uint64
	name   string
	whole  bool // of the right size
	blank  bool // nothing but zeros in its first page
	head   segmentHeader
	headOK bool // else head is the copy at the end of the file, if copyOK
	copyOK bool
	frames int // that count
}

// known reports whether the generation of the segment's frames is known.
func (s *segmentFile) known() bool { return s.headOK || s.copyOK }

// list reads the directory and the headers of all segments.
func list(o *Options) (*walk, error) {
	names, err := o.FS.List(o.Dir)
	if err != nil {
		return nil, fmt.Errorf("journal: list %s: %w", o.Dir, err)
	}
	slices.Sort(names)
	w := &walk{o: o}
	for _, name := range names {
		if err := w.add(name); err != nil {
			return nil, err
		}
	}
	return w, nil
}

func (w *walk) add(name string) error {
	if strings.HasSuffix(name, tempSuffix) {
		w.useless = append(w.useless, name)
		return nil
	}
	if strings.HasSuffix(name, freeSuffix) {
		info, err := w.o.FS.Stat(w.o.path(name))
		if err != nil {
			return fmt.Errorf("journal: stat %s: %w", name, err)
		}
		if w.o.isWhole(info) {
			w.free = append(w.free, name)
		} else {
			w.useless = append(w.useless, name)
		}
		return nil
	}
	seq, ok := parseSegmentName(name)
	if !ok {
		return nil
	}
	s := &segmentFile{seq: seq, name: name}
	w.files = append(w.files, s)
	return w.readHeaders(s)
}

func (w *walk) readHeaders(s *segmentFile) error {
	if err := w.r.open(w.o, s.name, headerPageBytes); err != nil {
		return err
	}
	defer w.r.close()
	info, err := w.r.f.Stat()
	if err != nil {
		return fmt.Errorf("journal: stat %s: %w", s.name, err)
	}
	s.whole = w.o.isWhole(info)
	page, err := w.r.bytes(0, headerPageBytes)
	if err != nil {
		return err
	}
	s.blank = !slices.ContainsFunc(page, func(b byte) bool { return b != 0 })
	if s.head, s.headOK = parseSegmentHeader(page); s.headOK {
		if err := s.head.belongs(w.o, s.name); err != nil {
			return err
		}
		s.headOK = s.head.seq == s.seq
	}
	if page, err = w.r.bytes(w.o.SegmentBytes-headerPageBytes, headerPageBytes); err != nil {
		return err
	}
	tail, ok := parseSegmentHeader(page)
	s.copyOK = ok && tail.seq == s.seq && tail.belongs(w.o, s.name) == nil
	if !s.headOK && s.copyOK {
		s.head = tail
	}
	return nil
}

// run visits the frames that count, in order. Errors: *DamageError, *MismatchError, visit's, and those of reading.
func (w *walk) run(visit func(Frame) error) error {
	if len(w.files) == 0 {
		return nil
	}
	w.end = w.o.base(w.files[0].seq)
	for i, s := range w.files {
		if want := w.files[0].seq + uint64(i); s.seq != want {
			return w.missing(want)
		}
	}
	for i, s := range w.files {
		if !s.headOK {
			if i == 0 && s.seq > 1 {
				// Release has waited for this header to be synced.
				w.witness = max(w.witness, w.o.firstFrame(s.seq))
			}
			return w.stop(i, w.o.base(s.seq), "the segment's header does not verify")
		}
		if i == 0 {
			w.end = w.o.firstFrame(s.seq)
		}
		w.witness = max(w.witness, s.head.syncedEnd)
		limit, followed := w.limit(i)
		if limit < w.o.firstFrame(s.seq) || limit > w.o.frameLimit(s.seq) {
			// It verifies, so it is what was written: nothing can be said about the log below it.
			return w.damage(i+1, w.o.base(s.seq+1), "the header's prevEnd is outside of the segment before it")
		}
		at, reason, err := w.segment(s, limit, visit)
		if err != nil {
			return err
		}
		if at < limit || !followed {
			return w.stop(i, at, reason)
		}
	}
	return nil
}

// limit returns the end of the frames of segment i that may count, and whether a next segment says so.
func (w *walk) limit(i int) (LSN, bool) {
	if i+1 < len(w.files) && w.files[i+1].known() {
		return w.files[i+1].head.prevEnd, true
	}
	return w.o.frameLimit(w.files[i].seq), i+1 < len(w.files)
}

// segment visits a segment's frames and returns the first position below limit that has none, or limit.
func (w *walk) segment(s *segmentFile, limit LSN, visit func(Frame) error) (LSN, string, error) {
	if err := w.r.open(w.o, s.name, windowBytes); err != nil {
		return 0, "", err
	}
	defer w.r.close()
	at := w.o.firstFrame(s.seq)
	for at < limit {
		frame, h, reason, err := w.frame(s, at, limit)
		if err != nil || reason != "" {
			return at, reason, err
		}
		if err := h.supported(s.name); err != nil {
			return at, "", err
		}
		w.witness = max(w.witness, frame.SyncedEnd)
		if err := visit(frame); err != nil {
			return at, "", err
		}
		if frame.Kind == KindPlaced && w.o.Arena != nil {
			kept := frame
			kept.Body = bytes.Clone(frame.Body)
			w.placed = append(w.placed, kept)
		}
		s.frames++
		w.frames++
		at = frame.End
		w.end = at
	}
	return at, "the segment is full", nil
}

// frame reads the frame at the given position of the open segment. A reason says why there is none; an error is one of reading.
func (w *walk) frame(s *segmentFile, at, limit LSN) (Frame, frameHeader, string, error) {
	if at == w.cut {
		return Frame{}, frameHeader{}, "what the frame names in the arena is not what was written", nil
	}
	off := int64(at - w.o.base(s.seq))
	b, err := w.r.bytes(off, frameHeaderBytes)
	if err != nil {
		return Frame{}, frameHeader{}, "", err
	}
	h, ok := parseFrameHeader(b)
	if !ok {
		return Frame{}, h, "no frame starts here", nil
	}
	if !verifyFrameHeader(b, s.head.generation, at) {
		return Frame{}, h, "the frame's header does not verify", nil
	}
	end := at + LSN(frameBytes(int(h.bodyBytes)))
	if h.bodyBytes > MaxBodyBytes || end > limit {
		return Frame{}, h, "the frame is longer than its place", nil
	}
	if b, err = w.r.bytes(off, frameHeaderBytes+int(h.bodyBytes)); err != nil {
		return Frame{}, h, "", err
	}
	if len(b) < frameHeaderBytes+int(h.bodyBytes) {
		return Frame{}, h, "the file ends within the frame", nil
	}
	body := b[frameHeaderBytes:]
	if crc32.Update(bodySeed(s.head.generation, at), castagnoli, body) != h.bodyCRC {
		return Frame{}, h, "the frame's body does not verify", nil
	}
	return Frame{
		LSN: at, End: end, Kind: h.kind, Group: h.group, Replica: h.replica, SyncedEnd: h.syncedEnd, Body: body,
	}, h, "", nil
}

// supported returns a *MismatchError for a frame that verifies, but that this version does not understand.
func (h frameHeader) supported(file string) error {
	mismatch := func(what string, found, expected any) error {
		return &MismatchError{
			File: file, What: what, Found: fmt.Sprint(found), Expected: fmt.Sprint(expected),
			Fix: "it was written by a newer version of Remora; start that version, or a newer one",
		}
	}
	switch {
	case h.version != frameVersion:
		return mismatch("frame version", h.version, frameVersion)
	case !h.kind.known():
		return mismatch("frame kind", h.kind, "payload, binding, hardstate, placed or entry")
	case h.flags != 0:
		return mismatch("frame flags", h.flags, 0)
	case h.reserved:
		return mismatch("a reserved field of a frame", "set", "zero")
	}
	return nil
}
