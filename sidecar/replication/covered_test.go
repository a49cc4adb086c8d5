package replication

import (
	"log/slog"
	"testing"

	"github.com/stretchr/testify/require"
	pb "go.etcd.io/raft/v3/raftpb"

	"github.com/remora-storage/remora/sidecar/replication/consensus"
)

// TestCovered: a learner takes the place of a voter with content only while what it lacks is with the witness, and stays there: not where the
// witness itself lacks what the leader's log has no more, and would begin anew behind it (seed 4003038).
func TestCovered(t *testing.T) {
	core, err := consensus.New(consensus.Config{ID: 1, Index: 50, Term: 2, Members: &pb.ConfState{Voters: []uint64{1, 2, 3}, Learners: []uint64{4}},
		Hard: consensus.HardState{Term: 2, Commit: 50}, Logger: slog.New(slog.DiscardHandler)})
	require.NoError(t, err)
	for _, c := range []struct {
		name    string
		witness consensus.Peer
		reports map[uint64]report
		filled  bool
	}{
		{"the witness has all that it lacks", consensus.Peer{Match: 60}, map[uint64]report{3: {witness: true, index: 41, tick: 90}}, true},
		{"the witness begins behind it", consensus.Peer{Match: 60}, map[uint64]report{3: {witness: true, index: 42, tick: 90}}, false},
		{"the witness ends before the leader's log begins", consensus.Peer{Match: 49}, map[uint64]report{3: {witness: true, tick: 90}}, false},
		{"the witness is to begin anew", consensus.Peer{Match: 60, Lagging: true}, map[uint64]report{3: {witness: true, tick: 90}}, false},
		{"the witness has not said for long", consensus.Peer{Match: 60}, map[uint64]report{3: {witness: true, tick: 30}}, false},
		{"the witness has said nothing", consensus.Peer{Match: 60}, nil, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			g := &Group{peers: &peers{core: core, ticks: 100, reports: c.reports}}
			want := []Member{{ID: 1, Role: Voter}, {ID: 2, Role: Leaving}, {ID: 3, Role: Voter, Witness: true}, {ID: 4, Role: Learner, Filled: true}}
			s := &consensus.Status{ID: 1, Voters: []uint64{1, 2, 3}, Learners: []uint64{4}, Peers: map[uint64]consensus.Peer{1: {Match: 60}, 2: {Match: 60}, 3: c.witness, 4: {Match: 41}}}
			got := g.covered(want, s)
			require.Equal(t, c.filled, got[3].Filled)
			require.True(t, want[3].Filled, "the object's own list stays as it is")
		})
	}
}
