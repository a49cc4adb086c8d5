package webhook

import (
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/remora-storage/remora/webhook/spec"
)

// Complete gives the template of a workload, as JSON, an emptyDir for each of its Remora volumes that a container mounts and that is
// not there. The API server refuses a template whose mounts name no volume, although its pods would get one. Everything else,
// and whatever is wrong with the workload, stays as it is.
func Complete(data []byte) ([]byte, error) {
	root, err := fromJSON(data)
	if err != nil {
		return nil, err
	}
	k, ok := kinds()[text(root, "kind")]
	node := get(root, k.template...)
	pod := get(node, "spec")
	if !ok || len(k.template) == 0 || pod == nil || pod.Kind != yaml.MappingNode {
		return data, nil
	}
	annotation := func(key string) string { return text(node, "metadata", "annotations", key) }
	if annotation(spec.KeyInject) == "false" || text(node, "metadata", "labels", spec.KeyInject) == "false" {
		return data, nil
	}
	claims := (&work{object: object{node: root}}).claims()
	changed := false
	for _, name := range strings.Split(annotation(spec.KeyVolumes), ",") {
		name = strings.TrimSpace(name)
		if len(validation.IsDNS1123Label(name)) > 0 || spec.Reserved(name) || slices.Contains(claims, name) || named(get(pod, "volumes"), name) || !mounts(pod, name) {
			continue
		}
		volume, err := fromJSON([]byte(`{"name":"` + name + `","emptyDir":{}}`))
		if err != nil {
			return nil, err
		}
		list := get(pod, "volumes")
		if list == nil || list.Kind != yaml.SequenceNode {
			list = &yaml.Node{Kind: yaml.SequenceNode, Tag: "!!seq"}
			set(pod, "volumes", list)
		}
		list.Content = append(list.Content, volume)
		changed = true
	}
	if !changed {
		return data, nil
	}
	return toJSON(root)
}

// named says whether a list has an element of that name.
func named(list *yaml.Node, name string) bool {
	if list == nil || list.Kind != yaml.SequenceNode {
		return false
	}
	for _, e := range list.Content {
		if text(e, "name") == name {
			return true
		}
	}
	return false
}

// mounts says whether a container of a pod mounts the volume.
func mounts(pod *yaml.Node, name string) bool {
	for _, key := range []string{"initContainers", "containers"} {
		list := get(pod, key)
		if list == nil || list.Kind != yaml.SequenceNode {
			continue
		}
		for _, c := range list.Content {
			if named(get(c, "volumeMounts"), name) {
				return true
			}
		}
	}
	return false
}
