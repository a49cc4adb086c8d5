package webhook

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"

	"go.yaml.in/yaml/v3"
	corev1 "k8s.io/api/core/v1"
	kjson "k8s.io/apimachinery/pkg/util/json"
	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/remora-storage/remora/api/v1alpha1"
	"github.com/remora-storage/remora/webhook/spec"
)

// MaxFile bounds a file, in bytes. Kubernetes takes objects of 1.5 MiB.
const MaxFile = 64 << 20

// File is one manifest: YAML or JSON, any number of documents.
type File struct {
	// Name stands in errors.
	Name string
	Data []byte
}

// Options say how to inject.
type Options struct {
	// Mode has no default.
	Mode   Mode
	Config Config
}

// Result is what Inject made.
type Result struct {
	// Files are the input's, with their pods injected.
	Files []File
	// Workloads are those that have a Remora volume, in the order of the input.
	Workloads []Workload
}

// Inject patches the pods of the files. VolumeClasses of any file count for all of them. The error is of type Errors and has
// every problem of every document; then there is no Result. Data of the files is not changed, and may be shared with the Result.
func Inject(files []File, o Options) (Result, error) {
	in := injector{options: o, classes: spec.BuiltIn(), result: Result{Files: slices.Clone(files)}}
	docs := make([][]*document, len(files))
	for i, f := range files {
		docs[i] = in.read(f)
	}
	in.readClasses(files, docs)
	for i, f := range files {
		in.result.Files[i].Data = in.file(f, docs[i])
	}
	if len(in.errors) > 0 {
		slices.SortStableFunc(in.errors, func(a, b Error) int {
			if d := fileIndex(files, a.File) - fileIndex(files, b.File); d != 0 {
				return d
			}
			return a.Document - b.Document
		})
		return Result{}, in.errors
	}
	return in.result, nil
}

func fileIndex(files []File, name string) int {
	return slices.IndexFunc(files, func(f File) bool { return f.Name == name })
}

// Join puts the files of a Result together as one stream. One file stays as it is, byte for byte.
func Join(files []File) []byte {
	var out []byte
	for _, f := range files {
		data := f.Data
		if len(out) > 0 {
			data = bytes.TrimPrefix(data, byteOrderMark)
			if out[len(out)-1] != '\n' {
				out = append(out, '\n')
			}
			if !isMarker(data, "---") && len(data) > 0 {
				out = append(out, "---\n"...)
			}
		}
		out = append(out, data...)
	}
	return out
}

type injector struct {
	options Options
	classes spec.Classes
	result  Result
	errors  Errors
}

func (in *injector) bad(f File, d *document, object string, ps ...spec.Problem) {
	for _, p := range ps {
		in.errors = append(in.errors, Error{File: f.Name, Document: d.number, Line: max(d.line, 1), Object: object, Problem: p})
	}
}

// read returns the documents of a file that can be read.
func (in *injector) read(f File) (docs []*document) {
	whole := func(what, allowed, fix string) {
		in.bad(f, &document{segment: segment{number: 1}}, "", spec.Problem{Key: "manifest", What: what, Allowed: allowed, Fix: fix})
	}
	const allowed = "YAML or JSON in UTF-8"
	switch {
	case len(f.Data) > MaxFile:
		whole(fmt.Sprintf("has %d bytes", len(f.Data)), fmt.Sprintf("at most %d bytes", MaxFile), "split the file")
		return nil
	case bytes.HasPrefix(f.Data, []byte("\xff\xfe")) || bytes.HasPrefix(f.Data, []byte("\xfe\xff")):
		whole("is UTF-16", allowed, "save the file as UTF-8")
		return nil
	}
	for _, s := range split(f.Data) {
		d, err := read(s)
		if !utf8.Valid(s.body) {
			err = fmt.Errorf("is not UTF-8 text")
		}
		if err != nil {
			in.bad(f, d, "", spec.Problem{Key: "manifest", What: err.Error(), Allowed: allowed + ", each document a mapping with apiVersion and kind", Fix: "correct the document, or leave it out of the input"})
			d.root = nil
		}
		docs = append(docs, d)
	}
	return docs
}

