package spec

import (
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/remora-storage/remora/api/v1alpha1"
)

// Ours says whether an annotation's key is in Remora's domain, whatever its case: Kubernetes takes Remora.dev/Volumes too, and
// such a key must not be ignored in silence.
func Ours(key string) bool {
	prefix, _, _ := strings.Cut(strings.ToLower(key), "/")
	return prefix == Domain || strings.HasSuffix(prefix, "."+Domain)
}

// Wanted says whether the annotations ask for anything: one of ours is there, other than the injector's own.
func Wanted(annotations map[string]string) bool {
	if annotations[KeyInject] == "false" {
		return false
	}
	for key := range annotations {
		if Ours(key) && key != KeyStatus {
			return true
		}
	}
	return false
}

// Parse reads the annotations of a pod; unnamed is the class of a volume that names none. It returns every problem, in the order of the
// keys; the Spec is good only if there is none. A pod that opted out, or has no annotation of ours, gives an empty Spec.
func Parse(annotations map[string]string, classes Classes, unnamed string) (Spec, []Problem) {
	if !Wanted(annotations) {
		return Spec{}, nil
	}
	p := parser{annotations: annotations, classes: classes, unnamed: unnamed}
	p.volumeNames()
	p.keys()
	for _, name := range p.names {
		p.volume(name)
	}
	p.spec.resources = largest(p.resources)
	slices.SortStableFunc(p.problems, func(a, b Problem) int { return strings.Compare(a.Key, b.Key) })
	return p.spec, p.problems
}

type parser struct {
	annotations map[string]string
	classes     Classes
	unnamed     string
	// names are the good names of the list, listed all of them.
	names, listed []string
	spec          Spec
	resources     []corev1.ResourceRequirements
	problems      []Problem
}

func (p *parser) bad(key, what, allowed, fix string) {
	value, ok := p.annotations[key]
	p.problems = append(p.problems, Problem{Key: key, Value: value, HasValue: ok, What: what, Allowed: allowed, Fix: fix})
}

const (
	namesAllowed = "volume names separated by commas, each a DNS label (at most 63 lower-case letters, digits and -) and there once"
	// reservedPrefix is what the injector's own volumes are called by.
	reserved       = "remora"
	reservedPrefix = reserved + "-"
)

// Reserved says whether a container or volume of a pod may have that name only if the injector made it.
func Reserved(name string) bool { return name == reserved || strings.HasPrefix(name, reservedPrefix) }

func (p *parser) volumeNames() {
	list, ok := p.annotations[KeyVolumes]
	if !ok {
		return
	}
	if strings.TrimSpace(list) == "" {
		p.bad(KeyVolumes, "names no volume", namesAllowed, `write for example "data", or remove the annotation`)
		return
	}
	for _, item := range strings.Split(list, ",") {
		name := strings.TrimSpace(item)
		p.listed = append(p.listed, name)
		switch {
		case name == "":
			p.bad(KeyVolumes, "has an empty name in it", namesAllowed, "remove the comma too many")
		case len(validation.IsDNS1123Label(name)) > 0:
			p.bad(KeyVolumes, Quote(name)+" is not a DNS label", namesAllowed, labelFix(name))
		case Reserved(name):
			p.bad(KeyVolumes, Quote(name)+" is reserved for the injector", `a name other than "remora" and "remora-..."`, "rename the volume")
		case slices.Contains(p.names, name):
			p.bad(KeyVolumes, Quote(name)+" is there twice", namesAllowed, "remove one of the two")
		default:
			p.names = append(p.names, name)
		}
	}
}

// labelFix guesses the label that was meant: My_Data is my-data.
func labelFix(name string) string {
	guess := strings.Trim(strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= '0' && r <= '9' {
			return r
		}
		return '-'
	}, strings.ToLower(name)), "-")
	if len(guess) > 63 {
		guess = strings.Trim(guess[:63], "-")
	}
	if guess == "" || Reserved(guess) {
		guess = "data"
	}
	return "write " + Quote(guess) + ", and name the pod's volume so"
}

func podKeys() []string { return []string{KeyVolumes, KeyInject} }

func volumeAttrs() []string {
	return []string{AttrSize, AttrClass, AttrMode, AttrAccess, AttrTrace}
}

// administrators are keys that somebody may try, and that no pod is ever given: they would lead out of its own volumes and rights.
func administrators() []string {
	return []string{"image", "imagepullpolicy", "command", "args", "env", "resources", "privileged", "mode", "securitycontext", "runasuser", "capabilities", "mounts", "hostpath",
		"path", "disk", "disks", "root", "node", "peers", "replica", "replicas", "owner", "namespace", "tenant", "volumename", "uid", "key", "keys", "secret",
		"credentials", "endpoint", "bucket", "otlp-endpoint", "serviceaccount", "sealing", "durability", "engine", "kind", "holder", "authority"}
}

// keys refuses every key of ours that means nothing.
func (p *parser) keys() {
	_, listed := p.annotations[KeyVolumes]
	for key, value := range p.annotations {
		if !Ours(key) || key == KeyVolumes || key == KeyStatus {
			continue
		}
		if key == KeyInject {
			if value != "true" {
				p.bad(key, "is neither true nor false", `"true", "false"`, `write "false" to opt the pod out`)
			} else if !listed {
				p.bad(KeyVolumes, "is missing, and nothing would be injected", namesAllowed, `add the annotation, for example "data"`)
			}
			continue
		}
		prefix, attr, _ := strings.Cut(key, "/")
		name, isVolume := strings.CutSuffix(prefix, "."+Domain)
		switch {
		case !isVolume || !slices.Contains(volumeAttrs(), attr):
			p.unknownKey(key)
		case slices.Contains(p.listed, name):
		default:
			p.bad(key, "is for volume "+Quote(name)+", which "+KeyVolumes+" does not list", "a volume of the list: "+or(p.names, "the list is empty"), unlistedFix(name, p.names))
		}
	}
}

