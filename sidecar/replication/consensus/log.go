package consensus

import (
	"fmt"

	"go.etcd.io/raft/v3"
	pb "go.etcd.io/raft/v3/raftpb"
)

// memory is the part of Raft's log that is in memory: the entries behind base. It implements raft.Storage.
type memory struct {
	hard    pb.HardState
	initial *pb.ConfState // of the start
	base    uint64        // index before the first entry
	term    uint64        // of base
	entries []pb.Entry
	// snapshot is asked when a peer needs what is below base.
	snapshot func() pb.Snapshot
}

// InitialState implements raft.Storage.
func (m *memory) InitialState() (pb.HardState, pb.ConfState, error) {
	return m.hard, *m.initial, nil
}

func (m *memory) last() uint64 { return m.base + uint64(len(m.entries)) }

// Entries implements raft.Storage.
func (m *memory) Entries(lo, hi, maxSize uint64) ([]pb.Entry, error) {
	if lo <= m.base {
		return nil, raft.ErrCompacted
	}
	if hi > m.last()+1 {
		return nil, raft.ErrUnavailable
	}
	part := m.entries[lo-m.base-1 : hi-m.base-1]
	size, n := uint64(0), 0
	for ; n < len(part); n++ {
		size += uint64(part[n].Size())
		if n > 0 && size > maxSize {
			break
		}
	}
	return part[:n:n], nil
}

// Term implements raft.Storage.
func (m *memory) Term(i uint64) (uint64, error) {
	switch {
	case i < m.base:
		return 0, raft.ErrCompacted
	case i == m.base:
		return m.term, nil
	case i > m.last():
		return 0, raft.ErrUnavailable
	}
	return m.entries[i-m.base-1].Term, nil
}

// LastIndex implements raft.Storage.
func (m *memory) LastIndex() (uint64, error) { return m.last(), nil }

// FirstIndex implements raft.Storage.
func (m *memory) FirstIndex() (uint64, error) { return m.base + 1, nil }

// Snapshot implements raft.Storage.
func (m *memory) Snapshot() (pb.Snapshot, error) { return m.snapshot(), nil }

// append takes entries that may replace the end of the log.
func (m *memory) append(entries []pb.Entry) error {
	if len(entries) == 0 {
		return nil
	}
	first := entries[0].Index
	if first <= m.base || first > m.last()+1 {
		return fmt.Errorf("raft: entries from %d do not continue a log of %d to %d", first, m.base+1, m.last())
	}
	if keep := first - m.base - 1; keep < uint64(len(m.entries)) {
		m.entries = m.entries[:keep:keep] // a copy: Raft may hold parts of what is replaced
	}
	m.entries = append(m.entries, entries...)
	return nil
}

// compact forgets entries up to and including index i.
func (m *memory) compact(i uint64) {
	if i <= m.base || i > m.last() {
		return
	}
	m.term = m.entries[i-m.base-1].Term
	m.entries = append([]pb.Entry(nil), m.entries[i-m.base:]...)
	m.base = i
}

// restore starts the log anew behind a snapshot.
func (m *memory) restore(index, term uint64) { m.base, m.term, m.entries = index, term, nil }
