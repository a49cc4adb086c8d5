package replicationtest

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strings"
	"syscall"

	"github.com/stretchr/testify/require"

	"github.com/remora-storage/remora/cachefs"
	"github.com/remora-storage/remora/cachefs/meta"
	"github.com/remora-storage/remora/cachefs/record"
)

// volume is what operations are done on.
type volume interface {
	Lookup(parent meta.Ino, name string) (cachefs.Attr, error)
	Create(c *cachefs.Caller, parent meta.Ino, name string, n cachefs.Node) (cachefs.Attr, error)
	Link(c *cachefs.Caller, ino, parent meta.Ino, name string) (cachefs.Attr, error)
	Unlink(c *cachefs.Caller, parent meta.Ino, name string) error
	Rmdir(c *cachefs.Caller, parent meta.Ino, name string) error
	Rename(c *cachefs.Caller, parent meta.Ino, name string, newParent meta.Ino, newName string, flags uint32) error
	Forget(ino meta.Ino, n uint64)
	Write(c *cachefs.Caller, ino meta.Ino, off uint64, data []byte, killSuidgid bool) (int, error)
	SetAttr(c *cachefs.Caller, ino meta.Ino, s cachefs.SetAttr) (cachefs.Attr, error)
	Fallocate(c *cachefs.Caller, ino meta.Ino, mode uint32, off, n uint64) error
	CopyRange(c *cachefs.Caller, from meta.Ino, off uint64, to meta.Ino, toOff, n uint64) (int, error)
	SetXattr(c *cachefs.Caller, ino meta.Ino, name string, value []byte, flags uint32) error
	RemoveXattr(c *cachefs.Caller, ino meta.Ino, name string) error
	Sync(ctx context.Context, c *cachefs.Caller) error
}

func (h *History) on() volume {
	if h.planning {
		return nowhere{}
	}
	return h.vol
}

func (h *History) caller() *cachefs.Caller { return &cachefs.Caller{UID: 1, GID: 2} }

func (h *History) ino(path string) meta.Ino {
	ino := meta.Root
	for _, name := range strings.Split(path, "/")[1:] {
		a, err := h.on().Lookup(ino, name)
		require.NoError(h.t, err, path)
		ino = a.Ino
	}
	return ino
}

func split(path string) (dir, name string) {
	i := strings.LastIndexByte(path, '/')
	return path[:i], path[i+1:]
}

func pick[T any](r *rand.Rand, s []T) T { return s[r.IntN(len(s))] }

// somewhere is a path in a directory that exists; it may be taken.
func (h *History) somewhere() string {
	return fmt.Sprintf("%s/n%d", pick(h.rng, h.model.dirs()), h.rng.IntN(12))
}

func (h *History) create(mode uint32) {
	path := h.somewhere()
	dir, name := split(path)
	n := cachefs.Node{Mode: mode}
	if mode&syscall.S_IFMT == syscall.S_IFLNK {
		n.Target = "to/" + name
	}
	_, err := h.on().Create(h.caller(), h.ino(dir), name, n)
	if h.model.nodes[path] != nil {
		require.ErrorIs(h.t, err, syscall.EEXIST)
		return
	}
	require.NoError(h.t, err)
	h.ids++
	made := &modelNode{id: h.ids, mode: mode, target: n.Target, xattrs: map[string]string{}}
	made.inherit(h.model.nodes[dir])
	h.model.nodes[path] = made
}

func (h *History) file() (string, *modelNode) {
	fs := h.model.files()
	if len(fs) == 0 {
		return "", nil
	}
	path := pick(h.rng, fs)
	return path, h.model.nodes[path]
}

// extent is a range that is often small, often aligned, and sometimes crosses chunks.
func (h *History) extent(size int) (off, n int) {
	switch h.rng.IntN(4) {
	case 0:
		off, n = h.rng.IntN(size+100), 1+h.rng.IntN(300)
	case 1:
		off, n = h.rng.IntN(8)*4096, (1+h.rng.IntN(4))*4096
	case 2:
		off, n = h.rng.IntN(20_000), 1+h.rng.IntN(20_000)
	default:
		off, n = record.ChunkSize-h.rng.IntN(9000), 1+h.rng.IntN(18_000)
	}
	return off, n
}

func (h *History) write() {
	path, n := h.file()
	if n == nil {
		return
	}
	n.changes++
	off, count := h.extent(len(n.data))
	data := make([]byte, count)
	_, _ = rngReader{h.rng}.Read(data)
	got, err := h.on().Write(h.caller(), h.ino(path), uint64(off), data, false)
	require.NoError(h.t, err)
	require.Equal(h.t, count, got)
	n.grow(off + count)
	copy(n.data[off:], data)
	n.written = [2]int{off, off + count}
}

