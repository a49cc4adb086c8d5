package webhook

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/remora-storage/remora/api/v1alpha1"
	"github.com/remora-storage/remora/webhook/spec"
)

// The fields of a VolumeClass. Another one is refused: a setting that is ignored in silence is worse than none.
var (
	classFields    = []string{"apiVersion", "kind", "metadata", "spec"}
	specFields     = []string{"replicas", "witness", "durability", "sealing", "engine", "minSize", "maxSize", "defaultSize", "sidecar", "trace"}
	sidecarFields  = []string{"resources"}
	resourceFields = []string{"requests", "limits"}
	traceFields    = []string{"default", "allowed"}
)

// ParseClass reads a VolumeClass as JSON. Where there are problems, the class is not to be used.
func ParseClass(data []byte) (spec.Class, []spec.Problem) {
	root, err := fromJSON(data)
	if err != nil {
		return spec.Class{}, []spec.Problem{{Key: "manifest", What: "is not JSON: " + err.Error(), Allowed: "a VolumeClass", Fix: "write it anew"}}
	}
	return readClass(root)
}

// readClass reads a VolumeClass document.
func readClass(root *yaml.Node) (spec.Class, []spec.Problem) {
	r := classReader{}
	r.fields("", root, classFields)
	s := r.mapping("spec", root)
	r.fields("spec.", s, specFields)
	trace := r.mapping("spec.trace", s)
	r.fields("spec.trace.", trace, traceFields)
	sidecar := r.mapping("spec.sidecar", s)
	r.fields("spec.sidecar.", sidecar, sidecarFields)
	v := v1alpha1.VolumeClassSpec{
		Replicas:    r.integer("spec.replicas", s),
		Witness:     r.flag("spec.witness", s),
		Durability:  v1alpha1.Durability(r.text("spec.durability", s)),
		Sealing:     v1alpha1.Sealing(r.text("spec.sealing", s)),
		Engine:      v1alpha1.Engine(r.text("spec.engine", s)),
		Sidecar:     v1alpha1.SidecarPolicy{Resources: r.resources("spec.sidecar.resources", sidecar)},
		MinSize:     r.text("spec.minSize", s),
		MaxSize:     r.text("spec.maxSize", s),
		DefaultSize: r.text("spec.defaultSize", s),
		Trace:       v1alpha1.TracePolicy{Default: r.text("spec.trace.default", trace), Allowed: r.texts("spec.trace.allowed", trace)},
	}
	c, problems := spec.NewClass(text(root, "metadata", "name"), v)
	return c, append(r.problems, problems...)
}

func (r *classReader) resources(key string, n *yaml.Node) *v1alpha1.SidecarResources {
	m := r.mapping(key, n)
	if m == nil {
		return nil
	}
	r.fields(key+".", m, resourceFields)
	return &v1alpha1.SidecarResources{Requests: r.quantities(key+".requests", m), Limits: r.quantities(key+".limits", m)}
}

func (r *classReader) quantities(key string, n *yaml.Node) map[string]string {
	m := r.mapping(key, n)
	if m == nil {
		return nil
	}
	all := map[string]string{}
	for i := 0; i+1 < len(m.Content); i += 2 {
		name := m.Content[i].Value
		all[name] = r.text(key+"."+name, m)
	}
	return all
}

type classReader struct{ problems []spec.Problem }

func (r *classReader) bad(key string, n *yaml.Node, what, allowed, fix string) {
	r.problems = append(r.problems, spec.Problem{Key: key, Value: n.Value, HasValue: n.Kind == yaml.ScalarNode, What: what, Allowed: allowed, Fix: fix})
}

func (r *classReader) fields(prefix string, n *yaml.Node, known []string) {
	if n == nil || n.Kind != yaml.MappingNode {
		return
	}
	for i := 0; i+1 < len(n.Content); i += 2 {
		key := n.Content[i].Value
		if slices.Contains(known, key) {
			continue
		}
		fix := "remove it"
		if near := spec.Nearest(key, known); near != "" {
			fix = "write " + prefix + near
		}
		r.bad(prefix+key, n.Content[i+1], "is an unknown field", strings.Join(known, ", "), fix)
	}
}

// value returns the field of a dotted key, nil if it is absent or null.
func value(key string, n *yaml.Node) *yaml.Node {
	v := get(n, key[strings.LastIndexByte(key, '.')+1:])
	if v != nil && v.ShortTag() == "!!null" {
		return nil
	}
	return v
}

func (r *classReader) mapping(key string, n *yaml.Node) *yaml.Node {
	v := value(key, n)
	if v != nil && v.Kind != yaml.MappingNode {
		r.bad(key, v, "is not a mapping", "fields and their values", "indent its fields below it")
		return nil
	}
	return v
}

func (r *classReader) integer(key string, n *yaml.Node) *int {
	v := value(key, n)
	if v == nil {
		return nil
	}
	i, err := strconv.Atoi(v.Value)
	if err != nil || v.ShortTag() != "!!int" {
		r.bad(key, v, "is not a whole number", "1, 3, 5", "write 1")
		return nil
	}
	return &i
}

func (r *classReader) flag(key string, n *yaml.Node) *bool {
	v := value(key, n)
	if v == nil {
		return nil
	}
	if v.ShortTag() != "!!bool" {
		r.bad(key, v, "is neither true nor false", "true, false", "write true, or leave it out")
		return nil
	}
	yes := v.Value == "true"
	return &yes
}

// text reads a string. A bare on or 5 is taken as it is written: to YAML 1.2 the one is a string, and the other is a size.
func (r *classReader) text(key string, n *yaml.Node) string {
	v := value(key, n)
	if v == nil {
		return ""
	}
	if v.Kind != yaml.ScalarNode {
		r.bad(key, v, "is not a string", "a string", "write one value")
		return ""
	}
	return v.Value
}

func (r *classReader) texts(key string, n *yaml.Node) []string {
	v := value(key, n)
	if v == nil {
		return nil
	}
	list := []string{}
	if v.Kind != yaml.SequenceNode {
		r.bad(key, v, "is not a list", "a list of strings", fmt.Sprintf("write [%s]", v.Value))
		return list
	}
	for _, e := range v.Content {
		list = append(list, e.Value)
	}
	return list
}