func (in *injector) readClasses(files []File, docs [][]*document) {
	defined := map[string]string{}
	for i, f := range files {
		for _, d := range docs[i] {
			for _, o := range objects(d.root) {
				if o.kind != v1alpha1.KindVolumeClass || !strings.HasPrefix(o.apiVersion, v1alpha1.Group+"/") {
					continue
				}
				if o.apiVersion != v1alpha1.APIVersion {
					in.bad(f, d, o.name(), spec.Problem{Key: "apiVersion", Value: o.apiVersion, HasValue: true, What: "is not a version of this release",
						Allowed: v1alpha1.APIVersion, Fix: "write " + v1alpha1.APIVersion})
					continue
				}
				c, problems := readClass(o.node)
				if twice := duplicate(o.node); twice != nil {
					problems = append(problems, duplicateProblem(d, twice))
				}
				if where, ok := defined[c.Name]; ok {
					problems = append(problems, spec.Problem{Key: "metadata.name", Value: c.Name, HasValue: true, What: "is defined twice, first in " + where,
						Allowed: "one VolumeClass of a name", Fix: "remove one of the two"})
				}
				defined[c.Name] = fmt.Sprintf("%s, document %d", f.Name, d.number)
				in.bad(f, d, o.name(), problems...)
				in.classes[c.Name] = c
			}
		}
	}
}

func duplicateProblem(d *document, key *yaml.Node) spec.Problem {
	where := ""
	if key.Line > 0 {
		where = fmt.Sprintf(" (again in line %d)", key.Line+d.skipped())
	}
	return spec.Problem{Key: key.Value, What: "is there twice in one mapping" + where, Allowed: "a key once", Fix: "remove one of the two"}
}

// file returns the file with its pods injected.
func (in *injector) file(f File, docs []*document) []byte {
	var out bytes.Buffer
	for _, d := range docs {
		if !in.document(f, d) {
			out.Write(d.bytes(d.body))
			continue
		}
		text, err := d.encode()
		if err != nil {
			in.bad(f, d, objects(d.root)[0].name(), spec.Problem{Key: "manifest", What: err.Error(), Fix: "write the document in a plainer way, or inject it in the cluster"})
		}
		out.Write(text)
	}
	return out.Bytes()
}

// document injects the objects of a document, and says whether any changed.
func (in *injector) document(f File, d *document) (changed bool) {
	if d.root == nil {
		return false
	}
	for _, o := range objects(d.root) {
		k, ok := kinds()[o.kind]
		if !ok || !mentions(o.node) || !k.near(o.apiVersion) {
			continue
		}
		var problems []spec.Problem
		if o.apiVersion != k.apiVersion {
			problems = append(problems, spec.Problem{Key: "apiVersion", Value: o.apiVersion, HasValue: true, What: "is not one that Remora injects", Allowed: k.apiVersion, Fix: "write " + k.apiVersion})
		}
		if d.err != nil {
			problems = append(problems, spec.Problem{Key: "manifest", What: d.err.Error(), Allowed: "aliases of values above them", Fix: "write the values out"})
		} else if twice := duplicate(o.node); twice != nil {
			problems = append(problems, duplicateProblem(d, twice))
		}
		if len(problems) == 0 {
			w := work{injector: in, object: o, kind: k}
			w.run()
			changed = changed || w.changed
			problems = w.problems
		}
		in.bad(f, d, o.name(), problems...)
	}
	return changed
}

// near says whether an apiVersion is of the kind's group, or of none: a Job of another group is another thing.
func (k kind) near(apiVersion string) bool {
	group := func(s string) string { g, _, _ := strings.Cut("/"+s, "/v"); return strings.TrimPrefix(g, "/") }
	return apiVersion == "" || group(apiVersion) == group(k.apiVersion) || strings.HasPrefix(apiVersion, "extensions/")
}

// mentions says whether any key below n is one of Remora's annotations.
func mentions(n *yaml.Node) bool {
	for i, child := range n.Content {
		if n.Kind == yaml.MappingNode && i%2 == 0 {
			if spec.Ours(child.Value) && strings.Contains(child.Value, "/") {
				return true
			}
			continue
		}
		if mentions(child) {
			return true
		}
	}
	return false
}

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
	annotations := w.annotations(get(node, "metadata", "annotations"))
	_, injected := annotations[spec.KeyStatus]
	if !spec.Wanted(annotations) && !injected {
		return
	}
	s, problems := spec.Parse(annotations, w.classes)
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
	done.Template = Patch(t, s, w.options.Mode, w.options.Config)
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

// annotations reads the annotations. Kubernetes takes strings only: a bare 5 or false among ours is refused.
func (w *work) annotations(n *yaml.Node) map[string]string {
	if n == nil || n.Kind != yaml.MappingNode {
		return nil
	}
	all := map[string]string{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, v := n.Content[i].Value, n.Content[i+1]
		all[key] = v.Value
		if spec.Ours(key) && (v.Kind != yaml.ScalarNode || v.ShortTag() != "!!str" || v.Style == 0 && readsOtherwise(v.Value)) {
			w.problems = append(w.problems, spec.Problem{Key: key, Value: v.Value, HasValue: v.Kind == yaml.ScalarNode, What: "is not a string to Kubernetes",
				Allowed: "a string", Fix: "write it in quotes: " + spec.Quote(v.Value)})
		}
	}
	return all
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
