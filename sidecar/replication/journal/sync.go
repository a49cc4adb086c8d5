package journal

// span is a segment and the end of its frames when a Sync began.
type span struct {
	s   *segment
	end LSN
}

// Sync makes everything durable that was appended before the call, and returns the synced end. Appends go on meanwhile;
// concurrent calls share one fdatasync where they can. A failure is final: the journal's *FailedError. Whoever appends KindPlaced frames
// uses SyncTo.
func (j *Journal) Sync() (LSN, error) { return j.SyncTo(j.End()) }

// SyncTo is Sync for the frames that end at or below want: the caller has synced the content in arenas that they name. More may
// become durable and does not count.
func (j *Journal) SyncTo(want LSN) (LSN, error) {
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
			if s.base < want {
				j.spans = append(j.spans, span{s, min(s.end, want)})
			}
		}
	}
	return j.spans, j.synced, nil
}

// publish records that a span is synced, and closes the segment if nothing more can come to it.
func (j *Journal) publish(sp span) (LSN, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.synced = max(j.synced, sp.end)
	j.testified()
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
