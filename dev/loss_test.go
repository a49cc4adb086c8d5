package dev

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/remora-storage/remora/api/v1alpha1"
	"github.com/remora-storage/remora/sidecar/status"
)

// TestWhoGoesOnAlone: of what is left the replica whose log Raft would have led is chosen, not the one that has applied most, and never one
// whose state was being replaced, while there is one with a state. All that may be chosen must answer.
func TestWhoGoesOnAlone(t *testing.T) {
	voter := func(id string) v1alpha1.Member {
		return v1alpha1.Member{Replica: id, Node: "node-" + id, Role: v1alpha1.RoleVoter}
	}
	at := func(term, last, applied uint64) status.Hosted {
		return status.Hosted{State: status.InSync, LastTerm: term, Last: last, Applied: applied}
	}
	hollow := at(9, 900, 0)
	hollow.State = status.Rebuilding
	broken := at(9, 900, 900)
	broken.Error = "it stopped"
	lost, witness, learner, leaving := voter("c"), voter("c"), voter("c"), voter("c")
	lost.Lost, witness.Witness, learner.Role, leaving.Role = true, true, v1alpha1.RoleLearner, v1alpha1.RoleLeaving
	for _, c := range []struct {
		name    string
		third   v1alpha1.Member
		hosted  map[string]status.Hosted
		best    string
		refused string
	}{
		{"the longest log of one term", voter("c"), map[string]status.Hosted{"a": at(3, 10, 10), "b": at(3, 12, 9), "c": at(3, 11, 11)}, "b", ""},
		{"a newer term before a longer log", voter("c"), map[string]status.Hosted{"a": at(3, 500, 500), "b": at(2, 900, 400), "c": at(4, 100, 90)}, "c", ""},
		{"the first of two that are alike", voter("c"), map[string]status.Hosted{"a": at(3, 12, 5), "b": at(3, 12, 12), "c": at(3, 12, 9)}, "a", ""},
		{"a state before a log", voter("c"), map[string]status.Hosted{"a": at(3, 10, 10), "b": at(3, 9, 9), "c": hollow}, "a", ""},
		{"a log without a state, if there is nothing else", voter("c"), map[string]status.Hosted{"a": hollow, "b": hollow, "c": hollow}, "a", ""},
		{"who leaves may have most", leaving, map[string]status.Hosted{"a": at(3, 10, 10), "b": at(3, 9, 9), "c": at(3, 11, 9)}, "c", ""},
		{"not one whose disk is lost", lost, map[string]status.Hosted{"a": at(3, 10, 10), "b": at(3, 9, 9), "c": at(9, 90, 90)}, "a", ""},
		{"not a witness", witness, map[string]status.Hosted{"a": at(3, 8, 8), "b": at(3, 9, 9), "c": at(9, 90, 0)}, "b", ""},
		{"not a learner", learner, map[string]status.Hosted{"a": at(3, 8, 8), "b": at(3, 9, 9), "c": at(9, 90, 90)}, "b", ""},
		{"one does not answer", voter("c"), map[string]status.Hosted{"a": at(3, 10, 10), "b": at(3, 9, 9)}, "", "replica c on node node-c does not answer"},
		{"one is not served", voter("c"), map[string]status.Hosted{"a": at(3, 10, 10), "b": at(3, 9, 9), "c": broken}, "", "it stopped"},
	} {
		t.Run(c.name, func(t *testing.T) {
			o := &v1alpha1.Volume{Name: "v", Members: []v1alpha1.Member{voter("a"), voter("b"), c.third}}
			best, loss, err := survivorOf(o, c.hosted)
			if c.refused != "" {
				require.ErrorContains(t, err, c.refused)
				return
			}
			require.NoError(t, err)
			require.Equal(t, c.best, best)
			require.Equal(t, Loss{Volume: "v", Survivor: best, Node: "node-" + best, Applied: c.hosted[best].Applied}, loss)
		})
	}
	gone := voter("a")
	gone.Lost = true
	_, _, err := survivorOf(&v1alpha1.Volume{Members: []v1alpha1.Member{gone}}, nil)
	require.ErrorIs(t, err, errNothingLeft)
}

// TestStuck: a volume whose object names enough disks has lost its majority only if all of them answer, and none knows a leader.
func TestStuck(t *testing.T) {
	a := v1alpha1.Member{Replica: "a", Role: v1alpha1.RoleVoter}
	learner := v1alpha1.Member{Replica: "b", Role: v1alpha1.RoleLearner}
	lost := v1alpha1.Member{Replica: "c", Role: v1alpha1.RoleLeaving, Lost: true}
	alone := status.Hosted{State: status.Syncing}
	led := status.Hosted{State: status.Syncing, Leader: "b"}
	broken := status.Hosted{Error: "it stopped"}
	for _, c := range []struct {
		name   string
		hosted map[string]status.Hosted
		want   bool
	}{
		{"nobody knows a leader", map[string]status.Hosted{"a": alone, "b": alone}, true},
		{"one knows a leader", map[string]status.Hosted{"a": alone, "b": led}, false},
		{"one does not answer", map[string]status.Hosted{"a": alone}, false},
		{"one is not served", map[string]status.Hosted{"a": alone, "b": broken}, false},
	} {
		o := &v1alpha1.Volume{Phase: v1alpha1.VolumeReady, Replicas: 3, Members: []v1alpha1.Member{a, learner, lost}}
		require.Equal(t, c.want, stuck(o, c.hosted), c.name)
		o.Phase = v1alpha1.VolumeBootstrapping
		require.False(t, stuck(o, c.hosted), "%s: it is just being made", c.name)
	}
	require.False(t, stuck(&v1alpha1.Volume{Phase: v1alpha1.VolumeReady, Members: []v1alpha1.Member{a}}, map[string]status.Hosted{"a": alone}), "one copy has no leader")
}
