package webhook

import (
	"testing"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
)

// TestPin pins pods with and without affinities of their own, again to the same and to other nodes, and takes the pin away.
func TestPin(t *testing.T) {
	zone := corev1.NodeSelectorRequirement{Key: "zone", Operator: corev1.NodeSelectorOpIn, Values: []string{"a"}}
	disk := corev1.NodeSelectorRequirement{Key: "disk", Operator: corev1.NodeSelectorOpExists}
	term := func(fields []string, r ...corev1.NodeSelectorRequirement) corev1.NodeSelectorTerm {
		t := corev1.NodeSelectorTerm{MatchExpressions: r}
		for _, f := range fields {
			t.MatchFields = append(t.MatchFields, onNode(f))
		}
		return t
	}
	with := func(terms ...corev1.NodeSelectorTerm) *corev1.Affinity {
		return &corev1.Affinity{NodeAffinity: &corev1.NodeAffinity{RequiredDuringSchedulingIgnoredDuringExecution: &corev1.NodeSelector{NodeSelectorTerms: terms}}}
	}
	preferred := &corev1.Affinity{NodeAffinity: &corev1.NodeAffinity{PreferredDuringSchedulingIgnoredDuringExecution: []corev1.PreferredSchedulingTerm{{Weight: 1, Preference: term(nil, zone)}}}}
	for name, c := range map[string]struct{ before, one, two *corev1.Affinity }{
		"none": {nil, with(term([]string{"n1"})), with(term([]string{"n1"}), term([]string{"n2"}))},
		"own": {with(term(nil, zone), term(nil, disk)), with(term([]string{"n1"}, zone), term([]string{"n1"}, disk)),
			with(term([]string{"n1"}, zone), term([]string{"n2"}, zone), term([]string{"n1"}, disk), term([]string{"n2"}, disk))},
		"preferred": {preferred, &corev1.Affinity{NodeAffinity: &corev1.NodeAffinity{
			RequiredDuringSchedulingIgnoredDuringExecution:  with(term([]string{"n1"})).NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution,
			PreferredDuringSchedulingIgnoredDuringExecution: preferred.NodeAffinity.PreferredDuringSchedulingIgnoredDuringExecution}}, nil},
	} {
		p := corev1.PodSpec{Affinity: c.before.DeepCopy()}
		pin(&p, []string{"n1"}, nil)
		require.Equal(t, c.one, p.Affinity, name)
		pin(&p, []string{"n1"}, []string{"n1"})
		require.Equal(t, c.one, p.Affinity, name+", again")
		pin(&p, []string{"n1", "n2"}, []string{"n1"})
		if c.two != nil {
			require.Equal(t, c.two, p.Affinity, name+", to two nodes")
		}
		pin(&p, nil, []string{"n1", "n2"})
		require.Equal(t, c.before, p.Affinity, name+", not any more")
	}
	placed := corev1.PodSpec{NodeName: "n9"}
	pin(&placed, []string{"n1"}, nil)
	require.Nil(t, placed.Affinity, "a pod that names its node is not scheduled")
	// A term without anything matches no node; with a pin it would match one.
	empty := corev1.PodSpec{Affinity: with(corev1.NodeSelectorTerm{}, term(nil, zone))}
	pin(&empty, []string{"n1"}, nil)
	require.Equal(t, with(term([]string{"n1"}, zone)), empty.Affinity)
}
