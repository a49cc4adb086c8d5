package telemetry

import (
	"encoding/binary"
	"fmt"
	"io"
	"sync/atomic"
)

// SpanRef names a span: its trace and itself. The zero value names none.
type SpanRef struct {
	traceHi, traceLo, span uint64
}

// IsZero reports whether the reference names no span.
func (s SpanRef) IsZero() bool { return s == SpanRef{} }

// TraceID is the 16 bytes of OTLP.
func (s SpanRef) TraceID() (id [16]byte) {
	binary.BigEndian.PutUint64(id[:8], s.traceHi)
	binary.BigEndian.PutUint64(id[8:], s.traceLo)
	return id
}

// SpanID is the 8 bytes of OTLP.
func (s SpanRef) SpanID() (id [8]byte) {
	binary.BigEndian.PutUint64(id[:], s.span)
	return id
}

// String is the W3C traceparent of the span, version 00, not flagged as sampled: whether the span is kept is decided
// when it ends.
func (s SpanRef) String() string {
	return fmt.Sprintf("00-%016x%016x-%016x-00", s.traceHi, s.traceLo, s.span)
}

// child is the span ID of the i-th stage of a request. It is derived, so a request costs three random numbers however
// many children it has.
func (s SpanRef) child(i int) uint64 { return nonZero(mix64(s.span + uint64(i+1)*golden)) }

// idSource makes trace and span IDs: splitmix64 of a shared counter, from random starting points. One atomic
// addition and no lock a request; within a recorder no ID repeats, as mix64 is a bijection.
type idSource struct {
	seed    [3]uint64
	counter atomic.Uint64
}

func newIDSource(random io.Reader) (*idSource, error) {
	var b [24]byte
	if _, err := io.ReadFull(random, b[:]); err != nil {
		return nil, fmt.Errorf("read random seed of span IDs: %w", err)
	}
	s := &idSource{}
	for i := range s.seed {
		s.seed[i] = binary.LittleEndian.Uint64(b[8*i:])
	}
	return s, nil
}

func (s *idSource) next() SpanRef {
	n := s.counter.Add(1) * golden
	return SpanRef{
		traceHi: mix64(s.seed[0] + n),
		traceLo: nonZero(mix64(s.seed[1] + n)),
		span:    nonZero(mix64(s.seed[2] + n)),
	}
}

const golden = 0x9e3779b97f4a7c15

// mix64 is the output function of splitmix64 (Steele, Lea, Flood: Fast splittable pseudorandom number generators).
func mix64(z uint64) uint64 {
	z = (z ^ z>>30) * 0xbf58476d1ce4e5b9
	z = (z ^ z>>27) * 0x94d049bb133111eb
	return z ^ z>>31
}

func nonZero(id uint64) uint64 { // OTLP refuses an ID of zeros
	if id == 0 {
		return 1
	}
	return id
}
