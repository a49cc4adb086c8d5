package journal

import (
	"hash/crc32"
)

// Piece is a frame of AppendAll.
type Piece struct {
	Kind  Kind
	Parts [][]byte // of its body
	At    LSN      // where it was written: AppendAll says it
}

// Bytes is what the frame occupies.
func (p Piece) Bytes() int {
	n := 0
	for _, part := range p.Parts {
		n += len(part)
	}
	return int(frameBytes(n))
}

// BatchBytes of frames are written with one call by AppendAll, at most.
const BatchBytes = copyBytes

// AppendAll is Append for each of the frames, one after the other, and returns the end of the last. Small ones are written with one call,
// and then no frame of anybody else is between them. After an error, some of the first ones may be in the log.
func (j *Journal) AppendAll(group, replica uint64, pieces []Piece) (end LSN, err error) {
	for len(pieces) > 0 {
		n, bytes := 0, 0
		for n < len(pieces) && pieces[n].Kind.known() && bytes+pieces[n].Bytes() <= BatchBytes {
			bytes += pieces[n].Bytes()
			n++
		}
		if n > 1 {
			end, err = j.appendBatch(group, replica, pieces[:n], LSN(bytes))
		} else { // alone, or too long, or of a kind that Append refuses
			n = 1
			end, err = j.Append(pieces[0].Kind, group, replica, pieces[0].Parts...)
		}
		if err != nil {
			return 0, err
		}
		at := end
		for i := n - 1; i >= 0; i-- {
			at -= LSN(pieces[i].Bytes())
			pieces[i].At = at
		}
		pieces = pieces[n:]
	}
	return end, nil
}

func (j *Journal) appendBatch(group, replica uint64, pieces []Piece, size LSN) (LSN, error) {
	for {
		end, done, err := j.tryBatch(group, replica, pieces, size)
		if done || err != nil {
			return end, err
		}
		if err := j.Prepare(); err != nil {
			return 0, err
		}
	}
}

// tryBatch is tryAppend for several frames.
func (j *Journal) tryBatch(group, replica uint64, pieces []Piece, size LSN) (end LSN, done bool, err error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if done, err := j.room(size); !done || err != nil {
		return 0, false, err
	}
	buf, at := j.buf[:0], j.end
	for _, p := range pieces {
		from := len(buf)
		buf = buf[:from+frameHeaderBytes]
		h := frameHeader{kind: p.Kind, version: frameVersion, group: group, replica: replica, syncedEnd: j.synced, bodyCRC: bodySeed(j.cur.generation, at)}
		for _, part := range p.Parts {
			h.bodyBytes += uint32(len(part))
			h.bodyCRC = crc32.Update(h.bodyCRC, castagnoli, part)
			buf = append(buf, part...)
		}
		h.encode(buf[from:], j.cur.generation, at)
		whole := from + int(frameBytes(int(h.bodyBytes)))
		clear(buf[len(buf):whole]) // up to the next frame: not what another one has left here
		buf = buf[:whole]
		at = j.end + LSN(whole)
	}
	if err := j.writeAt(buf, int64(j.end-j.cur.base)); err != nil {
		return 0, false, err
	}
	j.end = at
	j.cur.end = j.end
	j.named(naming{synced: j.synced, end: j.end})
	return j.end, true, nil
}
