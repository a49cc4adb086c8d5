package consensus

import (
	"log/slog"
	"testing"

	"github.com/stretchr/testify/require"
	pb "go.etcd.io/raft/v3/raftpb"

	"github.com/remora-storage/remora/cachefs/record"
)

// TestLearn: a replica that does not know how much of its log is committed finds it by the terms of a log of which all is.
func TestLearn(t *testing.T) {
	entries := func(from uint64, terms ...uint64) (es []pb.Entry) {
		for k, term := range terms {
			i := from + uint64(k)
			e := Entry{record.Change, record.Name{Epoch: 1, Incarnation: 1, Seq: record.Seq(i)}}
			es = append(es, pb.Entry{Index: i, Term: term, Type: pb.EntryNormal, Data: e.Encode()})
		}
		return es
	}
	open := func(id, base, term uint64, known []TermStart, es []pb.Entry) *Core {
		c, err := New(Config{ID: id, Index: base, Term: term, Terms: known, Members: &pb.ConfState{Voters: []uint64{1, 2, 3}}, Hard: HardState{Term: 9},
			Entries: es, Logger: slog.New(slog.DiscardHandler)})
		require.NoError(t, err)
		return c
	}
	leader := open(1, 12, 4, []TermStart{{5, 2}, {10, 4}}, entries(13, 4, 7, 7))
	terms := leader.Terms(15)
	require.Equal(t, []TermStart{{5, 2}, {10, 4}, {14, 7}}, terms)
	leader.Forget(14)
	require.Equal(t, terms, leader.Terms(15), "what is forgotten of the log is not forgotten of its terms")
	require.Equal(t, terms[:2], leader.Terms(13))

	for _, have := range []struct {
		name     string
		terms    []uint64 // of a log from 7 on
		upTo     uint64
		want     uint64
		follower bool
	}{
		{"all of it", []uint64{2, 2, 2, 4, 4}, 15, 11, true},
		{"the end is of a leader that the group has left", []uint64{2, 2, 2, 3, 3}, 15, 9, true},
		{"of one that has the same term at no index", []uint64{3, 3, 3, 3, 3}, 15, 6, true},
		{"not behind the state", []uint64{2, 2, 2, 4, 4}, 10, 10, true},
		{"nobody leads", []uint64{2, 2, 2, 4, 4}, 15, 6, false},
	} {
		t.Run(have.name, func(t *testing.T) {
			c := open(2, 6, 2, nil, entries(7, have.terms...))
			if have.follower {
				require.NoError(t, c.Step(Message{From: 1, Raft: &pb.Message{Type: pb.MsgHeartbeat, From: 1, To: 2, Term: 9}}))
			}
			_, err := c.Ready()
			require.NoError(t, err)
			require.NoError(t, c.Learn(terms, have.upTo))
			_, err = c.Ready()
			require.NoError(t, err)
			at, _ := c.Delivered()
			require.Equal(t, have.want, at)
		})
	}
}
