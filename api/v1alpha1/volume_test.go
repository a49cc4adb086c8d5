package v1alpha1

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestMajorityLost(t *testing.T) {
	member := func(role string, lost bool) Member { return Member{Role: role, Lost: lost} }
	for _, c := range []struct {
		what    string
		members []Member
		lost    bool
	}{
		{"none yet", nil, false},
		{"one", []Member{member(RoleVoter, false)}, false},
		{"the only one", []Member{member(RoleVoter, true)}, true},
		{"one of three", []Member{member(RoleVoter, false), member(RoleLeaving, true), member(RoleVoter, false)}, false},
		{"two of three", []Member{member(RoleVoter, false), member(RoleLeaving, true), member(RoleLeaving, true)}, true},
		{"a learner does not count", []Member{member(RoleVoter, false), member(RoleLeaving, true), member(RoleLeaving, true), member(RoleLearner, false)}, true},
		{"one that leaves and lives counts", []Member{member(RoleVoter, false), member(RoleLeaving, false), member(RoleVoter, true)}, false},
	} {
		v := Volume{Members: c.members}
		require.Equal(t, c.lost, v.MajorityLost(), c.what)
	}
}

func TestCloneSharesNothing(t *testing.T) {
	v := Volume{Nodes: []string{"a"}, Members: []Member{{Replica: "x"}}}
	c := v.Clone()
	c.Nodes[0], c.Members[0].Replica = "b", "y"
	require.Equal(t, Volume{Nodes: []string{"a"}, Members: []Member{{Replica: "x"}}}, v)
	require.Equal(t, "x", v.Member("x").Replica)
	require.Nil(t, v.Member("y"))
	require.Equal(t, 1, v.Copies())
}

func TestWitnessIsNoCopy(t *testing.T) {
	v := Volume{Phase: VolumeReady, Replicas: 2, Witness: "c", Members: []Member{{Replica: "1", Role: RoleVoter}, {Replica: "2", Role: RoleVoter},
		{Replica: "3", Role: RoleVoter, Witness: true}}}
	require.Equal(t, 3, v.Voters())
	require.Equal(t, 2, v.Have())
	for _, id := range []string{"1", "2", "3"} {
		require.True(t, v.CanSpare(id), id)
	}
	v.GiveUp("2")
	require.Equal(t, 1, v.Have())
	require.False(t, v.MajorityLost())
	require.False(t, v.CanSpare("1"), "the witness has nothing of it")
	require.False(t, v.CanSpare("3"), "a majority would be lost")
}

// TestCheckWitness: two copies and a witness stay what they are; either may be on another node.
func TestCheckWitness(t *testing.T) {
	is := func(replicas int, witness string) *Volume {
		return &Volume{Name: "v", Generation: 7, Replicas: replicas, Witness: witness}
	}
	none := &Volume{}
	for _, c := range []struct {
		was, now *Volume
		refused  string
	}{
		{none, is(2, "c"), ""},
		{none, is(3, ""), ""},
		{none, is(0, ""), ""},
		{none, is(3, "c"), "3 copies and a witness"},
		{none, is(0, "c"), "1 copies and a witness"},
		{is(2, "c"), is(2, "b"), ""},
		{is(2, "c"), is(3, "c"), "allowed with a witness: 2"},
		{is(2, "c"), is(1, "c"), "allowed with a witness: 2"},
		{is(2, "c"), is(2, ""), "keeps it"},
		{is(2, "c"), is(3, ""), "keeps it"},
		{is(2, "c"), is(1, ""), "keeps it"},
		{is(3, ""), is(2, "c"), "gets none"},
		{is(1, ""), is(2, "c"), "gets none"},
		{is(1, ""), is(3, ""), ""},
		{is(3, ""), is(1, ""), ""},
	} {
		if err := c.now.CheckWitness(c.was); c.refused == "" {
			require.NoError(t, err)
		} else {
			require.ErrorContains(t, err, c.refused)
			require.ErrorContains(t, err, "copy the files", "what to do")
		}
	}
}

// TestWhoIsToLeaveIsNoOther: those who are to leave may have left already, and what was written since is with the one who stays.
func TestWhoIsToLeaveIsNoOther(t *testing.T) {
	v := Volume{Phase: VolumeReady, Replicas: 1, Grouped: true, Members: []Member{{Replica: "1", Role: RoleVoter}, {Replica: "2", Role: RoleLeaving},
		{Replica: "3", Role: RoleLeaving}, {Replica: "4", Role: RoleLearner, Filled: true}}}
	require.False(t, v.CanSpare("1"))
	require.True(t, v.CanSpare("2"))
	v.Members[1].Role = RoleVoter
	require.True(t, v.CanSpare("1"))
	v.Members[1].Lost = true
	require.False(t, v.CanSpare("1"))
}
