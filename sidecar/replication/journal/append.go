package journal

import (
	"fmt"
	"hash/crc32"
)

// copyBytes is the longest frame that is copied into one buffer and written by one call. Above it, a second pwrite (0.5 us) is
// cheaper than the copy.
const copyBytes = 32 << 10

// headBytes has room for the fixed part of any body.
const headBytes = 64

// Append writes a frame whose body is parts, one after the other, and returns the end of the frame. The frame is then in the
// page cache: it survives this process, and Sync makes it survive the machine. Safe for concurrent use. Errors: *BodyError for
// a kind that this version does not write or a body that is too long, ErrNoSpace, ErrClosed, and the journal's *FailedError.
func (j *Journal) Append(kind Kind, group, replica uint64, parts ...[]byte) (LSN, error) {
	n := 0
	for _, p := range parts {
		n += len(p)
	}
	if !kind.known() {
		return 0, &BodyError{Kind: kind, Length: n, Reason: "a kind that this version does not write"}
	}
	if most := j.maxBody(); n > most {
		return 0, &BodyError{Kind: kind, Length: n, Reason: fmt.Sprintf("longer than %d", most)}
	}
	h := frameHeader{kind: kind, version: frameVersion, bodyBytes: uint32(n), group: group, replica: replica}
	for {
		end, done, err := j.tryAppend(h, parts)
		if done || err != nil {
			return end, err
		}
		if err := j.Prepare(); err != nil {
			return 0, err
		}
	}
}

func (j *Journal) maxBody() int {
	return int(min(MaxBodyBytes, j.o.SegmentBytes-2*headerPageBytes-frameHeaderBytes))
}

// tryAppend reports done = false if the frame needs a segment that is not prepared.
func (j *Journal) tryAppend(h frameHeader, parts [][]byte) (end LSN, done bool, err error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	size := LSN(frameBytes(int(h.bodyBytes)))
	if done, err := j.room(size); !done || err != nil {
		return 0, false, err
	}
	if err := j.write(h, parts); err != nil {
		return 0, false, err
	}
	j.end += size
	j.cur.end = j.end
	j.named(naming{synced: j.synced, end: j.end})
	return j.end, true, nil
}

// room makes sure that the current segment has room for so much; false: the next one is not prepared. j.mu is held.
func (j *Journal) room(size LSN) (bool, error) {
	if err := j.usable(); err != nil {
		return false, err
	}
	if j.cur != nil && j.end+size <= j.o.frameLimit(j.cur.seq) {
		return true, nil
	}
	if j.ready == nil {
		return false, nil
	}
	return true, j.activate()
}

// named notes that the newest frame names a synced end. j.mu is held.
func (j *Journal) named(n naming) {
	if n.synced <= j.nameNow.synced {
		return
	}
	if j.naming.synced <= j.witness {
		j.naming = n
	}
	j.nameNow = n
}

// testified notes that everything up to j.synced is durable, witnesses included. j.mu is held.
func (j *Journal) testified() {
	for range 2 {
		if j.naming.synced > j.witness && j.naming.end <= j.synced {
			j.witness = j.naming.synced
			j.naming = j.nameNow
		}
	}
}

// activate makes the prepared segment the current one. j.mu is held.
func (j *Journal) activate() error {
	s := j.ready
	h := segmentHeader{
		version: segmentVersion, segmentBytes: uint64(j.o.SegmentBytes), seq: s.seq, generation: s.generation,
		diskID: j.o.DiskID, prevEnd: j.end, syncedEnd: j.synced,
	}
	if err := writeHeaders(s.file, h.page(), j.o.SegmentBytes); err != nil {
		return j.failLocked("activate", s.name, err)
	}
	j.ready = nil
	j.next = s.seq + 1
	j.cur = s
	j.segs = append(j.segs, s)
	j.dirty = append(j.dirty, s)
	s.prevEnd = j.end
	s.end = j.o.firstFrame(s.seq)
	j.end = s.end
	return nil
}

// write writes a frame at j.end. Parts that fit beside the header are copied next to it, longer ones are written as they are.
// j.mu is held.
func (j *Journal) write(h frameHeader, parts [][]byte) error {
	crc := bodySeed(j.cur.generation, j.end)
	for _, p := range parts {
		crc = crc32.Update(crc, castagnoli, p)
	}
	h.bodyCRC = crc
	h.syncedEnd = j.synced
	buf := j.buf[:frameHeaderBytes]
	h.encode(buf, j.cur.generation, j.end)
	off := int64(j.end - j.cur.base)
	for _, p := range parts {
		if len(buf)+len(p) <= cap(buf) {
			buf = append(buf, p...)
			continue
		}
		if err := j.writeAt(buf, off); err != nil {
			return err
		}
		off += int64(len(buf))
		buf = buf[:0]
		if err := j.writeAt(p, off); err != nil {
			return err
		}
		off += int64(len(p))
	}
	return j.writeAt(buf, off)
}

func (j *Journal) writeAt(p []byte, off int64) error {
	if len(p) == 0 {
		return nil
	}
	if _, err := j.cur.file.WriteAt(p, off); err != nil {
		return j.failLocked("append", j.cur.name, err)
	}
	return nil
}

// AppendPayload appends a KindPayload frame. It does not copy a long record and allocates nothing.
func (j *Journal) AppendPayload(group, replica uint64, p Payload) (LSN, error) {
	head := j.heads.Get().(*[headBytes]byte)
	defer j.heads.Put(head)
	return j.Append(p.Kind(), group, replica, p.appendHeader(head[:0]), p.Record)
}

// AppendBinding appends a KindBinding frame.
func (j *Journal) AppendBinding(group, replica uint64, b Binding) (LSN, error) {
	head := j.heads.Get().(*[headBytes]byte)
	defer j.heads.Put(head)
	return j.Append(KindBinding, group, replica, b.AppendTo(head[:0]))
}

// AppendHardState appends a KindHardState frame.
func (j *Journal) AppendHardState(group, replica uint64, h HardState) (LSN, error) {
	head := j.heads.Get().(*[headBytes]byte)
	defer j.heads.Put(head)
	return j.Append(KindHardState, group, replica, h.AppendTo(head[:0]))
}

// AppendEntry appends a KindEntry frame.
func (j *Journal) AppendEntry(group, replica uint64, e Entry) (LSN, error) {
	head := j.heads.Get().(*[headBytes]byte)
	defer j.heads.Put(head)
	return j.Append(KindEntry, group, replica, e.appendHeader(head[:0]), e.Data)
}
