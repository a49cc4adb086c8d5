package webhook

import (
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
	corev1 "k8s.io/api/core/v1"

	"github.com/remora-storage/remora/webhook/spec"
)

// Workload is an injected workload, for who plays the kubelet.
type Workload struct {
	// Namespace is never empty.
	Namespace string
	// Kind is Pod, Deployment, StatefulSet, DaemonSet, Job or CronJob.
	Kind string
	// Name is the object's. For a generated name it is the prefix without its last dash.
	Name string
	// Replicas is the number of pods: replicas, a Job's parallelism, otherwise 1. It may be 0.
	Replicas int
	// FirstOrdinal is the number of a StatefulSet's first pod.
	FirstOrdinal int
	// Template is the pod after injection: annotations, labels, spec.
	Template corev1.PodTemplateSpec
	// Spec is what its annotations asked for. It has at least one volume.
	Spec spec.Spec
}

// kind is a kind of object that has pods in it.
type kind struct {
	apiVersion string
	// template is the path of the pod template; empty for a Pod, which is one.
	template []string
	// replicas is the path of the number of pods; empty for 1.
	replicas []string
}

func kinds() map[string]kind {
	template := []string{"spec", "template"}
	return map[string]kind{
		"Pod":         {apiVersion: "v1"},
		"Deployment":  {apiVersion: "apps/v1", template: template, replicas: []string{"spec", "replicas"}},
		"StatefulSet": {apiVersion: "apps/v1", template: template, replicas: []string{"spec", "replicas"}},
		"DaemonSet":   {apiVersion: "apps/v1", template: template},
		"Job":         {apiVersion: "batch/v1", template: template, replicas: []string{"spec", "parallelism"}},
		"CronJob":     {apiVersion: "batch/v1", template: []string{"spec", "jobTemplate", "spec", "template"}},
	}
}

// object is one object of a document: the document itself, or an item of a List.
type object struct {
	node *yaml.Node
	// kind and apiVersion are the node's own, or what its List says of its items.
	kind, apiVersion string
	// place is empty, or "items[2] " and so on.
	place string
}

// objects returns the objects of a document, those of Lists in Lists too.
func objects(root *yaml.Node) []object {
	return appendObjects(nil, object{node: root, kind: text(root, "kind"), apiVersion: text(root, "apiVersion")})
}

func appendObjects(list []object, o object) []object {
	items := get(o.node, "items")
	of, isList := strings.CutSuffix(o.kind, "List")
	if !isList || items == nil || items.Kind != yaml.SequenceNode {
		return append(list, o)
	}
	for i, item := range items.Content {
		child := object{node: item, kind: text(item, "kind"), apiVersion: text(item, "apiVersion"), place: o.place + "items[" + strconv.Itoa(i) + "] "}
		if child.kind == "" && of != "" {
			child.kind, child.apiVersion = of, o.apiVersion
		}
		list = appendObjects(list, child)
	}
	return list
}

// name is how messages call the object.
func (o object) name() string {
	name := text(o.node, "metadata", "name")
	if name == "" {
		name = text(o.node, "metadata", "generateName")
	}
	if name == "" {
		name = "(no name)"
	}
	kind := o.kind
	if kind == "" {
		kind = "(no kind)"
	}
	return o.place + kind + "/" + strings.TrimSpace(strings.Trim(strconv.Quote(name), `"`))
}

// integer reads a whole number that is at least 0.
func integer(n *yaml.Node, otherwise int, path ...string) (int, *spec.Problem) {
	v := get(n, path...)
	if v == nil || v.ShortTag() == "!!null" {
		return otherwise, nil
	}
	i, err := strconv.ParseInt(v.Value, 10, 32)
	if err != nil || i < 0 || v.Kind != yaml.ScalarNode || v.ShortTag() != "!!int" {
		return otherwise, &spec.Problem{Key: strings.Join(path, "."), Value: v.Value, HasValue: v.Kind == yaml.ScalarNode,
			What: "is not a number of pods", Allowed: "a whole number from 0", Fix: "write for example 1"}
	}
	return int(i), nil
}

// rollout refuses rollouts in which a new pod starts before the one that it replaces has gone: a volume has one owner, so the
// new pod would wait for the old one, and the old one for the new. It returns the strategy to add where a Deployment names none,
// since Kubernetes' default is such a rollout.
func rollout(o object) (add *yaml.Node, p *spec.Problem) {
	var field string
	switch o.kind {
	case "Deployment":
		field = "strategy"
	case "DaemonSet":
		field = "updateStrategy"
	default:
		return nil, nil
	}
	strategy := get(o.node, "spec", field)
	if absent := strategy == nil || strategy.ShortTag() == "!!null" || len(strategy.Content) == 0; absent {
		if o.kind == "Deployment" {
			add = oneByOne()
		}
		return add, nil
	}
	surge := text(strategy, "rollingUpdate", "maxSurge")
	switch kind := text(strategy, "type"); {
	case kind != "RollingUpdate" && kind != "", surge == "0", surge == "0%", surge == "" && o.kind == "DaemonSet":
		return nil, nil
	}
	key := "spec." + field + ".rollingUpdate.maxSurge"
	fix := "write maxSurge: 0"
	if o.kind == "Deployment" {
		fix = "write maxSurge: 0 (and maxUnavailable: 1), or spec.strategy.type: Recreate"
	}
	what := "lets a new pod start before the old one has gone, and a volume has one owner"
	if surge == "" {
		what = "is missing, and the default 25% " + what
	}
	return nil, &spec.Problem{Key: key, Value: surge, HasValue: surge != "", What: what, Allowed: "0", Fix: fix}
}

func oneByOne() *yaml.Node {
	n, err := fromJSON([]byte(`{"type":"RollingUpdate","rollingUpdate":{"maxSurge":0,"maxUnavailable":1}}`))
	if err != nil {
		panic(err) // a constant
	}
	return n
}
