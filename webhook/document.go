package webhook

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math"
	"regexp"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

// document is a segment that has been read.
type document struct {
	segment
	// root is the object, without aliases; nil if the document is empty.
	root *yaml.Node
	json bool
	// err says why root is not to be used; it matters only if the document is one that would be injected.
	err error
}

// read parses a segment. Its error is a sentence for a person, with lines of the file.
func read(s segment) (*document, error) {
	d := &document{segment: s}
	if len(s.body) == 0 {
		return d, nil
	}
	if n, err := fromJSON(s.body); err == nil {
		d.root, d.json = n, true
		return d, d.isObject()
	}
	n, err := parse(s.source(), s.skipped())
	if err != nil || n == nil {
		return d, err
	}
	d.root = n
	if err := d.isObject(); err != nil {
		return d, err
	}
	if d.root, err = expand(n); err != nil {
		d.root, d.err = n, errors.New(moveLines(err.Error(), s.skipped(), math.MaxInt))
	}
	return d, nil
}

// isObject refuses what YAML takes for a document although nobody means one: "hello" is a string, and so is most prose.
func (d *document) isObject() error {
	switch n := d.root; {
	case n.Kind == yaml.MappingNode, n.Kind == yaml.ScalarNode && n.ShortTag() == "!!null":
		return nil
	case n.Kind == yaml.SequenceNode:
		return errors.New("is a list, not a Kubernetes object")
	default:
		return errors.New("is plain text, not a Kubernetes object")
	}
}

// source is what the parser gets: directives, and the content. YAML reads CRLF as LF, but the parser takes the CR into comments.
func (c *segment) source() []byte {
	return append(c.sourcePrefix(), bytes.ReplaceAll(c.body, []byte("\r\n"), []byte("\n"))...)
}

func (c *segment) sourcePrefix() []byte {
	if len(c.directives) == 0 {
		return nil
	}
	return append(bytes.Clone(c.directives), "---\n"...)
}

// skipped is what to add to a line of source to have that of the file.
func (c *segment) skipped() int { return c.line - 1 - bytes.Count(c.sourcePrefix(), []byte("\n")) }

var lineNumber = regexp.MustCompile(`line (\d+)`)

// parse reads one YAML document; skipped is the number of lines of the file before it. It returns nil for an empty one.
func parse(data []byte, skipped int) (n *yaml.Node, err error) {
	d := yaml.NewDecoder(bytes.NewReader(data))
	var first, second yaml.Node
	if err := d.Decode(&first); errors.Is(err, io.EOF) {
		return nil, nil
	} else if err != nil {
		return nil, notYAML(err, data, skipped)
	}
	if err := d.Decode(&second); err == nil {
		return nil, fmt.Errorf("is not one YAML document: another begins at line %d without a line of its own for ---", second.Line+skipped)
	} else if !errors.Is(err, io.EOF) {
		return nil, notYAML(err, data, skipped)
	}
	return first.Content[0], nil
}

// notYAML tells of a parser's error with the line in the file. The parser has no typed errors, and counts from 0 in those of its
// grammar (not of its scanner), which may also be about the line after the last.
func notYAML(err error, data []byte, skipped int) error {
	last := skipped + bytes.Count(bytes.TrimRight(data, "\n"), []byte("\n")) + 1
	if grammar.MatchString(err.Error()) {
		skipped++
	}
	return errors.New("is not YAML: " + moveLines(strings.TrimPrefix(err.Error(), "yaml: "), skipped, last))
}

var grammar = regexp.MustCompile(`did not find expected (<|key|node content|'-'|',')`)

// moveLines adds skipped to the line numbers of a message, up to last.
func moveLines(message string, skipped, last int) string {
	return lineNumber.ReplaceAllStringFunc(message, func(m string) string {
		n, _ := strconv.Atoi(m[len("line "):])
		return "line " + strconv.Itoa(min(n+skipped, last))
	})
}

// encode writes the changed document back. What it returns means exactly what root does: it is read again to be sure.
func (d *document) encode() ([]byte, error) {
	if d.json {
		text, err := toJSON(d.root)
		if err != nil {
			return nil, err
		}
		body := bytes.TrimRight(d.body, " \t\r\n")
		return d.bytes(append(layJSON(text, body), d.body[len(body):]...)), nil
	}
	text, err := d.encodeYAML()
	if err != nil {
		return nil, err
	}
	for _, out := range [][]byte{d.bytes(text), append(bytes.Clone(d.pre), text...)} {
		if d.means(out) {
			return out, nil
		}
	}
	return nil, errors.New("cannot be written back as YAML without a change of meaning")
}

func (d *document) encodeYAML() ([]byte, error) {
	indent, compact := layout(d.root)
	var b bytes.Buffer
	if d.inline {
		b.WriteString("---\n")
	}
	e := yaml.NewEncoder(&b)
	e.SetIndent(indent)
	if compact {
		e.CompactSeqIndent()
	}
	if err := e.Encode(d.root); err != nil {
		return nil, err
	}
	if err := e.Close(); err != nil {
		return nil, err
	}
	text := b.Bytes()
	if d.body[len(d.body)-1] != '\n' {
		text = bytes.TrimSuffix(text, []byte("\n"))
	}
	if bytes.Contains(d.body, []byte("\r\n")) {
		text = bytes.ReplaceAll(text, []byte("\n"), []byte("\r\n"))
	}
	return text, nil
}

// means says whether text is one document that means what root does.
func (d *document) means(text []byte) bool {
	segments := split(text)
	var found *document
	for _, s := range segments {
		if len(s.body) == 0 {
			continue
		}
		read, err := read(s)
		if err != nil || read.err != nil || found != nil {
			return false
		}
		found = read
	}
	return found != nil && found.root != nil && same(found.root, d.root)
}

// layout finds how a document is laid out: the columns of one level, and whether the dashes of a list stand below their key.
func layout(root *yaml.Node) (indent int, compact bool) {
	indents := map[int]int{}
	lists := 0
	var visit func(n *yaml.Node)
	visit = func(n *yaml.Node) {
		if n.Style&yaml.FlowStyle != 0 || n.Column == 0 {
			return
		}
		for i, child := range n.Content {
			visit(child)
			if n.Kind != yaml.MappingNode || i%2 == 0 || child.Style&yaml.FlowStyle != 0 || child.Line <= n.Content[i-1].Line {
				continue
			}
			by := child.Column - n.Content[i-1].Column
			switch {
			case child.Kind == yaml.MappingNode:
				indents[by]++
			case child.Kind == yaml.SequenceNode && by == 0:
				lists++
			case child.Kind == yaml.SequenceNode:
				lists--
			}
		}
	}
	visit(root)
	indent = 2
	for by, n := range indents {
		if by >= 2 && by <= 8 && (n > indents[indent] || n == indents[indent] && by < indent) {
			indent = by
		}
	}
	return indent, lists > 0
}

// duplicate returns the first key that stands twice in a mapping, or nil.
func duplicate(n *yaml.Node) *yaml.Node {
	seen := map[string]bool{}
	for i, child := range n.Content {
		if n.Kind == yaml.MappingNode && i%2 == 0 {
			if seen[child.Value] {
				return child
			}
			seen[child.Value] = true
			continue
		}
		if twice := duplicate(child); twice != nil {
			return twice
		}
	}
	return nil
}
