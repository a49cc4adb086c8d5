package telemetry

import (
	"fmt"
	"strconv"
	"syscall"
)

// span is one OTLP span before it has a form: the place that decides names and attributes. Both encoders read it.
type span struct {
	ref        SpanRef
	parent     uint64 // span ID in the same trace, or 0
	name       string
	server     bool // kind SERVER, else INTERNAL
	start, end int64
	failed     bool // status ERROR
	attrs      []attr
	links      []SpanRef
	lostLinks  uint8
}

// attr is an attribute: text, or an integer.
type attr struct {
	key   string
	text  string
	num   int64
	isInt bool
}

// batch is what one export carries.
type batch struct {
	service  string
	resource []attr // sorted by key, service.name first
	records  []record
	volumes  []string // by record.volume
	notes    map[uint64]*note
	skew     int64 // added to every time: what the wall clock has moved against Now
	spans    uint64
}

// each calls f with every span of the batch, parents before children. The span is used again after f returns.
func (b *batch) each(f func(*span)) {
	var s span
	for i := range b.records {
		rec := &b.records[i]
		b.expand(rec, &s)
		f(&s)
		root := rec.ref.span
		for n := range int(rec.stages) {
			s = span{
				ref:    SpanRef{rec.ref.traceHi, rec.ref.traceLo, rec.ref.child(n)},
				parent: root,
				name:   rec.stageName[n].String(),
				start:  rec.stageStart[n] + b.skew,
				end:    rec.stageEnd[n] + b.skew,
				attrs:  s.attrs[:0],
			}
			f(&s)
		}
	}
}

// expand makes the span of the request, commit or acceptance itself.
func (b *batch) expand(rec *record, s *span) {
	*s = span{ref: rec.ref, start: rec.start + b.skew, end: rec.end + b.skew, attrs: s.attrs[:0]}
	if rec.kind == kindCall {
		b.expandCall(rec, s)
		return
	}
	s.addText("remora.volume", b.volumes[rec.volume])
	switch rec.kind {
	case kindAccepted:
		s.name, s.parent, s.links = StageCommit.String(), rec.unique, rec.link[:rec.links]
		s.addInt("remora.epoch", int64(rec.epoch))
		s.addInt("remora.seq", int64(rec.seq))
	case kindPart:
		s.name, s.parent = StageJournal.String(), rec.unique
		if rec.seq != 0 {
			s.name = "replicate"
			s.addText("remora.peer", fmt.Sprintf("%016x", rec.seq))
		}
	case kindCommit:
		s.name = "group_commit"
		s.addInt("remora.commit.records", rec.length)
		s.addInt("remora.commit.bytes", rec.offset)
		s.addInt("remora.commit.first_seq", int64(rec.unique))
		s.addInt("remora.commit.last_seq", int64(rec.seq))
		s.failed = rec.errno != 0
	default:
		b.expandRequest(rec, s)
	}
	if rec.errno != 0 {
		s.addText("error.type", errnoName(rec.errno))
	}
}

func (b *batch) expandRequest(rec *record, s *span) {
	s.name, s.server = opSpanNames[rec.op], true
	s.failed = !expected(rec.op, syscall.Errno(rec.errno))
	s.links, s.lostLinks = rec.link[:rec.links], rec.lostLinks
	s.addText("remora.op", opNames[rec.op])
	s.addInt("remora.fuse.unique", int64(rec.unique))
	if rec.inode != 0 {
		s.addText("file.inode", strconv.FormatUint(rec.inode, 10)) // text in the semantic conventions
	}
	if rec.ranged {
		s.addInt("remora.io.offset", rec.offset)
		s.addInt("remora.io.size", rec.length)
	}
	switch rec.op {
	case OpRead:
		s.addText("disk.io.direction", "read")
	case OpWrite:
		s.addText("disk.io.direction", "write")
	}
	if rec.seq != 0 {
		s.addInt("remora.epoch", int64(rec.epoch))
		s.addInt("remora.seq", int64(rec.seq))
	}
}

func (s *span) addText(key, text string) { s.attrs = append(s.attrs, attr{key: key, text: text}) }

func (s *span) addInt(key string, num int64) {
	s.attrs = append(s.attrs, attr{key: key, num: num, isInt: true})
}
