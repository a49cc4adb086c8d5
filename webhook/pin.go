package webhook

import (
	"reflect"
	"slices"

	corev1 "k8s.io/api/core/v1"
)

// pin lets a pod run on one of the nodes only, beside what its author asked for, and takes an earlier pin away. No nodes: anywhere.
// Terms of a node selector are alternatives, so each of the author's is there once for every node.
func pin(p *corev1.PodSpec, nodes, old []string) {
	unpin(p, old)
	if len(nodes) == 0 || p.NodeName != "" {
		return
	}
	if p.Affinity == nil {
		p.Affinity = &corev1.Affinity{}
	}
	if p.Affinity.NodeAffinity == nil {
		p.Affinity.NodeAffinity = &corev1.NodeAffinity{}
	}
	required := p.Affinity.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution
	if required == nil {
		required = &corev1.NodeSelector{NodeSelectorTerms: []corev1.NodeSelectorTerm{{}}}
		p.Affinity.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution = required
	} else if slices.ContainsFunc(required.NodeSelectorTerms, func(t corev1.NodeSelectorTerm) bool { return !isEmptyTerm(t) }) {
		required.NodeSelectorTerms = slices.DeleteFunc(required.NodeSelectorTerms, isEmptyTerm) // one that the author wrote matches nothing
	} else {
		return // no node will do
	}
	var terms []corev1.NodeSelectorTerm
	for _, t := range required.NodeSelectorTerms {
		for _, n := range nodes {
			with := *t.DeepCopy()
			with.MatchFields = append(with.MatchFields, onNode(n))
			terms = append(terms, with)
		}
	}
	required.NodeSelectorTerms = terms
}

// onNode is the one field that a term may match, with one value.
func onNode(name string) corev1.NodeSelectorRequirement {
	return corev1.NodeSelectorRequirement{Key: "metadata.name", Operator: corev1.NodeSelectorOpIn, Values: []string{name}}
}

func isEmptyTerm(t corev1.NodeSelectorTerm) bool {
	return len(t.MatchExpressions) == 0 && len(t.MatchFields) == 0
}

func unpin(p *corev1.PodSpec, old []string) {
	if len(old) == 0 || p.Affinity == nil || p.Affinity.NodeAffinity == nil || p.Affinity.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution == nil {
		return
	}
	required := p.Affinity.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution
	var terms []corev1.NodeSelectorTerm
	for _, t := range required.NodeSelectorTerms {
		t.MatchFields = slices.DeleteFunc(t.MatchFields, func(r corev1.NodeSelectorRequirement) bool {
			return slices.ContainsFunc(old, func(n string) bool { return reflect.DeepEqual(r, onNode(n)) })
		})
		if len(t.MatchFields) == 0 {
			t.MatchFields = nil
		}
		if !isEmptyTerm(t) && !slices.ContainsFunc(terms, func(other corev1.NodeSelectorTerm) bool { return reflect.DeepEqual(t, other) }) {
			terms = append(terms, t)
		}
	}
	required.NodeSelectorTerms = terms
	if len(terms) > 0 {
		return
	}
	p.Affinity.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution = nil
	if len(p.Affinity.NodeAffinity.PreferredDuringSchedulingIgnoredDuringExecution) == 0 {
		p.Affinity.NodeAffinity = nil
	}
	if *p.Affinity == (corev1.Affinity{}) {
		p.Affinity = nil
	}
}
