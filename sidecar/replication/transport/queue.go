package transport

import (
	"hash/crc32"
	"sync"
	"time"
)

// chunkBytes of a queue's buffers: many small frames share one, a large frame has one of its own.
const chunkBytes = 64 << 10

// queue holds the frames that wait for a link. Its buffers are written once: they go to the link as they are.
type queue struct {
	wake chan struct{} // has an element when there may be something; the link alone receives

	mu      sync.Mutex // guards what follows
	limit   int
	bytes   int
	frames  []queued
	chunk   []byte    // the last buffer of chunkBytes, with room; nil before the first frame of a batch
	spare   []byte    // one that was taken, and given back
	lent    []byte    // one that is taken: until the next take
	chunks  int       // counts buffers, so that two frames are known to touch
	away    time.Time // until then the peer is known to be away
	touched time.Time // when something was pushed last
}

// queued is one frame in a queue.
type queued struct {
	h     Header
	b     []byte   // header and body; of a large frame the header and the parts up to the first that is lent
	more  [][]byte // the rest of a large frame
	chunk int      // buffers with the same number are one, in order
}

// lentBytes is how long a part of a large frame is that is not copied.
const lentBytes = 32 << 10

// large makes a frame that shares its long parts, all but the first, with who sends it: a copy of each 1 MiB for each peer costs as much as
// its encryption.
func large(h Header, parts [][]byte) queued {
	size, crc, copied := 0, uint32(0), headerBytes
	for i, p := range parts {
		size += len(p)
		crc = crc32.Update(crc, castagnoli, p)
		if i == 0 || len(p) < lentBytes {
			copied += len(p)
		}
	}
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
	if size > chunkBytes/2 { // buffers of its own
		q.chunks++
		f := large(h, parts)
		f.chunk = q.chunks
		q.frames = append(q.frames, f)
		q.chunks++
		return
	}
	if cap(q.chunk)-len(q.chunk) < size {
		if q.chunk, q.spare = q.spare, nil; q.chunk == nil {
			q.chunk = make([]byte, 0, chunkBytes)
		}
		q.chunks++
	}
	at := len(q.chunk)
	q.chunk = appendFrame(q.chunk, h, parts...)
	q.frames = append(q.frames, queued{h: h, b: q.chunk[at:], chunk: q.chunks})
}

// take takes everything. What was taken before is given back with it: nobody may look at those frames any more.
func (q *queue) take(used []queued) []queued {
	q.mu.Lock()
	defer q.mu.Unlock()
	frames := q.frames
	clear(used)
	q.frames, q.bytes = used[:0], 0
	if q.spare == nil && q.lent != nil {
		q.spare = q.lent[:0]
	}
	q.lent, q.chunk = q.chunk, nil
	q.chunks++
	return frames
}

// drop empties the queue of a peer that is away until then.
func (q *queue) drop(away time.Time) (frames int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	frames = len(q.frames)
	q.frames, q.bytes, q.chunk, q.away = nil, 0, nil, away // the buffers of frames that were not taken go
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
