package telemetry

import "sync"

const (
	maxStages = 8
	maxLinks  = 2
)

type recordKind uint8

const (
	kindRequest recordKind = iota
	kindCommit
	kindPart // of a commit
	kindAccepted
	kindCall // its name and attributes are in Recorder.notes, by span ID
)

// record is all that is kept of a request or a group commit until it is encoded. It holds no pointers, so the garbage
// collector never looks into the ring.
type record struct {
	ref        SpanRef
	start, end int64  // by the recorder's clock, nanoseconds
	inode      uint64 // commit: 0
	unique     uint64 // commit: the first seq; accepted, part and call: the span ID of the parent
	epoch      uint64
	seq        uint64 // commit: the last seq; part: the peer
	offset     int64  // commit: bytes
	length     int64  // commit: records
	volume     uint32 // index in Recorder.volumes
	errno      int32  // commit: -1 is an error that is no errno

	kind      recordKind
	op        Op
	ranged    bool // offset and length are set
	stages    uint8
	links     uint8
	lostLinks uint8
	stageName [maxStages]Stage

	stageStart [maxStages]int64
	stageEnd   [maxStages]int64
	link       [maxLinks]SpanRef
}

func (r *record) spans() uint64 { return 1 + uint64(r.stages) }

// ring is the bounded queue between the I/O path and the exporter. When it is full the newest record is refused.
//
// A slot that was given back last is used first: the memory that is ever touched is the longest queue that ever was,
// not the bound, and the hot slots stay in the processor's cache.
type ring struct {
	mu     sync.Mutex
	slots  []record // untouched, thus not resident, above fresh
	fresh  int      // slots[fresh:] were never used
	free   []uint32 // used slots that are free, last in first out
	queue  []uint32 // circular: slots in order of arrival
	head   int
	length int
	closed bool
}

type putResult uint8

const (
	putDone putResult = iota
	putFull
	putClosed
)

func newRing(size int) *ring {
	return &ring{slots: make([]record, size), free: make([]uint32, 0, size), queue: make([]uint32, size)}
}

// put copies rec in and returns the length of the queue after it.
func (q *ring) put(rec *record) (putResult, int) {
	q.mu.Lock()
	if q.closed {
		q.mu.Unlock()
		return putClosed, 0
	}
	var slot uint32
	switch {
	case len(q.free) > 0:
		slot = q.free[len(q.free)-1]
		q.free = q.free[:len(q.free)-1]
	case q.fresh < len(q.slots):
		slot = uint32(q.fresh)
		q.fresh++
	default:
		q.mu.Unlock()
		return putFull, 0
	}
	q.slots[slot] = *rec
	tail := q.head + q.length
	if tail >= len(q.queue) {
		tail -= len(q.queue)
	}
	q.queue[tail] = slot
	q.length++
	n := q.length
	q.mu.Unlock()
	return putDone, n
}

// take appends up to max of the oldest records to dst. It lets writers in between every few records.
func (q *ring) take(dst []record, max int) []record {
	const run = 8
	for max > 0 {
		q.mu.Lock()
		n := min(run, max, q.length)
		for range n {
			slot := q.queue[q.head]
			dst = append(dst, q.slots[slot])
			q.free = append(q.free, slot)
			if q.head++; q.head == len(q.queue) {
				q.head = 0
			}
		}
		q.length -= n
		q.mu.Unlock()
		if n < run {
			return dst
		}
		max -= n
	}
	return dst
}

// close refuses every later put; what is queued can still be taken.
func (q *ring) close() {
	q.mu.Lock()
	q.closed = true
	q.mu.Unlock()
}

func (q *ring) len() int {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.length
}
