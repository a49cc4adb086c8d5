package store

import (
	"encoding/binary"
	"fmt"
	"maps"
	"slices"

	"github.com/remora-storage/remora/cachefs/record"
)

// answers is the table of first answers: for each change of the current session whose answer was not yet known to have reached the
// kernel, what was answered. A request that is re-sent after the death of its sidecar gets it again (DESIGN 7). It stays as small
// as the number of requests in flight, because every record names the requests that were answered since the one before.
type answers struct {
	session uint64
	first   map[uint64][]byte
	changed bool
}

func (a *answers) step(r *record.Record) {
	if r.Session == 0 || r.Kind != record.Change {
		return
	}
	if a.first == nil || r.Session != a.session {
		*a = answers{session: r.Session, first: map[uint64][]byte{}}
	}
	for _, u := range r.Answered {
		delete(a.first, u)
	}
	if r.Unique != 0 {
		a.first[r.Unique] = append([]byte{}, r.Answer...)
	}
	a.changed = true
}

func (a *answers) append(b []byte) []byte {
	b = binary.LittleEndian.AppendUint64(b, a.session)
	for _, u := range slices.Sorted(maps.Keys(a.first)) {
		b = binary.LittleEndian.AppendUint64(b, u)
		b = binary.LittleEndian.AppendUint32(b, uint32(len(a.first[u])))
		b = append(b, a.first[u]...)
	}
	return b
}

func decodeAnswers(b []byte) (answers, error) {
	if len(b) < 8 {
		return answers{}, fmt.Errorf("%w: table of answers of %d bytes", ErrDamaged, len(b))
	}
	a := answers{session: binary.LittleEndian.Uint64(b), first: map[uint64][]byte{}}
	for b = b[8:]; len(b) > 0; {
		if len(b) < 12 || len(b)-12 < int(binary.LittleEndian.Uint32(b[8:])) {
			return answers{}, fmt.Errorf("%w: table of answers is cut", ErrDamaged)
		}
		n := int(binary.LittleEndian.Uint32(b[8:]))
		a.first[binary.LittleEndian.Uint64(b)] = append([]byte{}, b[12:12+n]...)
		b = b[12+n:]
	}
	return a, nil
}

// Answer is the first answer of a request of the given session, if the log has one.
func (s *Store) Answer(session, unique uint64) ([]byte, bool) {
	s.applyMu.Lock()
	defer s.applyMu.Unlock()
	if s.answers.session != session {
		return nil, false
	}
	b, ok := s.answers.first[unique]
	return b, ok
}
