package faultfs

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
)

// Cut is how a disk is left.
type Cut uint8

// The ways to be left. All but the first two are power cuts, which leave what was synced and of the rest:
const (
	Killed        Cut = iota // the process died: everything is there, and what was not synced still is not
	KilledWriting            // the process died inside a write, of which a part was done
	LoseAll                  // nothing
	KeepAll                  // everything
	TornLast                 // everything but the last write, of which a part
	SomeSectors              // any sectors, and of each directory a first part of the changes of its names
	SomeBlocks               // any blocks of 4 KiB, and a first part of all changes of names, as a journaling file system does
	Cuts
)

var cutNames = [Cuts]string{"killed", "killed-writing", "lose-all", "keep-all", "torn-last", "some-sectors", "some-blocks"}

func (c Cut) String() string { return cutNames[c] }

// Power tells whether the cut is a power cut.
func (c Cut) Power() bool { return c > KilledWriting }

// Image is another disk with what a crash at this moment leaves of this one. op is the call that KilledWriting tears.
func (f *FS) Image(rng *rand.Rand, cut Cut, op *Op) *FS {
	f.mu.Lock()
	defer f.mu.Unlock()
	seed := rand.New(rand.NewPCG(rng.Uint64(), rng.Uint64()))
	img := &FS{rng: seed, locks: map[string]bool{}, limit: f.limit}
	c := &copier{fs: f, rng: rng, cut: cut, keep: 5 + rng.IntN(90), until: rng.Int64N(f.names + 1), done: map[*node]*node{}}
	switch {
	case cut == KilledWriting && op != nil && op.undo != nil:
		c.tear = op.undo
	case cut == TornLast:
		c.tear = f.last
	}
	if c.tear != nil {
		c.torn = c.tear.off + int64(rng.IntN(c.tear.len+1))
	}
	img.root = c.copy(f.root)
	img.count(img.root)
	return img
}

// count finds the links and the pages of what has a name.
func (f *FS) count(dir *node) {
	for _, n := range dir.names {
		if n.links++; n.isDir() {
			f.count(n)
		} else if n.links == 1 {
			f.used += n.pages()
		}
	}
}

// copier makes an image.
type copier struct {
	fs    *FS
	rng   *rand.Rand
	cut   Cut
	keep  int   // percent
	until int64 // changes of names
	tear  *undo
	torn  int64 // where the write ends
	done  map[*node]*node
}

func (c *copier) copy(n *node) *node {
	if to := c.done[n]; to != nil {
		return to
	}
	if !n.isDir() {
		to := c.file(n)
		c.done[n] = to
		return to
	}
	to := newDir()
	c.done[n] = to
	if c.cut.Power() {
		c.fill(to.names, c.names(n))
		to.diskNames = maps.Clone(to.names)
		return to
	}
	c.fill(to.names, n.names)
	c.fill(to.diskNames, n.diskNames)
	for _, p := range n.pending {
		if p.to != nil {
			p.to = c.copy(p.to)
		}
		to.pending = append(to.pending, p)
	}
	return to
}

func (c *copier) fill(to, from map[string]*node) {
	for _, name := range slices.Sorted(maps.Keys(from)) {
		to[name] = c.copy(from[name])
	}
}

// names are those of a directory after a power cut.
func (c *copier) names(n *node) map[string]*node {
	names := maps.Clone(n.diskNames)
	first := n.pending
	switch c.cut {
	case LoseAll:
		first = nil
	case SomeSectors:
		first = first[:c.rng.IntN(len(first)+1)]
	case SomeBlocks:
		for i := range first {
			if first[i].at > c.until {
				first = first[:i]
				break
			}
		}
	}
	for _, p := range first {
		change(names, p)
	}
	return names
}

func (c *copier) file(n *node) *node {
	to := newFile()
	if !c.cut.Power() {
		to.now, to.disk = slices.Clone(n.now), slices.Clone(n.disk)
		to.size, to.diskSize, to.dirty, to.sizeDirty = n.size, n.diskSize, maps.Clone(n.dirty), n.sizeDirty
		c.undo(n, to)
		return to
	}
	to.now, to.size = slices.Clone(n.disk), n.diskSize
	switch c.cut {
	case KeepAll, TornLast:
		for i := range n.dirty {
			c.put(to, i, n.pageAt(i), 0, pageSize)
		}
		if n.sizeDirty {
			to.size = n.size
		}
		c.undo(n, to)
	case SomeSectors, SomeBlocks:
		c.some(n, to)
	}
	to.disk, to.diskSize = slices.Clone(to.now), to.size
	return to
}

func (n *node) pageAt(i int) *page {
	if i < len(n.now) {
		return n.now[i]
	}
	return nil
}

// some takes a random part of what is dirty.
func (c *copier) some(n, to *node) {
	atom := sectorSize
	if c.cut == SomeBlocks {
		atom = pageSize
	}
	for _, i := range slices.Sorted(maps.Keys(n.dirty)) {
		for at := 0; at < pageSize; at += atom {
			if c.rng.IntN(100) < c.keep {
				c.put(to, i, n.pageAt(i), at, at+atom)
				to.size = max(to.size, min(n.size, int64(i)*pageSize+int64(at+atom)))
			}
		}
	}
	if n.sizeDirty && c.rng.IntN(100) < c.keep {
		to.size = n.size
	}
}

// put copies [from, to) of a page; a page that is nil is a hole.
func (c *copier) put(n *node, i int, p *page, from, to int) {
	if i >= len(n.now) {
		n.now = append(n.now, make([]*page, i+1-len(n.now))...)
	}
	if from == 0 && to == pageSize {
		n.now[i] = p
		return
	}
	fresh := new(page)
	if n.now[i] != nil {
		*fresh = *n.now[i]
	}
	if p == nil {
		p = new(page)
	}
	copy(fresh[from:to], p[from:to])
	n.now[i] = fresh
}

// undo takes the end of the torn write back, where nothing has changed or synced it since.
func (c *copier) undo(n, to *node) {
	u := c.tear
	if u == nil || u.n != n {
		return
	}
	for k := range u.put {
		i := u.first + k
		if i >= len(to.now) || to.now[i] != u.put[k] || c.cut == TornLast && !n.dirty[i] {
			continue
		}
		at := int(min(max(c.torn-int64(i)*pageSize, 0), pageSize))
		if at == pageSize {
			continue
		}
		c.put(to, i, u.old[k], at, pageSize)
		if to.now[i] == nil {
			delete(to.dirty, i)
		}
	}
	if n.size == u.off+int64(u.len) && n.sizeDirty {
		to.size = max(u.size, c.torn)
	}
}

// String tells what was not synced.
func (f *FS) String() string {
	f.mu.RLock()
	defer f.mu.RUnlock()
	out := ""
	var walk func(path string, n *node)
	walk = func(path string, n *node) {
		if !n.isDir() {
			out += fmt.Sprintf("%s: %d bytes (%d on disk), %d pages, %d dirty\n", path, n.size, n.diskSize, n.pages(), len(n.dirty))
			return
		}
		for _, p := range n.pending {
			out += fmt.Sprintf("%s/: %d: %s -> %s not synced\n", path, p.at, p.from, p.name)
		}
		for _, name := range slices.Sorted(maps.Keys(n.names)) {
			walk(path+"/"+name, n.names[name])
		}
	}
	walk("", f.root)
	return out
}
