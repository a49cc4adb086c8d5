package telemetry

import "strconv"

// Call is the span of something that is no FUSE request, such as an admission. It belongs to one goroutine; all methods do nothing
// on a nil *Call.
type Call struct {
	r    *Recorder
	rec  record
	note note
	keep bool
}

// note is what a record has no room for.
type note struct {
	name  string
	attrs []attr
}

// Call starts a span now. traceparent is the W3C header of its caller, whose decision to sample is followed; without one, or with
// one that cannot be read, the span begins a trace and is kept. A nil *Recorder returns nil.
func (r *Recorder) Call(name, traceparent string) *Call {
	if r == nil {
		return nil
	}
	c := &Call{r: r, note: note{name: name}, keep: true}
	c.rec = record{kind: kindCall, ref: r.ids.next(), start: r.now()}
	if parent, sampled, ok := parseTraceparent(traceparent); ok {
		c.rec.ref.traceHi, c.rec.ref.traceLo, c.rec.unique = parent.traceHi, parent.traceLo, parent.span
		c.keep = sampled
	}
	return c
}

// Set adds an attribute.
func (c *Call) Set(key, text string) {
	if c != nil {
		c.note.attrs = append(c.note.attrs, attr{key: key, text: text})
	}
}

// End ends the span; failed gives it the status of an error.
func (c *Call) End(failed bool) {
	if c == nil {
		return
	}
	r := c.r
	c.rec.end = r.now()
	if failed {
		c.rec.errno = -1
	}
	r.count.created.Add(1)
	if r.ring == nil || !c.keep {
		r.count.sampledOut.Add(1)
		return
	}
	r.notesMu.Lock()
	r.notes[c.rec.ref.span] = &c.note
	r.notesMu.Unlock()
	result, queued := r.ring.put(&c.rec)
	if result != putDone {
		r.takeNotes([]record{c.rec})
		why := dropQueueFull
		if result == putClosed {
			why = dropShutdown
		}
		r.count.drop(why, 1)
		return
	}
	if queued == r.batch {
		r.exporter.wake()
	}
}

// takeNotes returns the notes of the calls among the records, which are forgotten.
func (r *Recorder) takeNotes(records []record) map[uint64]*note {
	var notes map[uint64]*note
	for i := range records {
		if records[i].kind != kindCall {
			continue
		}
		if notes == nil {
			notes = map[uint64]*note{}
			r.notesMu.Lock()
			defer r.notesMu.Unlock()
		}
		id := records[i].ref.span
		notes[id] = r.notes[id]
		delete(r.notes, id)
	}
	return notes
}

func (b *batch) expandCall(rec *record, s *span) {
	n := b.notes[rec.ref.span]
	s.name, s.server, s.parent, s.failed = n.name, true, rec.unique, rec.errno != 0
	s.attrs = append(s.attrs, n.attrs...)
}

// parseTraceparent reads the header of W3C Trace Context, version 00 or a later one that begins alike.
func parseTraceparent(h string) (parent SpanRef, sampled, ok bool) {
	if len(h) < 55 || h[2] != '-' || h[35] != '-' || h[52] != '-' || h[:2] == "ff" || h[:2] == "00" && len(h) != 55 {
		return parent, false, false
	}
	fields := []struct {
		text string
		to   *uint64
	}{{h[3:19], &parent.traceHi}, {h[19:35], &parent.traceLo}, {h[36:52], &parent.span}}
	for _, f := range fields {
		n, err := strconv.ParseUint(f.text, 16, 64)
		if err != nil || f.text[0] == '+' {
			return SpanRef{}, false, false
		}
		*f.to = n
	}
	flags, err := strconv.ParseUint(h[53:55], 16, 8)
	return parent, flags&1 == 1, err == nil && parent.span != 0 && parent.traceHi|parent.traceLo != 0
}
