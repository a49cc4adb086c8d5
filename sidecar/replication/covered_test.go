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

// TestInherits: while members change, a witness that is behind the leader's log may go on at the leader's index although a voter of both sets does
// not answer, where that voter must have what is committed: the witness has not acknowledged it, and of three old members two did. The voter may
// be lost, and no change would ever end without the witness (seed 80001428). A voter that is new may lack it.
func TestInherits(t *testing.T) {
	lags := consensus.Peer{Lagging: true}
	for _, c := range []struct {
		what  string
		old   []uint64
		peers map[uint64]consensus.Peer
		want  bool
	}{
		{"the old witness lags", []uint64{1, 2, 3}, map[uint64]consensus.Peer{2: {Match: 42}, 3: lags, 4: {Match: 42}}, true},
		{"the old witness may have acknowledged what the voter lacks", []uint64{1, 2, 3}, map[uint64]consensus.Peer{2: {Match: 42}, 3: {Match: 12}, 4: {Match: 42}}, false},
		{"only the new one lags", []uint64{1, 2, 3}, map[uint64]consensus.Peer{2: {Match: 42}, 3: {Match: 42}, 4: lags}, false},
		{"it is the voter itself that lags", []uint64{1, 2, 3}, map[uint64]consensus.Peer{1: lags, 2: {Match: 42}, 3: {Match: 42}, 4: {Match: 42}}, false},
		{"the voter is new", []uint64{2, 3, 5}, map[uint64]consensus.Peer{2: {Match: 42}, 3: lags, 4: {Match: 42}}, false},
		{"there are more old members", []uint64{1, 2, 3, 6, 7}, map[uint64]consensus.Peer{2: {Match: 42}, 3: lags, 4: {Match: 42}}, false},
		{"no change is under way", nil, map[uint64]consensus.Peer{2: {Match: 42}, 3: lags}, false},
	} {
		require.Equal(t, c.want, inherits(&consensus.Status{ID: 2, Leads: true, Joint: true, Voters: []uint64{1, 2, 4}, Peers: c.peers}, c.old, 1), c.what)
	}
}

// TestThins: who goes with content must leave it to who stays, or to who comes with content; a witness has none.
func TestThins(t *testing.T) {
	add, out := func(id uint64) pb.ConfChangeSingle { return single(pb.ConfChangeAddNode, id) }, func(id uint64) pb.ConfChangeSingle { return single(pb.ConfChangeRemoveNode, id) }
	witness := func(id uint64) bool { return id == 3 || id == 9 }
	for _, c := range []struct {
		what    string
		changes []pb.ConfChangeSingle
		want    bool
	}{
		{"nothing", nil, false},
		{"one goes", []pb.ConfChangeSingle{out(1)}, true},
		{"one goes for another", []pb.ConfChangeSingle{add(4), out(1)}, false},
		{"one goes for a witness", []pb.ConfChangeSingle{add(9), out(1)}, true},
		{"a witness for another", []pb.ConfChangeSingle{add(9), out(3)}, false},
		{"a learner goes", []pb.ConfChangeSingle{out(8)}, false},
		{"one is given up, and the witness waits", []pb.ConfChangeSingle{out(1), single(pb.ConfChangeAddLearnerNode, 3)}, true},
	} {
		require.Equal(t, c.want, thins(c.changes, []uint64{1, 2, 3}, witness), c.what)
	}
}
