package spec

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/remora-storage/remora/api/v1alpha1"
)

// The built-in classes. A VolumeClass of the same name replaces one.
const (
	// DefaultClass keeps one copy. It is the class of a volume that names none, but in dev mode (webhook.Options.Mode).
	DefaultClass = "default"
	// ReplicatedClass keeps three copies, on three nodes. In dev mode it is the class of a volume that names none.
	ReplicatedClass = "replicated"
	// WitnessedClass keeps two copies, and a witness on a third node.
	WitnessedClass = "witnessed"
)

// Class is a checked VolumeClass.
type Class struct {
	Name     string
	Replicas int
	Witness  bool
	Sealing  v1alpha1.Sealing
	Engine   v1alpha1.Engine
	// Resources of the sidecar; empty if the class says nothing.
	Resources corev1.ResourceRequirements
	// DefaultSize is in bytes; zero means that the pod must give a size.
	DefaultSize int64
	// MinSize and MaxSize are in bytes, within the bounds of every volume.
	MinSize, MaxSize int64
	// Trace is used where the pod says nothing; Allowed are the kinds that it may say.
	Trace   Trace
	Allowed []TraceKind
}

// Classes are the known classes by name.
type Classes map[string]Class

// BuiltIn returns the classes that need no VolumeClass: one copy, three, or two and a witness; any size, any trace.
func BuiltIn() Classes {
	one, two, three, witness := 1, 2, 3, true
	single, _ := NewClass(DefaultClass, v1alpha1.VolumeClassSpec{Replicas: &one})
	replicated, _ := NewClass(ReplicatedClass, v1alpha1.VolumeClassSpec{Replicas: &three})
	witnessed, _ := NewClass(WitnessedClass, v1alpha1.VolumeClassSpec{Replicas: &two, Witness: &witness})
	return Classes{DefaultClass: single, ReplicatedClass: replicated, WitnessedClass: witnessed}
}