func unlistedFix(name string, names []string) string {
	if n := Nearest(name, names); n != "" {
		return fmt.Sprintf("write %q for %q, or add %q to %s", n, name, name, KeyVolumes)
	}
	return fmt.Sprintf("add %q to %s, or remove the annotation", name, KeyVolumes)
}

func or(list []string, otherwise string) string {
	if len(list) == 0 {
		return otherwise
	}
	return strings.Join(list, ", ")
}

func (p *parser) unknownKey(key string) {
	names := p.names
	if len(names) == 0 {
		names = []string{"VOLUME"}
	}
	known := podKeys()
	for _, name := range names {
		for _, attr := range volumeAttrs() {
			known = append(known, name+"."+Domain+"/"+attr)
		}
	}
	_, attr, _ := strings.Cut(key, "/")
	if slices.Contains(administrators(), strings.ToLower(attr)) {
		p.bad(key, "is for the administrator to decide, not for a pod", strings.Join(append(podKeys(), "VOLUME."+Domain+"/ and one of "+strings.Join(volumeAttrs(), ", ")), ", "),
			"remove the annotation, or ask for a VolumeClass that decides it")
		return
	}
	fix := "remove the annotation"
	if n := Nearest(key, known); n != "" {
		fix = "write " + n
	}
	allowed := append(podKeys(), "VOLUME."+Domain+"/ and one of "+strings.Join(volumeAttrs(), ", "))
	p.bad(key, "is an unknown annotation", strings.Join(allowed, ", "), fix)
}

// volume reads the annotations of one listed volume.
func (p *parser) volume(name string) {
	key := func(attr string) string { return name + "." + Domain + "/" + attr }
	v := Volume{Name: name, Class: p.unnamed, Mode: ModeFilesystem, Access: ReadWriteOnce}
	if class, ok := p.annotations[key(AttrClass)]; ok {
		v.Class = class
	}
	class, known := p.classes[v.Class]
	if !known {
		names := p.classes.Names()
		p.bad(key(AttrClass), "is not a known class", strings.Join(names, ", "),
			didYouMean(v.Class, names, "choose one of these, or add its VolumeClass to the input"))
		class = BuiltIn()[DefaultClass]
	}
	v.Replicas, v.Witness = class.Replicas, class.Witness
	v.Sealing = class.Sealing
	v.Engine = class.Engine
	v.Size = p.size(key(AttrSize), class, known)
	v.Trace = p.trace(key(AttrTrace), class)
	if v.Engine == v1alpha1.EngineReplicated {
		p.resources = append(p.resources, class.Resources)
	}
	p.only(key(AttrMode), string(ModeFilesystem), "Block")
	p.only(key(AttrAccess), string(ReadWriteOnce), "ReadOnlyMany", "ReadWriteMany", "ReadWriteOncePod")
	p.spec.Volumes = append(p.spec.Volumes, v)
}

func (p *parser) size(key string, class Class, classKnown bool) int64 {
	text, ok := p.annotations[key]
	if !ok {
		if class.DefaultSize == 0 && classKnown {
			p.bad(key, "is missing, and class "+Quote(class.Name)+" has no default size", sizeAllowed, "add the annotation, for example "+key+`: "20Gi"`)
		}
		return class.DefaultSize
	}
	n, bad := ParseSize(text)
	if bad != nil {
		bad.Key = key
		p.problems = append(p.problems, *bad)
		return 0
	}
	if n < class.MinSize || n > class.MaxSize {
		nearest := min(max(n, class.MinSize), class.MaxSize)
		p.bad(key, "is outside the bounds of class "+Quote(class.Name), class.sizes(), fmt.Sprintf("write %q", formatSize(nearest)))
	}
	return n
}

func (p *parser) trace(key string, class Class) Trace {
	text, ok := p.annotations[key]
	if !ok {
		return class.Trace
	}
	if class.Engine == v1alpha1.EngineLocal {
		p.bad(key, "means nothing in class "+Quote(class.Name)+", whose engine local has no traces", "no trace setting", "remove the annotation, or choose another class")
		return class.Trace
	}
	t, err := ParseTrace(text)
	switch {
	case err != nil:
		p.bad(key, "is not a trace setting", class.allowed(), didYouMean(text, traceKinds()[:3], fmt.Sprintf("write %q", class.Trace)))
	case !class.allows(t):
		p.bad(key, "is not allowed by class "+Quote(class.Name), class.allowed(), fmt.Sprintf("write %q", class.Trace))
	}
	return t
}

// only checks an annotation that has one value for now; later are values that others will get.
func (p *parser) only(key, value string, later ...string) {
	text, ok := p.annotations[key]
	if !ok || text == value {
		return
	}
	what := "is unknown"
	if slices.ContainsFunc(later, func(s string) bool { return strings.EqualFold(s, text) }) {
		what = "is not offered by this release"
	}
	p.bad(key, what, fmt.Sprintf("%q", value), fmt.Sprintf("write %q, or remove the annotation", value))
}
