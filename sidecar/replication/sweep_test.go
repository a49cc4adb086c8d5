package replication

import (
	"log/slog"
	"testing"

	"github.com/stretchr/testify/require"
	pb "go.etcd.io/raft/v3/raftpb"

	"github.com/remora-storage/remora/cachefs/record"
	"github.com/remora-storage/remora/sidecar/replication/consensus"
)

// A record that nobody needs must not stay in memory, and hold the journal, for ever: the table is bounded, and a replica whose table is full
// takes no more.
func TestSweep(t *testing.T) {
	name := func(epoch, seq uint64) record.Name {
		return record.Name{Epoch: record.Epoch(epoch), Incarnation: record.Incarnation(epoch), Seq: record.Seq(seq)}
	}
	entry := func(n record.Name) pb.Entry {
		return pb.Entry{Index: 1, Term: 1, Type: pb.EntryNormal, Data: consensus.Entry{Kind: record.Change, Name: n}.Encode()}
	}
	core, err := consensus.New(consensus.Config{ID: 1, Members: &pb.ConfState{Voters: []uint64{1, 2, 3}}, Entries: []pb.Entry{entry(name(2, 1))}, Logger: slog.New(slog.DiscardHandler)})
	require.NoError(t, err)
	p := &peers{core: core, table: map[record.Name]*item{}}
	g := &Group{peers: p}
	for _, n := range []record.Name{name(2, 1), name(2, 2), name(2, 3), name(1, 9), name(1, 8)} {
		p.put(&item{rec: &record.Record{Header: record.Header{Kind: record.Change, Name: n}}, payload: 7})
	}
	p.table[name(2, 2)].own = true                                                              // this owner proposes it again
	p.backlog = []consensus.Write{{Entries: []pb.Entry{entry(name(2, 3))}}}                     // to be written to the journal
	p.table[name(1, 9)].index, p.table[name(1, 8)].done, p.table[name(1, 8)].index = 1, true, 1 // its place in the log is another's now
	g.sweep()
	require.Len(t, p.table, 3)
	require.Contains(t, p.table, name(2, 1))
	require.Contains(t, p.table, name(2, 2))
	require.Contains(t, p.table, name(2, 3))
	require.EqualValues(t, 3*p.table[name(2, 1)].rec.EncodedSize(), p.bytes)
}
