package fsx

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"path"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// node is a file of any type in the model of a tree. Two names of a file are one node.
type node struct {
	ID       int               // tells hard links from equal files, also when the model was saved
	Mode     uint32            // type and permissions
	UID, GID uint32            //
	Links    int               // names of what is not a directory
	Data     []byte            // of a file; target of a symlink
	Xattrs   map[string][]byte //
	Mtime    int64             // ns, if utimensat has set it and nothing has changed it since; else 0
	Kids     map[string]*node  // of a directory
}

func (n *node) dir() bool     { return n.Mode&unix.S_IFMT == unix.S_IFDIR }
func (n *node) regular() bool { return n.Mode&unix.S_IFMT == unix.S_IFREG }

// nlink is what stat(2) says.
func (n *node) nlink() int {
	if !n.dir() {
		return n.Links
	}
	links := 2
	for _, kid := range n.Kids {
		if kid.dir() {
			links++
		}
	}
	return links
}

// spot is a name in a directory of the model, and what it leads to; nil if nothing.
type spot struct {
	parent *node
	name   string
	path   string // for system calls
	node   *node
}

// tree is a directory of which one process knows everything.
type tree struct {
	root  string // its path
	top   *node
	r     *rand.Rand
	next  int // ID of the next node
	count int // nodes that have a name
	open  []*nameless
	calls map[string]int
	last  []string // what was done, the newest last
}

// nameless is a file that is open and has no name any more.
type nameless struct {
	fd   int
	node *node
}

const (
	fewNodes  = 60  // below this, trees grow
	manyNodes = 160 // above, they shrink
)

// pool of names: few, so that they are often there already; some that are unusual.
var pool = append([]string{"with space", "new\nline", "not\xff\xfeUTF-8", strings.Repeat("n", 255), "…ü日本", ".hidden", "*"},
	strings.Split("abcdefgh", "")...)

func newTree(root string, seed uint64) *tree {
	return &tree{root: root, r: rand.New(rand.NewPCG(seed, 4)), next: 1, calls: map[string]int{},
		top: &node{Mode: unix.S_IFDIR | 0o755, Kids: map[string]*node{}}}
}

// spot draws a name, there or not, in any directory.
func (t *tree) spot() spot {
	dir, at := t.top, t.root
	for t.r.IntN(3) > 0 { // down
		var dirs []string
		for _, name := range slices.Sorted(maps.Keys(dir.Kids)) {
			if dir.Kids[name].dir() && name != crowd {
				dirs = append(dirs, name)
			}
		}
		if len(dirs) == 0 || strings.Count(at[len(t.root):], "/") > 7 {
			break
		}
		name := dirs[t.r.IntN(len(dirs))]
		dir, at = dir.Kids[name], at+"/"+name
	}
	return t.in(dir, at, pool[t.r.IntN(len(pool))])
}

func (t *tree) in(dir *node, at, name string) spot {
	return spot{parent: dir, name: name, path: at + "/" + name, node: dir.Kids[name]}
}

// there draws a name that is there, of a node that pleases; ok is false if it finds none soon.
func (t *tree) there(pleases func(*node) bool) (spot, bool) {
	for range 20 {
		if s := t.spot(); s.node != nil && pleases(s.node) {
			return s, true
		}
	}
	return spot{}, false
}

func anyNode(*node) bool { return true }

// make enters a new node under a name that is free.
func (t *tree) make(s spot, mode uint32) *node {
	n := &node{ID: t.next, Mode: mode, Links: 1, Xattrs: map[string][]byte{}}
	if n.dir() {
		n.Kids = map[string]*node{}
	}
	t.next++
	t.count++
	t.enter(s, n)
	return n
}

// enter gives a node a name.
func (t *tree) enter(s spot, n *node) {
	s.parent.Kids[s.name] = n
	s.parent.Mtime = 0
}

// remove takes a name away.
func (t *tree) remove(s spot) {
	delete(s.parent.Kids, s.name)
	s.parent.Mtime = 0
	if s.node.Links--; s.node.dir() || s.node.Links == 0 {
		t.count--
	}
}

// above is true if dir is n or lies below it.
func above(n, dir *node) bool {
	if n == dir {
		return true
	}
	for _, kid := range n.Kids {
		if kid.dir() && above(kid, dir) {
			return true
		}
	}
	return false
}

// did notes a call for the report.
func (t *tree) did(call string, paths ...string) {
	t.calls[call]++
	for i, p := range paths {
		if p = strings.TrimPrefix(p, path.Clean(t.root)); len(p) > 40 {
			p = p[:18] + "..." + p[len(p)-18:]
		}
		paths[i] = p
	}
	t.last = append(t.last, fmt.Sprintf("%s %q", call, paths))
	if len(t.last) > 400 {
		t.last = slices.Clone(t.last[200:])
	}
}