func (n *modelNode) grow(size int) {
	if size > len(n.data) {
		n.data = append(n.data, make([]byte, size-len(n.data))...)
	}
}

// truncate makes a file smaller or larger.
func (h *History) truncate() {
	path, n := h.file()
	if n == nil {
		return
	}
	n.changes++
	off, count := h.extent(len(n.data))
	size := uint64(off)
	if h.rng.IntN(3) == 0 {
		size = uint64(count)
	}
	var err error
	if int(size) > len(n.data) && h.rng.IntN(2) == 0 {
		err = h.on().Fallocate(h.caller(), h.ino(path), 0, 0, size)
	} else {
		_, err = h.on().SetAttr(h.caller(), h.ino(path), cachefs.SetAttr{Size: &size})
	}
	require.NoError(h.t, err)
	n.grow(int(size))
	n.data = n.data[:size:size]
	n.written = [2]int{}
}

func (h *History) punch() {
	path, n := h.file()
	if n == nil {
		return
	}
	n.changes++
	off, count := h.extent(len(n.data))
	require.NoError(h.t, h.on().Fallocate(h.caller(), h.ino(path), cachefs.FallocPunchHole|cachefs.FallocKeepSize, uint64(off), uint64(count)))
	n.written = [2]int{}
	for i := off; i < min(off+count, len(n.data)); i++ {
		n.data[i] = 0
	}
}

func (h *History) remove() {
	path := h.somewhere()
	dir, name := split(path)
	n := h.model.nodes[path]
	isDir := n != nil && n.mode&syscall.S_IFMT == syscall.S_IFDIR
	var ino meta.Ino
	if n != nil {
		ino = h.ino(path)
	}
	remove := h.on().Unlink
	if isDir {
		remove = h.on().Rmdir
	}
	err := remove(h.caller(), h.ino(dir), name)
	switch {
	case n == nil:
		require.ErrorIs(h.t, err, syscall.ENOENT)
	case isDir && !h.model.empty(path):
		require.ErrorIs(h.t, err, syscall.ENOTEMPTY)
	default:
		require.NoError(h.t, err)
		delete(h.model.nodes, path)
		h.on().Forget(ino, 1<<40) // nobody has it open
	}
}

func (h *History) rename() {
	from, to := h.somewhere(), h.somewhere()
	if to == from || strings.HasPrefix(to, from+"/") || strings.HasPrefix(from, to+"/") {
		return // the kernel's to refuse
	}
	fd, fn := split(from)
	td, tn := split(to)
	err := h.on().Rename(h.caller(), h.ino(fd), fn, h.ino(td), tn, 0)
	a, b := h.model.nodes[from], h.model.nodes[to]
	isDir := func(n *modelNode) bool { return n.mode&syscall.S_IFMT == syscall.S_IFDIR }
	switch {
	case a == nil:
		require.ErrorIs(h.t, err, syscall.ENOENT)
	case b != nil && a == b:
		require.NoError(h.t, err)
	case b != nil && isDir(a) && !isDir(b):
		require.ErrorIs(h.t, err, syscall.ENOTDIR)
	case b != nil && !isDir(a) && isDir(b):
		require.ErrorIs(h.t, err, syscall.EISDIR)
	case b != nil && isDir(b) && !h.model.empty(to):
		require.ErrorIs(h.t, err, syscall.ENOTEMPTY)
	default:
		require.NoError(h.t, err)
		h.model.move(from, to)
	}
}

func (h *History) link() {
	path, n := h.file()
	to := h.somewhere()
	if n == nil || h.model.nodes[to] != nil {
		return
	}
	dir, name := split(to)
	_, err := h.on().Link(h.caller(), h.ino(path), h.ino(dir), name)
	require.NoError(h.t, err)
	h.model.nodes[to] = n
}

func (h *History) xattr() {
	path, n := h.file()
	if n == nil {
		return
	}
	name := fmt.Sprintf("user.x%d", h.rng.IntN(3))
	if _, ok := n.xattrs[name]; ok && h.rng.IntN(2) == 0 {
		require.NoError(h.t, h.on().RemoveXattr(h.caller(), h.ino(path), name))
		delete(n.xattrs, name)
		return
	}
	value := fmt.Sprint(h.rng.IntN(1000))
	require.NoError(h.t, h.on().SetXattr(h.caller(), h.ino(path), name, []byte(value), 0))
	n.xattrs[name] = value
}

func (h *History) sync() {
	h.syncing = true
	require.NoError(h.t, h.on().Sync(h.t.Context(), h.caller()))
	h.acknowledged = true
}
