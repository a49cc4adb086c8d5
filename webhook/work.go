package webhook

import (
	"encoding/json"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
	corev1 "k8s.io/api/core/v1"
	kjson "k8s.io/apimachinery/pkg/util/json"
	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/remora-storage/remora/webhook/spec"
)

// work is the injection of one object.
type work struct {
	*injector
	object
	kind     kind
	problems []spec.Problem
	changed  bool
}

// run goes through the steps of the package's comment.
func (w *work) run() {
	w.misplaced()
	node := get(w.node, w.kind.template...)
	if node == nil || node.Kind != yaml.MappingNode {
		return
	}
	annotations, unquoted := w.annotations(get(node, "metadata", "annotations"))
	_, injected := annotations[spec.KeyStatus]
	optedOut := text(node, "metadata", "labels", spec.KeyInject) == "false"
	if (!spec.Wanted(annotations) || optedOut) && !injected {
		w.problems = append(w.problems, unquoted...) // a bare false opts nobody out: Kubernetes refuses the pod
		return
	}
	s, problems := spec.Spec{}, []spec.Problem(nil)
	if !optedOut {
		s, problems = spec.Parse(annotations, w.classes, w.unnamed)
	}
	for _, p := range unquoted {
		if !slices.ContainsFunc(problems, func(other spec.Problem) bool { return other.Key == p.Key }) {
			problems = append(problems, p) // otherwise quotes alone would not do
		}
	}
	w.problems = append(w.problems, problems...)
	t, ok := w.template(node, annotations)
	if !ok {
		return
	}
	w.problems = append(w.problems, Check(t, w.claims(), s, w.options.Mode)...)
	strategy, problem := rollout(w.object)
	if problem != nil && len(s.Volumes) > 0 {
		w.problems = append(w.problems, *problem)
	}
	done := w.workload(t, s)
	if len(w.problems) > 0 {
		return
	}
	live := Live{Keep: w.options.Place != nil && w.object.kind == "Pod"}
	if w.options.Place != nil && w.object.kind == "Pod" && len(s.Volumes) > 0 {
		live.Nodes, w.problems = w.options.Place(done)
		if len(w.problems) > 0 {
			return
		}
	}
	done.Template = Patch(t, s, w.options.Mode, w.options.Config, live)
	w.write(node, t, done.Template)
	if len(s.Volumes) == 0 {
		return
	}
	if strategy != nil {
		set(get(w.node, "spec"), "strategy", strategy)
		w.changed = true
	}
	w.result.Workloads = append(w.result.Workloads, done)
}

// misplaced refuses annotations at the workload: they would do nothing there, and nobody would notice.
func (w *work) misplaced() {
	metas := [][]string{{"metadata", "annotations"}}
	switch w.object.kind {
	case "Pod":
		return
	case "CronJob":
		metas = append(metas, []string{"spec", "jobTemplate", "metadata", "annotations"})
	}
	for _, path := range metas {
		n := get(w.node, path...)
		for i := 0; n != nil && n.Kind == yaml.MappingNode && i+1 < len(n.Content); i += 2 {
			if key := n.Content[i].Value; spec.Ours(key) {
				right := strings.Join(w.kind.template, ".") + ".metadata.annotations"
				w.problems = append(w.problems, spec.Problem{Key: strings.Join(path, ".") + "[" + key + "]", Value: n.Content[i+1].Value, HasValue: true,
					What: "is at the workload, where it does nothing", Allowed: "annotations of Remora in " + right, Fix: "move it to " + right})
			}
		}
	}
}

// annotations reads the annotations. Kubernetes takes strings only: a bare 5 or false among ours is a problem.
func (w *work) annotations(n *yaml.Node) (all map[string]string, unquoted []spec.Problem) {
	if n == nil || n.Kind != yaml.MappingNode {
		return nil, nil
	}
	all = map[string]string{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, v := n.Content[i].Value, n.Content[i+1]
		all[key] = v.Value
		if spec.Ours(key) && (v.Kind != yaml.ScalarNode || v.ShortTag() != "!!str" || v.Style == 0 && readsOtherwise(v.Value)) {
			unquoted = append(unquoted, spec.Problem{Key: key, Value: v.Value, HasValue: v.Kind == yaml.ScalarNode, What: "is not a string to Kubernetes",
				Allowed: "a string", Fix: "write it in quotes: " + spec.Quote(v.Value)})
		}
	}
	return all, unquoted
}

