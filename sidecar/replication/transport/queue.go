package transport

import (
	"hash/crc32"
	"sync"
	"time"
)

// chunkBytes is the least of a queue's buffers: many frames share one, a longer frame has one that is as many times as long.
const chunkBytes = 64 << 10

// keptBytes of buffers that were sent are kept for the next frames, until forget.
const keptBytes = 1 << 20

// queue holds the frames that wait for a link. Its buffers are written once: they go to the link as they are.
type queue struct {
	wake chan struct{} // has an element when there may be something; the link alone receives

	mu      sync.Mutex // guards what follows
	limit   int
	bytes   int
	frames  []queued
	chunk   []byte    // the last of using, with what is in it; nil before the first frame of a batch
	using   [][]byte  // buffers of the frames that wait
	lent    [][]byte  // of those that were taken: until the next take
	spare   [][]byte  // buffers that were lent, to be used again
	chunks  int       // counts buffers, so that two frames are known to touch
	away    time.Time // until then the peer is known to be away
	touched time.Time // when something was pushed last
}

// queued is one frame in a queue.
type queued struct {
	h     Header
	b     []byte   // header and body; of a frame that shares parts the header and the parts up to the first of these
	more  [][]byte // the rest of such a frame
	chunk int      // buffers with the same number are one, in order
}

// lentBytes is how long a part of a large frame is that is not copied.
const lentBytes = 32 << 10

// shares tells whether a frame has parts that are not copied.
func shares(parts [][]byte) bool {
	for i, p := range parts {
		if i > 0 && len(p) >= lentBytes {
			return true
		}
	}
	return false
}

// sharing makes a frame that shares its long parts, all but the first, with who sends it: a copy of each 1 MiB for each peer costs as much
// as its encryption.
func sharing(h Header, parts [][]byte) queued {
	size, crc, copied := 0, uint32(0), headerBytes
	for i, p := range parts {
		size += len(p)
		if i < len(h.Sums) && h.Sums[i] != nil {
			crc = extend(crc, h.Sums[i], len(p)/sumBlock)
		} else {
			crc = crc32.Update(crc, castagnoli, p)
		}
		if i == 0 || len(p) < lentBytes {
			copied += len(p)
		}
	}
	h.Sums = nil // they are the caller's
	b := appendHeader(make([]byte, 0, copied), h, size, crc)
	f, at := queued{h: h}, 0
	for i, p := range parts {
		if i == 0 || len(p) < lentBytes {
			b = append(b, p...)
			continue
		}
		f.add(b[at:])
		f.add(p)
		at = len(b)
	}
	f.add(b[at:])
	return f
}

func (f *queued) add(b []byte) {
	switch {
	case f.b == nil:
		f.b = b
	case len(b) > 0:
		f.more = append(f.more, b)
	}
}

// size is the length of the whole frame.
func (f *queued) size() int {
	n := len(f.b)
	for _, b := range f.more {
		n += len(b)
	}
	return n
}

func newQueue(limit int, now time.Time) *queue {
	return &queue{wake: make(chan struct{}, 1), limit: limit, touched: now}
}

// push puts a frame into the queue, copied but for what large says. why is empty, or the reason for which it was dropped.
func (q *queue) push(now time.Time, h Header, wake bool, parts ...[]byte) (why dropReason) {
	size := headerBytes
	for _, p := range parts {
		size += len(p)
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	q.touched = now
	if now.Before(q.away) {
		return dropUnreachable
	}
	if q.bytes > 0 && q.bytes+size > q.limit {
		return dropQueueFull
	}
	q.append(h, size, parts)
	if wake {
		q.nudge()
	}
	return dropNone
}

// nudge wakes the link.
func (q *queue) nudge() {
	select {
	case q.wake <- struct{}{}:
	default:
	}
}

// waiting tells how much waits, and whether all of it is allowed. q.mu is held over allowed.
func (q *queue) waiting(allowed func(Header) bool) (bytes int, all bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for i := range q.frames {
		if allowed != nil && !allowed(q.frames[i].h) {
			return q.bytes, false
		}
	}
	return q.bytes, true
}

func (q *queue) append(h Header, size int, parts [][]byte) {
	q.bytes += size
	if shares(parts) {
		q.chunks++
		f := sharing(h, parts)
		f.chunk = q.chunks
		q.frames = append(q.frames, f)
		q.chunks++
		return
	}
	if cap(q.chunk)-len(q.chunk) < size {
		q.chunk = q.buffer(size)
		q.using = append(q.using, q.chunk)
		q.chunks++
	}
	at := len(q.chunk)
	q.chunk = appendFrame(q.chunk, h, parts...)
	h.Sums = nil // likewise
	q.frames = append(q.frames, queued{h: h, b: q.chunk[at:], chunk: q.chunks})
}

// buffer is an empty one with room for so much: the smallest of the spare ones that has it, or a new one.
func (q *queue) buffer(size int) []byte {
	best := -1
	for i, b := range q.spare {
		if cap(b) >= size && (best < 0 || cap(b) < cap(q.spare[best])) {
			best = i
		}
	}
	if best < 0 {
		return make([]byte, 0, (size+chunkBytes-1)/chunkBytes*chunkBytes)
	}
	b, last := q.spare[best], len(q.spare)-1
	q.spare[best], q.spare[last] = q.spare[last], nil
	q.spare = q.spare[:last]
	return b
}

// take takes everything. What was taken before is given back with it: nobody may look at those frames any more.
func (q *queue) take(used []queued) []queued {
	q.mu.Lock()
	defer q.mu.Unlock()
	frames := q.frames
	clear(used)
	q.frames, q.bytes = used[:0], 0
	kept := 0
	for _, b := range q.spare {
		kept += cap(b)
	}
	for _, b := range q.lent {
		if kept += cap(b); kept > keptBytes {
			break
		}
		q.spare = append(q.spare, b[:0])
	}
	clear(q.lent)
	q.lent, q.using, q.chunk = q.using, q.lent[:0], nil
	q.chunks++
	return frames
}

// forget gives back the memory of spare buffers.
func (q *queue) forget() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.spare = nil
}

// drop empties the queue of a peer that is away until then.
func (q *queue) drop(away time.Time) (frames int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	frames = len(q.frames)
	q.frames, q.bytes, q.chunk, q.using, q.away = nil, 0, nil, nil, away // the buffers of frames that were not taken go
	return frames
}

// again wakes the link if something is left.
func (q *queue) again() {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.frames) > 0 {
		q.nudge()
	}
}

// idle says that nothing was pushed since then, and nothing waits.
func (q *queue) idle(since time.Time) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return len(q.frames) == 0 && q.touched.Before(since)
}
