package journal

// span is a segment and the end of its frames when a Sync began.
type span struct {
	s   *segment
	end LSN
}

// Sync makes everything durable that was appended before the call, and returns the synced end. Appends go on meanwhile;
// concurrent calls share one fdatasync where they can. A failure is final: the journal's *FailedError.
func (j *Journal) Sync() (LSN, error) {
	want := j.End()
	j.syncing.Lock()
	defer j.syncing.Unlock()
	spans, synced, err := j.unsynced(want)
	if err != nil {
		return 0, err
	}
	// In order: a frame may count as synced only when everything before it is.
	for _, sp := range spans {
		if err := sp.s.file.SyncData(); err != nil {
			return 0, j.fail("sync", sp.s.name, err)
		}
		if synced, err = j.publish(sp); err != nil {
			return 0, err
		}
	}
	return synced, nil
}

// unsynced returns what must be synced to get everything below want durable: nothing, if another Sync did it meanwhile.
func (j *Journal) unsynced(want LSN) ([]span, LSN, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if err := j.usable(); err != nil {
		return nil, 0, err
	}
	j.spans = j.spans[:0]
	if j.synced < want {
		for _, s := range j.dirty {
			j.spans = append(j.spans, span{s, s.end})
		}
	}
	return j.spans, j.synced, nil
}

// publish records that a span is synced, and closes the segment if nothing more can come to it.
func (j *Journal) publish(sp span) (LSN, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.synced = max(j.synced, sp.end)
	if sp.s == j.cur || sp.s.end != sp.end {
		return j.synced, nil
	}
	j.dirty = j.dirty[1:] // spans are in the order of dirty, and the first that stays is followed by none that goes
	f := sp.s.file
	sp.s.file = nil
	if err := f.Close(); err != nil {
		return 0, j.failLocked("close", sp.s.name, err)
	}
	return j.synced, nil
}