// template reads the pod template.
func (w *work) template(node *yaml.Node, annotations map[string]string) (t corev1.PodTemplateSpec, ok bool) {
	where := strings.Join(append(slices.Clone(w.kind.template), "spec"), ".")
	data, err := toJSON(&yaml.Node{Kind: yaml.MappingNode, Content: pick(node, "spec")})
	if err == nil {
		err = kjson.Unmarshal(data, &t)
	}
	if err != nil {
		w.problems = append(w.problems, spec.Problem{Key: where, What: "is not that of a pod: " + strings.TrimPrefix(err.Error(), "json: "),
			Allowed: "the fields of a PodSpec", Fix: "correct the field"})
		return t, false
	}
	if labels := get(node, "metadata", "labels"); labels != nil && labels.Kind == yaml.MappingNode {
		t.Labels = map[string]string{}
		for i := 0; i+1 < len(labels.Content); i += 2 {
			t.Labels[labels.Content[i].Value] = labels.Content[i+1].Value
		}
	}
	t.Annotations = annotations
	return t, true
}

func pick(n *yaml.Node, key string) []*yaml.Node {
	if i := keyIndex(n, key); i >= 0 {
		return n.Content[i : i+2]
	}
	return nil
}

// claims are the names of a StatefulSet's volumeClaimTemplates.
func (w *work) claims() (names []string) {
	if list := get(w.node, "spec", "volumeClaimTemplates"); list != nil && list.Kind == yaml.SequenceNode {
		for _, claim := range list.Content {
			names = append(names, text(claim, "metadata", "name"))
		}
	}
	return names
}

// workload reads what stands around the template.
func (w *work) workload(t corev1.PodTemplateSpec, s spec.Spec) Workload {
	out := Workload{Kind: w.object.kind, Namespace: text(w.node, "metadata", "namespace"), Name: text(w.node, "metadata", "name"), Replicas: 1, Template: t, Spec: s}
	bad := func(key, value, what, allowed, fix string) {
		w.problems = append(w.problems, spec.Problem{Key: key, Value: value, HasValue: true, What: what, Allowed: allowed, Fix: fix})
	}
	if out.Namespace == "" {
		out.Namespace = corev1.NamespaceDefault
	}
	if len(validation.IsDNS1123Label(out.Namespace)) > 0 {
		bad("metadata.namespace", out.Namespace, "is not a DNS label", "lower-case letters, digits and -", "correct the name")
	}
	if prefix := text(w.node, "metadata", "generateName"); out.Name == "" && prefix != "" {
		out.Name = strings.TrimRight(prefix, "-.")
	}
	if len(validation.IsDNS1123Subdomain(out.Name)) > 0 {
		bad("metadata.name", out.Name, "is not a name", "a DNS subdomain: lower-case letters, digits, - and .", "correct the name")
	}
	count := func(to *int, otherwise int, path ...string) {
		n, problem := integer(w.node, otherwise, path...)
		if *to = n; problem != nil {
			w.problems = append(w.problems, *problem)
		}
	}
	if len(w.kind.replicas) > 0 {
		count(&out.Replicas, 1, w.kind.replicas...)
	}
	if w.object.kind == "StatefulSet" {
		count(&out.FirstOrdinal, 0, "spec", "ordinals", "start")
	}
	return out
}

// write brings the document's template from before to after.
func (w *work) write(node *yaml.Node, before, after corev1.PodTemplateSpec) {
	b, a := tree(before), tree(after)
	if same(b, a) {
		return
	}
	w.changed = true
	apply(node, b, a)
}

// tree is the part of a template that an injection may change, keys in the order of the types.
func tree(t corev1.PodTemplateSpec) *yaml.Node {
	type meta struct {
		Annotations map[string]string `json:"annotations,omitempty"`
	}
	data, err := json.Marshal(struct {
		Metadata meta           `json:"metadata"`
		Spec     corev1.PodSpec `json:"spec"`
	}{meta{t.Annotations}, t.Spec})
	if err != nil {
		panic(err) // the types of Kubernetes
	}
	n, err := fromJSON(data)
	if err != nil {
		panic(err) // what Marshal wrote
	}
	return n
}
