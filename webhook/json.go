package webhook

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"strconv"

	"go.yaml.in/yaml/v3"
)

// fromJSON reads one JSON value into a node tree: keys in their order, numbers as they are written. YAML's parser would not do:
// it does not know JSON's surrogate escapes.
func fromJSON(data []byte) (*yaml.Node, error) {
	d := json.NewDecoder(bytes.NewReader(data))
	d.UseNumber()
	n, err := jsonValue(d, 0)
	if err != nil {
		return nil, err
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("more than one value")
	}
	return n, nil
}

// maxDepth bounds the nesting of a document; Kubernetes' own limit is the same.
const maxDepth = 10_000

func jsonValue(d *json.Decoder, depth int) (*yaml.Node, error) {
	token, err := d.Token()
	if err != nil {
		return nil, err
	}
	if depth > maxDepth {
		return nil, errors.New("nested too deeply")
	}
	switch t := token.(type) {
	case json.Delim:
		n := &yaml.Node{Kind: yaml.MappingNode, Tag: "!!map"}
		if t == '[' {
			n = &yaml.Node{Kind: yaml.SequenceNode, Tag: "!!seq"}
		}
		for d.More() {
			if t == '{' {
				key, err := d.Token()
				if err != nil {
					return nil, err
				}
				text, ok := key.(string)
				if !ok {
					return nil, errors.New("a key is not a string")
				}
				n.Content = append(n.Content, stringNode(text))
			}
			child, err := jsonValue(d, depth+1)
			if err != nil {
				return nil, err
			}
			n.Content = append(n.Content, child)
		}
		_, err := d.Token()
		return n, err
	case string:
		return stringNode(t), nil
	case json.Number:
		tag := "!!int"
		if bytes.ContainsAny([]byte(t), ".eE") {
			tag = "!!float"
		}
		return &yaml.Node{Kind: yaml.ScalarNode, Tag: tag, Value: string(t)}, nil
	case bool:
		return &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!bool", Value: strconv.FormatBool(t)}, nil
	}
	return &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!null", Value: "null"}, nil
}

func stringNode(s string) *yaml.Node {
	n := &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!str", Value: s}
	if readsOtherwise(s) {
		n.Style = yaml.DoubleQuotedStyle
	}
	return n
}

// toJSON writes a node tree without aliases as JSON.
func toJSON(n *yaml.Node) ([]byte, error) {
	var b bytes.Buffer
	if err := writeJSON(&b, n); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}

func writeJSON(b *bytes.Buffer, n *yaml.Node) error {
	switch n.Kind {
	case yaml.MappingNode:
		return writeList(b, n, "{}", 2)
	case yaml.SequenceNode:
		return writeList(b, n, "[]", 1)
	case yaml.ScalarNode:
		return writeScalar(b, n)
	}
	return fmt.Errorf("line %d: has no form in JSON", n.Line)
}

// writeList writes the children between the brackets; step is 2 where they are keys and values.
func writeList(b *bytes.Buffer, n *yaml.Node, brackets string, step int) error {
	b.WriteByte(brackets[0])
	for i := 0; i < len(n.Content); i += step {
		if i > 0 {
			b.WriteByte(',')
		}
		if step == 2 {
			if n.Content[i].Kind != yaml.ScalarNode {
				return fmt.Errorf("line %d: a key is not a string", n.Content[i].Line)
			}
			writeString(b, n.Content[i].Value)
			b.WriteByte(':')
		}
		if err := writeJSON(b, n.Content[i+step-1]); err != nil {
			return err
		}
	}
	b.WriteByte(brackets[1])
	return nil
}

func writeScalar(b *bytes.Buffer, n *yaml.Node) error {
	switch n.ShortTag() {
	case "!!int", "!!float", "!!bool", "!!null":
	default:
		writeString(b, n.Value)
		return nil
	}
	if json.Valid([]byte(n.Value)) && n.Style == 0 {
		b.WriteString(n.Value)
		return nil
	}
	var value any
	if err := n.Decode(&value); err != nil {
		return err
	}
	if f, ok := value.(float64); ok && (math.IsNaN(f) || math.IsInf(f, 0)) {
		return fmt.Errorf("line %d: %s has no form in JSON", n.Line, n.Value)
	}
	text, err := json.Marshal(value)
	b.Write(text)
	return err
}

func writeString(b *bytes.Buffer, s string) {
	e := json.NewEncoder(b)
	e.SetEscapeHTML(false)
	if err := e.Encode(s); err != nil {
		panic(err) // a string and a buffer
	}
	b.Truncate(b.Len() - 1) // the newline of Encode
}

// layJSON writes text with the indentation of like: that of its first indented line, or none.
func layJSON(text, like []byte) []byte {
	newline := bytes.IndexByte(like, '\n')
	if newline < 0 {
		return text
	}
	rest := like[newline+1:]
	indent := rest[:len(rest)-len(bytes.TrimLeft(rest, " \t"))]
	var b bytes.Buffer
	if err := json.Indent(&b, text, "", string(indent)); err != nil {
		panic(err) // text is what writeJSON wrote
	}
	return b.Bytes()
}
