package webhook

import (
	"bytes"
	"fmt"
	"maps"
	"slices"
	"strings"
	"unicode/utf8"

	"go.yaml.in/yaml/v3"

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
	// Classes are known besides the built-in ones and those of the files, which replace them.
	Classes spec.Classes
	// Place says on which nodes alone a Pod may run, because its volumes are there; no nodes: anywhere. Nil: anywhere.
	Place func(Workload) (nodes []string, problems []spec.Problem)
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
	in := injector{options: o, classes: spec.BuiltIn(), unnamed: spec.DefaultClass, result: Result{Files: slices.Clone(files)}}
	if _, named := o.Classes[spec.DefaultClass]; o.Mode == Dev && !named { // the other modes keep one copy in this release
		in.unnamed = spec.ReplicatedClass
	}
	maps.Copy(in.classes, o.Classes)
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
			out = append(out, separator(data)...)
		}
		out = append(out, data...)
	}
	return out
}

// separator returns what must stand between another document and data.
func separator(data []byte) string {
	for _, l := range bytes.SplitAfter(data, []byte("\n")) {
		switch {
		case isBlankOrComment(l):
		case isMarker(l, "---"):
			return ""
		case l[0] == '%':
			return "...\n"
		default:
			return "---\n"
		}
	}
	return ""
}

type injector struct {
	options Options
	classes spec.Classes
	unnamed string // the class of volumes that name none
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
				if c.Name == spec.DefaultClass { // the administrator's word
					in.unnamed = c.Name
				}
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
