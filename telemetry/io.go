package telemetry

import "syscall"

// IO is one FUSE request on its way. It belongs to one goroutine at a time, and to nobody after End: it is used again.
// All methods do nothing on a nil *IO. None allocates, blocks, or calls the system.
type IO struct {
	v   *VolumeRecorder
	rec record
}

// Begin starts a request's span now. unique is the request's number on its FUSE connection, inode its node ID.
func (v *VolumeRecorder) Begin(op Op, unique, inode uint64) *IO {
	if v == nil {
		return nil
	}
	io := v.r.pool.Get().(*IO)
	io.v = v
	rec := &io.rec
	rec.ref = v.r.ids.next()
	rec.start = v.r.now()
	rec.op = op.valid()
	rec.unique, rec.inode = unique, inode
	rec.volume = v.index
	rec.epoch, rec.seq, rec.offset, rec.length = 0, 0, 0, 0
	rec.ranged, rec.stages, rec.links, rec.lostLinks = false, 0, 0, 0
	return io
}

// SetRange says which bytes of the file the request is about. After a short read, call it again with what was really
// transferred: remora_fuse_request_bytes_total counts the length of the last call.
func (io *IO) SetRange(offset int64, length int) {
	if io == nil {
		return
	}
	io.rec.offset, io.rec.length, io.rec.ranged = offset, int64(length), true
}

// SetInode says which inode the request turned out to be about, where Begin could not know: lookup, create.
func (io *IO) SetInode(inode uint64) {
	if io == nil {
		return
	}
	io.rec.inode = inode
}

// Stage adds a child span from start to end, both of the clock Now. A request has at most 8; the ninth is counted as
// dropped, reason "stages".
func (io *IO) Stage(s Stage, start, end int64) {
	if io == nil {
		return
	}
	rec := &io.rec
	n := rec.stages
	if n >= maxStages {
		io.v.r.count.created.Add(1)
		io.v.r.count.drop(dropStages, 1)
		return
	}
	rec.stageName[n], rec.stageStart[n], rec.stageEnd[n] = s, start, end
	rec.stages++
}

// Began adds the child "queue" from the end of the newest stage, or the request's beginning, to now, if that is worth telling, and returns now.
func (io *IO) Began() int64 {
	if io == nil {
		return 0
	}
	rec := &io.rec
	now, since := io.v.r.now(), rec.start
	if n := rec.stages; n > 0 {
		since = rec.stageEnd[n-1]
	}
	if now-since >= queueWorthTelling {
		io.Stage(StageQueue, since, now)
	}
	return now
}

// queueWorthTelling, in nanoseconds, is more than it takes to look into a request.
const queueWorthTelling = 20_000

// Link says that another span did work for this request, such as the group commit that served an fsync. Two are kept;
// OTLP's dropped_links_count tells of more.
func (io *IO) Link(ref SpanRef) {
	if io == nil || ref.IsZero() {
		return
	}
	rec := &io.rec
	if rec.links >= maxLinks {
		rec.lostLinks++
		return
	}
	rec.link[rec.links] = ref
	rec.links++
}

// Record names the log record that the request made.
func (io *IO) Record(epoch, seq uint64) {
	if io == nil {
		return
	}
	io.rec.epoch, io.rec.seq = epoch, seq
}

// Ref names the request's span while it is open.
func (io *IO) Ref() SpanRef {
	if io == nil {
		return SpanRef{}
	}
	return io.rec.ref
}

// End ends the span with the errno of the answer (0 or positive), counts the request, and decides whether the span is
// kept. The IO must not be used again.
func (io *IO) End(errno int32) {
	if io == nil {
		return
	}
	v, rec := io.v, &io.rec
	rec.end = v.r.now()
	rec.errno = errno
	v.ops[rec.op].observe(rec)
	v.submit(rec, !expected(rec.op, syscall.Errno(errno)))
	v.r.pool.Put(io)
}
