package journal

import "fmt"

// stop ends the log at the first bad position, which is in files[i]: damage if anything behind it bears witness that it was
// synced, else the end of the log.
func (w *walk) stop(i int, at LSN, reason string) error {
	for k := i; k < len(w.files); k++ {
		from := w.o.firstFrame(w.files[k].seq)
		if k == i {
			from = max(from, at)
		}
		if err := w.search(w.files[k], from); err != nil {
			return err
		}
	}
	w.stopped = reason
	if w.witness <= at {
		return nil
	}
	if i+1 < len(w.files) && !w.files[i+1].known() && !w.files[i+1].blank {
		reason += ", and where this segment ended is not known: the header of " + w.files[i+1].name + " does not verify"
	}
	return w.damage(i, at, reason)
}

func (w *walk) damage(i int, at LSN, reason string) error {
	s := w.files[i]
	return &DamageError{
		File: s.name, Offset: int64(at - w.o.base(s.seq)), LSN: at, SyncedEnd: w.witness, Reason: reason,
	}
}

// missing reports a gap. Files go lowest first and highest first only, each for good before the next, so this is not a crash.
func (w *walk) missing(seq uint64) error {
	for _, s := range w.files {
		if err := w.search(s, w.o.firstFrame(s.seq)); err != nil {
			return err
		}
	}
	return &DamageError{
		File: segmentName(seq), LSN: w.o.base(seq), SyncedEnd: w.witness,
		Reason: fmt.Sprintf("the file is missing, and %s is there", w.files[len(w.files)-1].name),
	}
}

// search looks at every place where a frame could start, from the given position to the end of the segment, and raises
// w.witness to what the frames there say, and the header.
//
// A frame behind the end of the log may be of a dead branch, but what it says was true when it was written, and what was synced
// then is still a part of the log: recovery has never dropped it.
func (w *walk) search(s *segmentFile, from LSN) error {
	if s.known() {
		w.witness = max(w.witness, s.head.syncedEnd)
	} else if s.blank {
		// Never activated, or its activation never reached the disk: what it holds is of an earlier life.
		return nil
	}
	if err := w.r.open(w.o, s.name, windowBytes); err != nil {
		return err
	}
	defer w.r.close()
	limit := w.o.frameLimit(s.seq)
	for at := from; at < limit; {
		next, err := w.testify(s, at, limit)
		if err != nil {
			return err
		}
		at = next
	}
	return nil
}

// testify hears what is at the given position, and returns the next one to look at.
func (w *walk) testify(s *segmentFile, at, limit LSN) (LSN, error) {
	if !s.known() {
		b, err := w.r.bytes(int64(at-w.o.base(s.seq)), frameHeaderBytes)
		if err == nil {
			w.witness = max(w.witness, w.unverified(s, at, b))
		}
		return at + frameAlign, err
	}
	frame, _, reason, err := w.frame(s, at, limit)
	if err != nil || reason != "" {
		return at + frameAlign, err
	}
	w.stray++
	w.witness = max(w.witness, frame.SyncedEnd)
	return frame.End, nil
}

// unverified is for a segment that has something else than zeros where its header was, and no copy of it: its generation is
// lost, and with it every proof. What an earlier life left in the file cannot name a synced frame of this segment (at most its
// header: a segment is activated again only if none of its frames counts); so what does, and is well formed, is taken at its
// word: the segment held synced frames, and a wrong alarm is better than their loss.
func (w *walk) unverified(s *segmentFile, at LSN, b []byte) LSN {
	h, ok := parseFrameHeader(b)
	if !ok || h.reserved || h.flags != 0 || h.version != frameVersion || !h.kind.known() || h.bodyBytes > MaxBodyBytes {
		return 0
	}
	if h.syncedEnd <= w.o.firstFrame(s.seq) || h.syncedEnd > at || h.syncedEnd%frameAlign != 0 {
		return 0
	}
	return h.syncedEnd
}
