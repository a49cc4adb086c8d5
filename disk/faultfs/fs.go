// Package faultfs is a disk in memory that fails as real ones do. It knows what was synced and what was not, per 512-byte sector and
// per name, so an Image of it can be what a power cut, or the death of the process, would have left at that very moment; its calls can
// be counted, refused with any error, torn, or answered without being done; it can be full; and its bits can rot.
//
// It promises nearly the worst that POSIX allows: nothing is durable before a sync of its file (content, size) or directory (names),
// what is not synced reaches the disk in any order or not at all (but changes of the names in one directory keep their order, as on
// every file system with a journal: Pebble's markers need that), and what a failed sync did not write is forgotten: the pages read as
// written, a later sync succeeds, and a power cut shows that they are not there (I8).
package faultfs

import (
	"errors"
	"io/fs"
	"math/rand/v2"
	"os"
	"path"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// FS is a disk in memory. The zero value is not one: New makes it.
type FS struct {
	hooks atomic.Pointer[Hooks]
	calls atomic.Int64
	syncs atomic.Int64

	mu    sync.RWMutex
	rng   *rand.Rand // what the disk writes back by itself, and what a failed sync wrote
	root  *node
	last  *undo // the newest write
	names int64 // changes of names so far
	used  int64 // pages
	limit int64 // pages; 0 means none
	locks map[string]bool
}

// New makes an empty disk.
func New(rng *rand.Rand) *FS {
	return &FS{root: newDir(), rng: rng, locks: map[string]bool{}}
}

// node is a file or a directory: as it is, and as the disk has it.
type node struct {
	links, refs int

	// Of a file. Pages are never changed, only replaced, so images share them.
	now, disk        []*page
	size, diskSize   int64
	dirty            map[int]bool // pages that a sync would write
	sizeDirty        bool
	names, diskNames map[string]*node // of a directory; nil: a file
	pending          []nameChange     // of a directory, since its last sync
}

type page [pageSize]byte

const (
	pageSize   = 4096
	sectorSize = 512
)

// nameChange is one change of the names of a directory.
type nameChange struct {
	at   int64 // among all of the disk
	name string
	to   *node  // nil: removed
	from string // the old name, in the same directory, of a rename
}

func newDir() *node { return &node{names: map[string]*node{}, diskNames: map[string]*node{}} }

func newFile() *node { return &node{dirty: map[int]bool{}} }

func (n *node) isDir() bool { return n.names != nil }

func clean(name string) string { return strings.Trim(path.Clean("/"+name), "/") }

// find returns the node of a path, or nil. f.mu must be held.
func (f *FS) find(name string) *node {
	n := f.root
	for _, part := range strings.Split(clean(name), "/") {
		if part == "" {
			continue
		}
		if n = n.names[part]; n == nil {
			return nil
		}
	}
	return n
}

// parent returns the directory of a path and the last part of it. f.mu must be held.
func (f *FS) parent(name string) (*node, string, error) {
	dir, base := path.Split(clean(name))
	n := f.find(dir)
	if n == nil || !n.isDir() || base == "" {
		return nil, "", fs.ErrNotExist
	}
	return n, base, nil
}

func pathError(op, name string, err error) error { return &os.PathError{Op: op, Path: name, Err: err} }

// put changes a name. f.mu must be held.
func (f *FS) put(dir *node, name string, to *node, from string) {
	f.names++
	dir.pending = append(dir.pending, nameChange{at: f.names, name: name, to: to, from: from})
	change(dir.names, dir.pending[len(dir.pending)-1])
}

func change(names map[string]*node, c nameChange) {
	if c.from != "" {
		delete(names, c.from)
	}
	if c.to == nil {
		delete(names, c.name)
	} else {
		names[c.name] = c.to
	}
}

// unlink takes one name away from what a name change is about to replace. f.mu must be held.
func (f *FS) unlink(n *node) {
	if n == nil {
		return
	}
	n.links--
	f.free(n)
}

func (f *FS) free(n *node) {
	if n.links > 0 || n.refs > 0 || n.isDir() {
		return
	}
	f.used -= n.pages()
	n.now, n.size, n.sizeDirty = nil, 0, false
	clear(n.dirty) // the disk has what was synced, until the removal of the name is
}

func (n *node) pages() (k int64) {
	for _, p := range n.now {
		if p != nil {
			k++
		}
	}
	return k
}

// Create makes an empty file, in place of any that has the name.
func (f *FS) Create(name string, _ vfs.DiskWriteCategory) (vfs.File, error) {
	var file *file
	err := f.do(Op{Kind: Create, Path: name, Grows: true}, func(*Op) error {
		dir, base, err := f.parent(name)
		if err != nil {
			return pathError("create", name, err)
		}
		if f.limit > 0 && f.used >= f.limit {
			return pathError("create", name, syscall.ENOSPC)
		}
		old := dir.names[base]
		n := newFile()
		n.links++
		f.put(dir, base, n, "")
		f.unlink(old)
		file = f.open(name, n, true)
		return nil
	})
	return asFile(file, err)
}

func asFile(file *file, err error) (vfs.File, error) {
	if err != nil {
		return nil, err
	}
	return file, nil
}

func (f *FS) open(name string, n *node, writable bool) *file {
	n.refs++
	return &file{fs: f, name: name, n: n, writable: writable}
}

func (f *FS) openExisting(name string, writable bool) (*file, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	n := f.find(name)
	if n == nil {
		return nil, pathError("open", name, fs.ErrNotExist)
	}
	return f.open(name, n, writable), nil
}

// Open opens a file for reading.
func (f *FS) Open(name string, _ ...vfs.OpenOption) (vfs.File, error) {
	if err := f.before(&Op{Kind: Open, Path: name}); err != nil {
		return nil, err
	}
	return asFile(f.openExisting(name, false))
}

// OpenReadWrite opens a file, and makes it if it is not there.
func (f *FS) OpenReadWrite(name string, c vfs.DiskWriteCategory, _ ...vfs.OpenOption) (vfs.File, error) {
	file, err := f.openExisting(name, true)
	if errors.Is(err, fs.ErrNotExist) {
		return f.Create(name, c)
	}
	return asFile(file, err)
}

// OpenDir opens a directory to sync it.
func (f *FS) OpenDir(name string) (vfs.File, error) { return asFile(f.openExisting(name, false)) }

// MkdirAll makes a directory and those above it.
func (f *FS) MkdirAll(name string, _ os.FileMode) error {
	return f.do(Op{Kind: Mkdir, Path: name, Grows: true}, func(*Op) error {
		n := f.root
		for _, part := range strings.Split(clean(name), "/") {
			if part == "" {
				continue
			}
			next := n.names[part]
			if next == nil {
				next = newDir()
				next.links++
				f.put(n, part, next, "")
			}
			if n = next; !n.isDir() {
				return pathError("mkdir", name, syscall.ENOTDIR)
			}
		}
		return nil
	})
}
