package webhook

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/remora-storage/remora/webhook/spec"
)

// readsOtherwise says whether a plain s would be something else than a string to a YAML 1.1 parser, such as kubectl's.
func readsOtherwise(s string) bool {
	return s != "" && strings.IndexByte("yYnNoO+-0123456789", s[0]) >= 0 && yaml11.MatchString(s) // most strings need no regular expression
}

var yaml11 = regexp.MustCompile(`^(?i:y|n|yes|no|on|off|[-+]?[0-9][0-9_]*(:[0-5]?[0-9])+(\.[0-9_]*)?)$`)

// get returns the value of a key of a mapping, or nil.
func get(n *yaml.Node, path ...string) *yaml.Node {
	for _, key := range path {
		if n == nil || n.Kind != yaml.MappingNode {
			return nil
		}
		i := keyIndex(n, key)
		if i < 0 {
			return nil
		}
		n = n.Content[i+1]
	}
	return n
}

// text returns the scalar at the path, or "".
func text(n *yaml.Node, path ...string) string {
	if n = get(n, path...); n != nil && n.Kind == yaml.ScalarNode && n.ShortTag() != "!!null" {
		return n.Value
	}
	return ""
}

func keyIndex(n *yaml.Node, key string) int {
	for i := 0; i+1 < len(n.Content); i += 2 {
		if n.Content[i].Kind == yaml.ScalarNode && n.Content[i].Value == key {
			return i
		}
	}
	return -1
}

// set gives a key of a mapping a value, at the end if it is new.
func set(n *yaml.Node, key string, value *yaml.Node) {
	if i := keyIndex(n, key); i >= 0 {
		n.Content[i+1] = value
		return
	}
	n.Content = append(n.Content, stringNode(key), value)
}

func remove(n *yaml.Node, key string) {
	if i := keyIndex(n, key); i >= 0 {
		n.Content = slices.Delete(n.Content, i, i+2)
	}
}

// same says whether two trees without aliases mean the same, keys in the same order.
func same(a, b *yaml.Node) bool {
	if a.Kind != b.Kind || len(a.Content) != len(b.Content) || a.ShortTag() != b.ShortTag() || a.Value != b.Value {
		return false
	}
	for i := range a.Content {
		if !same(a.Content[i], b.Content[i]) {
			return false
		}
	}
	return true
}

// apply makes the difference between before and after in doc, and nothing else: comments, the order of keys and what the types
// do not know stay. before is what the types read in doc; lists of both have the same elements in the same order.
func apply(doc, before, after *yaml.Node) {
	for i := 0; i+1 < len(before.Content); i += 2 {
		if key := before.Content[i].Value; get(after, key) == nil {
			remove(doc, key)
		}
	}
	for i := 0; i+1 < len(after.Content); i += 2 {
		key, now := after.Content[i].Value, after.Content[i+1]
		was, is := get(before, key), get(doc, key)
		switch {
		case was != nil && same(was, now):
		case was != nil && is != nil && is.Kind == now.Kind && now.Kind == yaml.MappingNode:
			apply(is, was, now)
		case was != nil && is != nil && is.Kind == now.Kind && now.Kind == yaml.SequenceNode && len(is.Content) == len(was.Content):
			applyList(is, was, now)
		default:
			set(doc, key, now)
		}
	}
}

// applyList keeps the elements that after still has, found by name, or by place where the list is as long as it was.
func applyList(doc, before, after *yaml.Node) {
	where := map[string]int{}
	named := true
	for i, e := range before.Content {
		name := text(e, "name")
		_, twice := where[name]
		named = named && name != "" && !twice
		where[name] = i
	}
	byPlace := !named && len(before.Content) == len(after.Content)
	elements := make([]*yaml.Node, 0, len(after.Content))
	for i, now := range after.Content {
		was := i
		if named {
			var ok bool
			if was, ok = where[text(now, "name")]; !ok {
				was = -1
			}
		} else if !byPlace {
			was = -1
		}
		if was >= 0 && same(before.Content[was], now) {
			elements = append(elements, doc.Content[was])
			continue
		}
		// The injector's own elements are exchanged whole, with whatever somebody put into them.
		if was < 0 || spec.Reserved(text(now, "name")) || now.Kind != yaml.MappingNode || doc.Content[was].Kind != yaml.MappingNode {
			elements = append(elements, now)
			continue
		}
		apply(doc.Content[was], before.Content[was], now)
		elements = append(elements, doc.Content[was])
	}
	doc.Content = elements
}

// maxNodes bounds what aliases may expand to.
const maxNodes = 1_000_000

// expand returns a copy of the tree in which every alias and merge key is replaced by what it stands for, so that a change of one
// place does not change another.
func expand(n *yaml.Node) (*yaml.Node, error) {
	e := expander{open: map[*yaml.Node]bool{}}
	return e.copy(n)
}

type expander struct {
	open  map[*yaml.Node]bool
	nodes int
}

func (e *expander) copy(n *yaml.Node) (*yaml.Node, error) {
	if e.nodes++; e.nodes > maxNodes {
		return nil, fmt.Errorf("its aliases stand for more than %d values", maxNodes)
	}
	if n.Kind == yaml.AliasNode {
		target := n.Alias
		if e.open[target] {
			return nil, fmt.Errorf("line %d: alias %q is inside its own anchor", n.Line, n.Value)
		}
		c, err := e.copy(target)
		if err == nil {
			c.HeadComment, c.LineComment, c.FootComment = n.HeadComment, n.LineComment, n.FootComment
		}
		return c, err
	}
	e.open[n] = true
	defer delete(e.open, n)
	c := *n
	c.Anchor, c.Content = "", nil
	if n.Kind == yaml.MappingNode {
		return &c, e.mapping(&c, n)
	}
	for _, child := range n.Content {
		child, err := e.copy(child)
		if err != nil {
			return nil, err
		}
		c.Content = append(c.Content, child)
	}
	return &c, nil
}

func (e *expander) mapping(c, n *yaml.Node) error {
	var merges []*yaml.Node
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, err := e.copy(n.Content[i])
		if err != nil {
			return err
		}
		value, err := e.copy(n.Content[i+1])
		if err != nil {
			return err
		}
		if key.ShortTag() == "!!merge" {
			merges = append(merges, value)
			continue
		}
		c.Content = append(c.Content, key, value)
	}
	for _, m := range merges {
		if err := merge(c, m); err != nil {
			return err
		}
	}
	return nil
}

// merge adds the keys of m, a mapping or a list of them, that c has not: keys of its own come first, then earlier mappings.
func merge(c, m *yaml.Node) error {
	if m.Kind == yaml.SequenceNode {
		for _, each := range m.Content {
			if each.Kind != yaml.MappingNode {
				return errors.New("a merge key (<<) merges something else than mappings")
			}
			if err := merge(c, each); err != nil {
				return err
			}
		}
		return nil
	}
	if m.Kind != yaml.MappingNode {
		return errors.New("a merge key (<<) merges something else than mappings")
	}
	for i := 0; i+1 < len(m.Content); i += 2 {
		if keyIndex(c, m.Content[i].Value) < 0 {
			c.Content = append(c.Content, m.Content[i], m.Content[i+1])
		}
	}
	return nil
}