// Names returns the names in order.
func (c Classes) Names() []string {
	names := make([]string, 0, len(c))
	for name := range c {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// NewClass checks a VolumeClass. The keys of its problems are field paths such as "spec.minSize".
func NewClass(name string, s v1alpha1.VolumeClassSpec) (Class, []Problem) {
	c := Class{Name: name, Replicas: 1}
	var ps []Problem
	if why := validation.IsDNS1123Subdomain(name); len(why) > 0 {
		ps = append(ps, Problem{Key: "metadata.name", Value: name, HasValue: true, What: "is not a name",
			Allowed: "a DNS subdomain: lower-case letters, digits, - and .", Fix: `write for example "replicated"`})
	}
	c.Witness = s.Witness != nil && *s.Witness
	switch {
	case c.Witness && s.Replicas == nil:
		c.Replicas = 2
	case c.Witness && *s.Replicas != 2:
		ps = append(ps, Problem{Key: "spec.replicas", Value: strconv.Itoa(*s.Replicas), HasValue: true, What: "does not go with a witness", Allowed: "2",
			Fix: "write 2, or leave spec.witness out"})
	case c.Witness:
		c.Replicas = 2
	case s.Replicas != nil:
		c.Replicas = *s.Replicas
		ps = append(ps, checkReplicas(c.Replicas)...)
	}
	ps = append(ps, checkChoices(s)...)
	ps = append(ps, c.setSealing(s.Sealing)...)
	ps = append(ps, c.setEngine(s)...)
	ps = append(ps, c.setResources(s.Sidecar.Resources)...)
	ps = append(ps, c.setSizes(s)...)
	ps = append(ps, c.setTrace(s.Trace)...)
	return c, ps
}

// checkReplicas takes odd numbers: an even one survives no more losses than the odd one below it.
func checkReplicas(n int) []Problem {
	p := Problem{Key: "spec.replicas", Value: strconv.Itoa(n), HasValue: true, Allowed: "1, 3, 5"}
	switch {
	case n == 1 || n == 3 || n == 5:
		return nil
	case n < 1:
		p.What, p.Fix = "is less than one copy", "write 1"
	case n > 5:
		p.What, p.Fix = "is more copies than a group may have", "write 5"
	default:
		p.What, p.Fix = "is even, and survives no more losses than one copy less", fmt.Sprintf("write %d", n+1)
	}
	return []Problem{p}
}

// checkChoices refuses what this release would not do: a class that promises more than the sidecar keeps is a lie.
func checkChoices(s v1alpha1.VolumeClassSpec) (ps []Problem) {
	check := func(key, value, now, later string) {
		p := Problem{Key: key, Value: value, HasValue: true, Allowed: fmt.Sprintf("%q", now), Fix: fmt.Sprintf("write %q, or leave it out", now)}
		switch value {
		case "", now:
			return
		case later:
			p.What = "comes with a later release"
		default:
			p.What = "is unknown"
		}
		ps = append(ps, p)
	}
	check("spec.durability", string(s.Durability), string(v1alpha1.DurabilityFsync), string(v1alpha1.DurabilityWrite))
	return ps
}

// setSealing: volumes are sealed unless their class says otherwise.
func (c *Class) setSealing(s v1alpha1.Sealing) []Problem {
	switch s {
	case "":
		c.Sealing = v1alpha1.SealingOn
	case v1alpha1.SealingOn, v1alpha1.SealingOff:
		c.Sealing = s
	default:
		return []Problem{{Key: "spec.sealing", Value: string(s), HasValue: true, What: "is unknown", Allowed: `"on", "off"`, Fix: `write "on", or leave it out`}}
	}
	return nil
}

// setEngine: a class of the engine local promises nothing that only a sidecar does.
func (c *Class) setEngine(s v1alpha1.VolumeClassSpec) (ps []Problem) {
	c.Engine = s.Engine
	switch s.Engine {
	case "":
		c.Engine = v1alpha1.EngineReplicated
		return nil
	case v1alpha1.EngineReplicated:
		return nil
	case v1alpha1.EngineLocal:
	default:
		return []Problem{{Key: "spec.engine", Value: string(s.Engine), HasValue: true, What: "is unknown", Allowed: `"replicated", "local"`, Fix: `write "replicated", or leave it out`}}
	}
	if s.Sealing == v1alpha1.SealingOn {
		ps = append(ps, Problem{Key: "spec.sealing", Value: string(s.Sealing), HasValue: true, What: "is not what the engine local does", Allowed: `"off"`, Fix: `write "off", or leave it out`})
	}
	if s.Trace.Default != "" || s.Trace.Allowed != nil {
		ps = append(ps, Problem{Key: "spec.trace", What: "is there, and the engine local has no traces", Allowed: "no trace", Fix: "remove it"})
	}
	if s.Sidecar.Resources != nil {
		ps = append(ps, Problem{Key: "spec.sidecar.resources", What: "is there, and the engine local has no sidecar", Allowed: "no sidecar", Fix: "remove it"})
	}
	c.Sealing = v1alpha1.SealingOff
	return ps
}

func (c *Class) setSizes(s v1alpha1.VolumeClassSpec) (ps []Problem) {
	c.MinSize, c.MaxSize = MinSize, MaxSize
	read := func(key, value string, to *int64) {
		if value == "" {
			return
		}
		n, bad := ParseSize(value)
		if bad != nil {
			bad.Key = key
			ps = append(ps, *bad)
			return
		}
		*to = n
	}
	read("spec.minSize", s.MinSize, &c.MinSize)
	read("spec.maxSize", s.MaxSize, &c.MaxSize)
	read("spec.defaultSize", s.DefaultSize, &c.DefaultSize)
	if len(ps) > 0 {
		return ps
	}
	if c.MinSize > c.MaxSize {
		ps = append(ps, Problem{Key: "spec.minSize", Value: s.MinSize, HasValue: true, What: "is above spec.maxSize " + Quote(s.MaxSize),
			Allowed: "at most spec.maxSize", Fix: "lower minSize or raise maxSize"})
	} else if d := c.DefaultSize; d != 0 && (d < c.MinSize || d > c.MaxSize) {
		ps = append(ps, Problem{Key: "spec.defaultSize", Value: s.DefaultSize, HasValue: true, What: "is outside the class's bounds",
			Allowed: c.sizes(), Fix: "choose a default within the bounds"})
	}
	return ps
}

// sizes tells the bounds for a message.
func (c *Class) sizes() string {
	return "from " + formatSize(c.MinSize) + " to " + formatSize(c.MaxSize)
}

func (c *Class) setTrace(t v1alpha1.TracePolicy) (ps []Problem) {
	c.Trace = Trace{Kind: TraceEvery}
	known := traceKinds()
	if t.Allowed == nil {
		for _, k := range known {
			c.Allowed = append(c.Allowed, TraceKind(k))
		}
	}
	for _, k := range t.Allowed {
		if !slices.Contains(known, k) {
			ps = append(ps, Problem{Key: "spec.trace.allowed", Value: k, HasValue: true, What: "is unknown",
				Allowed: strings.Join(known, ", "), Fix: didYouMean(k, known, "remove it")})
			continue
		}
		c.Allowed = append(c.Allowed, TraceKind(k))
	}
	if t.Default == "" {
		return ps
	}
	parsed, err := ParseTrace(t.Default)
	if err != nil {
		return append(ps, Problem{Key: "spec.trace.default", Value: t.Default, HasValue: true, What: "is not a trace setting",
			Allowed: traceAllowed, Fix: didYouMean(t.Default, known[:3], `write "every"`)})
	}
	c.Trace = parsed
	return ps
}

// allows says whether a pod may choose t: what the class lists, and always its default.
func (c *Class) allows(t Trace) bool { return t == c.Trace || slices.Contains(c.Allowed, t.Kind) }

// allowed lists for a message what allows accepts.
func (c *Class) allowed() string {
	texts := []string{c.Trace.String()}
	for _, k := range c.Allowed {
		text := string(k)
		if k == TraceRatio {
			text = "ratio:R with R above 0 and at most 1"
		}
		if text != texts[0] {
			texts = append(texts, text)
		}
	}
	return strings.Join(texts, ", ")
}

func didYouMean(s string, candidates []string, otherwise string) string {
	if n := Nearest(s, candidates); n != "" {
		return fmt.Sprintf("write %q", n)
	}
	return otherwise
}
