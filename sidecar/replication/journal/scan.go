package journal

// Summary is what Scan found.
type Summary struct {
	Segments  int      // that count
	Free      int      // segment files that wait for use, the prepared one among them
	Frames    int      // that count
	Start     LSN      // where the first of them starts or would start
	From      LSN      // what Journal.Start would say: no frame that was appended at or above it, and counts, is missing
	End       LSN      // where the last of them ends
	Next      LSN      // where Open would go on
	SyncedEnd LSN      // everything below must verify: the highest synced end that is named
	Stray     int      // frames that verify and do not count: behind the end of the log, or in a torn tail of an earlier life
	Stopped   string   // what was found at End
	BadCopies []string // segments that were synced, and whose copy of the header does not verify: Open does not need it
}

// Scan visits the frames of the log in order, as Open does, and changes nothing. The journal must not be open. Errors are those
// of Open, with what was found until then.
func Scan(o Options, visit func(Frame) error) (Summary, error) {
	o, err := o.withDefaults()
	if err != nil {
		return Summary{}, err
	}
	w, err := walkLog(&o, visit)
	if w == nil {
		return Summary{}, err
	}
	sum := Summary{
		Segments: w.counted(), Frames: w.frames, Start: w.end, End: w.end, SyncedEnd: w.witness,
		Stray: w.stray, Stopped: w.stopped,
	}
	sum.Free = len(w.free) + len(w.files) - sum.Segments
	if len(w.files) == 0 {
		return sum, err
	}
	sum.Next = w.o.firstFrame(w.files[0].seq + uint64(sum.Segments))
	sum.From = sum.Next
	for _, s := range w.files[:sum.Segments] {
		if s.headOK && !s.copyOK && w.witness > w.o.firstFrame(s.seq) {
			sum.BadCopies = append(sum.BadCopies, s.name)
		}
	}
	if sum.Segments > 0 {
		sum.Start = w.o.firstFrame(w.files[0].seq)
		sum.From = sum.Start
		if p := w.files[0].head.prevEnd; p > 0 {
			sum.From = p
		}
	}
	return sum, err
}
