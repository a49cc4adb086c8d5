package telemetry

import (
	"errors"
	"sync/atomic"
	"syscall"
)

// VolumeRecorder records the requests and commits of one volume. A nil *VolumeRecorder records nothing. Safe for
// concurrent use.
type VolumeRecorder struct {
	r        *Recorder
	name     string
	index    uint32
	sampling atomic.Pointer[Sampling]
	ops      [numOps]opMetrics
	commits  commitMetrics
}

// Volume returns the recorder of the volume, made on the first call; later calls only change its sampling. A nil
// *Recorder returns nil.
func (r *Recorder) Volume(name string, sampling Sampling) *VolumeRecorder {
	if r == nil {
		return nil
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, v := range r.volumes {
		if v.name == name {
			v.SetSampling(sampling)
			return v
		}
	}
	v := &VolumeRecorder{r: r, name: name, index: uint32(len(r.volumes))}
	v.SetSampling(sampling)
	r.volumes = append(r.volumes, v)
	return v
}

// SetSampling changes which spans are kept, from the next End on.
func (v *VolumeRecorder) SetSampling(s Sampling) {
	if v == nil {
		return
	}
	v.sampling.Store(&s)
}

// Commit records a group commit that is over: from start to end of the clock Now, it made records firstSeq to lastSeq
// durable. Requests that waited for it link to the span it returns. A zero SpanRef comes from a nil *VolumeRecorder.
func (v *VolumeRecorder) Commit(start, end int64, records int, bytes int64, firstSeq, lastSeq uint64, err error) SpanRef {
	if v == nil {
		return SpanRef{}
	}
	rec := record{
		kind: kindCommit, ref: v.r.ids.next(), start: start, end: end, volume: v.index,
		unique: firstSeq, seq: lastSeq, offset: bytes, length: int64(records), errno: errnoOf(err),
	}
	v.commits.observe(&rec)
	v.submit(&rec, err != nil)
	return rec.ref
}

// Accepted adds the child "commit" to a request that was answered before its record was durable: from start, when the record was in
// the journal, to end, when it was accepted, with a link to the group commit that did it. It does nothing for a zero parent.
func (v *VolumeRecorder) Accepted(parent SpanRef, start, end int64, epoch, seq uint64, commit SpanRef) {
	if v == nil || parent.IsZero() {
		return
	}
	rec := record{
		kind: kindAccepted, ref: SpanRef{parent.traceHi, parent.traceLo, parent.child(maxStages)}, start: start, end: end, volume: v.index,
		unique: parent.span, epoch: epoch, seq: seq,
	}
	if !commit.IsZero() {
		rec.link[0], rec.links = commit, 1
	}
	v.submit(&rec, false)
}

// Part is a piece of the time that a group commit took: the sync of the journal here (Peer 0), or from sending to a peer to its answer that it
// has synced its own. Start and End are of the clock Now.
type Part struct {
	Peer       uint64
	Start, End int64
	// Of this, the records waited at the peer for its sync, and the sync took so long, in nanoseconds. Synced 0: not known.
	Waited, Synced int64
}

// Part adds a child to a group commit, with what the peer did as its children: in the middle, since nobody knows how much of the rest was the
// way there and how much the way back. It does nothing for a zero commit.
func (v *VolumeRecorder) Part(commit SpanRef, p Part) {
	if v == nil || commit.IsZero() {
		return
	}
	rec := record{
		kind: kindPart, ref: SpanRef{commit.traceHi, commit.traceLo, v.r.ids.next().span}, start: p.Start, end: p.End, volume: v.index,
		unique: commit.span, seq: p.Peer,
	}
	if rest := p.End - p.Start - p.Waited - p.Synced; p.Synced > 0 && rest >= 0 {
		from := p.Start + rest/2
		rec.stages = 2
		rec.stageName[0], rec.stageStart[0], rec.stageEnd[0] = StageQueue, from, from+p.Waited
		rec.stageName[1], rec.stageStart[1], rec.stageEnd[1] = StageJournal, from+p.Waited, from+p.Waited+p.Synced
	}
	v.submit(&rec, false)
}

// submit counts the record's spans and queues them if they are to be kept.
func (v *VolumeRecorder) submit(rec *record, failed bool) {
	r, n := v.r, rec.spans()
	r.count.created.Add(n)
	if r.ring == nil || !v.sampling.Load().keep(rec.ref.traceLo, rec.end-rec.start, failed) {
		r.count.sampledOut.Add(n)
		return
	}
	switch result, queued := r.ring.put(rec); result {
	case putFull:
		r.count.drop(dropQueueFull, n)
	case putClosed:
		r.count.drop(dropShutdown, n)
	case putDone:
		if queued == r.batch {
			r.exporter.wake()
		}
	}
}

func errnoOf(err error) int32 {
	if err == nil {
		return 0
	}
	if errno, ok := errors.AsType[syscall.Errno](err); ok {
		return int32(errno)
	}
	return -1
}
