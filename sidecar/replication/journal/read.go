package journal

import (
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"slices"
)

// Read returns the frame at a position that AppendAll or Open has told. Its body is the caller's. It is for who keeps what it has appended
// nowhere else; Release must not have passed the position. Errors are those of reading, and *BodyError for a frame that does not verify.
func (j *Journal) Read(at LSN) (f Frame, err error) {
	name, generation, err := j.segmentAt(at)
	if err != nil {
		return Frame{}, err
	}
	file, err := j.o.FS.Open(j.o.path(name))
	if err != nil {
		return Frame{}, fmt.Errorf("journal: open %s: %w", name, err)
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	off := int64(at) % j.o.SegmentBytes
	read := func(n int, off int64) ([]byte, error) {
		b := make([]byte, n)
		if got, err := file.ReadAt(b, off); got < n {
			return nil, fmt.Errorf("journal: read %s at %d: %w", name, off, errors.Join(err, io.ErrUnexpectedEOF))
		}
		return b, nil
	}
	head, err := read(frameHeaderBytes, off)
	if err != nil {
		return Frame{}, err
	}
	h, ok := parseFrameHeader(head)
	if !ok || !verifyFrameHeader(head, generation, at) {
		return Frame{}, &BodyError{Length: frameHeaderBytes, Reason: fmt.Sprintf("no frame at %d in %s", at, name)}
	}
	body, err := read(int(h.bodyBytes), off+frameHeaderBytes)
	if err != nil {
		return Frame{}, err
	}
	if crc32.Update(bodySeed(generation, at), castagnoli, body) != h.bodyCRC {
		return Frame{}, &BodyError{Kind: h.kind, Length: len(body), Reason: fmt.Sprintf("the frame at %d in %s does not verify", at, name)}
	}
	return Frame{LSN: at, End: at + LSN(frameBytes(len(body))), Kind: h.kind, Group: h.group, Replica: h.replica, SyncedEnd: h.syncedEnd, Body: body}, nil
}

// segmentAt finds the segment of a position.
func (j *Journal) segmentAt(at LSN) (name string, generation uint64, err error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if err := j.usable(); err != nil {
		return "", 0, err
	}
	i := slices.IndexFunc(j.segs, func(s *segment) bool { return s.seq == uint64(at)/uint64(j.o.SegmentBytes) })
	if i < 0 || at >= j.segs[i].end {
		return "", 0, fmt.Errorf("journal: there is no frame at %d: %w", at, io.EOF)
	}
	return j.segs[i].name, j.segs[i].generation, nil
}
