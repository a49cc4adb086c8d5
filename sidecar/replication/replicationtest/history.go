package replicationtest

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"syscall"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/stretchr/testify/require"

	"github.com/remora-storage/remora/cachefs"
	"github.com/remora-storage/remora/cachefs/meta"
	"github.com/remora-storage/remora/cachefs/record"
	"github.com/remora-storage/remora/disk"
)

// History is a random run of operations on a machine and on a model.
type History struct {
	*Machine
	model  *model
	ids    int
	states []string // of the model, after each operation
	synced int      // the state that is known to be durable
}

// NewHistory starts with an empty volume on a new node in the directory root of fs.
func NewHistory(t testing.TB, rng *rand.Rand, fs disk.FS, root string) *History {
	h := &History{Machine: newMachine(t, rng, fs, root), model: newModel()}
	h.states = []string{h.model.String()}
	return h
}

// NewMemHistory is NewHistory on a disk in memory that can be crashed.
func NewMemHistory(t testing.TB, rng *rand.Rand) *History {
	fs := vfs.NewCrashableMem()
	require.NoError(t, fs.MkdirAll("node", 0o755))
	require.NoError(t, disk.SyncDir(fs, "/"))
	return NewHistory(t, rng, fs, "node")
}

func (h *History) caller() *cachefs.Caller { return &cachefs.Caller{UID: 1, GID: 2} }

func (h *History) ino(path string) meta.Ino {
	ino := meta.Root
	for _, name := range strings.Split(path, "/")[1:] {
		a, err := h.vol.Lookup(ino, name)
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

// Step does one random operation on both and compares what they answer.
func (h *History) Step() {
	switch n := h.rng.IntN(100); {
	case n < 15:
		h.create(syscall.S_IFREG | 0o640)
	case n < 20:
		h.create(syscall.S_IFDIR | 0o750)
	case n < 23:
		h.create(syscall.S_IFLNK | 0o777)
	case n < 60:
		h.write()
	case n < 68:
		h.truncate()
	case n < 72:
		h.punch()
	case n < 80:
		h.remove()
	case n < 88:
		h.rename()
	case n < 91:
		h.link()
	case n < 94:
		h.xattr()
	default:
		h.sync()
	}
	h.states = append(h.states, h.model.String())
}

func (h *History) create(mode uint32) {
	path := h.somewhere()
	dir, name := split(path)
	n := cachefs.Node{Mode: mode}
	if mode&syscall.S_IFMT == syscall.S_IFLNK {
		n.Target = "to/" + name
	}
	_, err := h.vol.Create(h.caller(), h.ino(dir), name, n)
	if h.model.nodes[path] != nil {
		require.ErrorIs(h.t, err, syscall.EEXIST)
		return
	}
	require.NoError(h.t, err)
	h.ids++
	h.model.nodes[path] = &modelNode{id: h.ids, mode: mode, target: n.Target, xattrs: map[string]string{}}
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
	off, count := h.extent(len(n.data))
	data := make([]byte, count)
	_, _ = rngReader{h.rng}.Read(data)
	got, err := h.vol.Write(h.caller(), h.ino(path), uint64(off), data, false)
	require.NoError(h.t, err)
	require.Equal(h.t, count, got)
	n.grow(off + count)
	copy(n.data[off:], data)
}

func (n *modelNode) grow(size int) {
	if size > len(n.data) {
		n.data = append(n.data, make([]byte, size-len(n.data))...)
	}
}

func (h *History) truncate() {
	path, n := h.file()
	if n == nil {
		return
	}
	off, count := h.extent(len(n.data))
	size := uint64(off)
	if h.rng.IntN(3) == 0 {
		size = uint64(count)
	}
	_, err := h.vol.SetAttr(h.caller(), h.ino(path), cachefs.SetAttr{Size: &size})
	require.NoError(h.t, err)
	n.grow(int(size))
	n.data = n.data[:size:size]
}

func (h *History) punch() {
	path, n := h.file()
	if n == nil {
		return
	}
	off, count := h.extent(len(n.data))
	require.NoError(h.t, h.vol.Fallocate(h.caller(), h.ino(path), cachefs.FallocPunchHole|cachefs.FallocKeepSize, uint64(off), uint64(count)))
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
	remove := h.vol.Unlink
	if isDir {
		remove = h.vol.Rmdir
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
		h.vol.Forget(ino, 1<<40) // nobody has it open
	}
}

func (h *History) rename() {
	from, to := h.somewhere(), h.somewhere()
	if to == from || strings.HasPrefix(to, from+"/") || strings.HasPrefix(from, to+"/") {
		return // the kernel's to refuse
	}
	fd, fn := split(from)
	td, tn := split(to)
	err := h.vol.Rename(h.caller(), h.ino(fd), fn, h.ino(td), tn, 0)
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
	_, err := h.vol.Link(h.caller(), h.ino(path), h.ino(dir), name)
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
		require.NoError(h.t, h.vol.RemoveXattr(h.caller(), h.ino(path), name))
		delete(n.xattrs, name)
		return
	}
	value := fmt.Sprint(h.rng.IntN(1000))
	require.NoError(h.t, h.vol.SetXattr(h.caller(), h.ino(path), name, []byte(value), 0))
	n.xattrs[name] = value
}

func (h *History) sync() {
	require.NoError(h.t, h.vol.Sync(h.t.Context(), h.caller()))
	h.synced = len(h.states) // the state that this step is about to note
}

// CrashAndCheck crashes a disk in memory and checks what is left.
func (h *History) CrashAndCheck() {
	percent := []int{0, 30, 70, 100}[h.rng.IntN(4)]
	h.Crash(percent)
	h.Check(percent == 100)
}

// Check compares the volume, opened again, with the history: all of it if only the process had died, else a prefix of it that has
// everything that fsync acknowledged. The history goes on from there.
func (h *History) Check(all bool) {
	got := DescribeFS(h.t, h.vol)
	if all {
		require.Equal(h.t, h.states[len(h.states)-1], got, "the process died: everything answered must be there")
	} else {
		h.findState(got)
	}
	h.synced = len(h.states) - 1
}

// findState looks for the state of the model that the disk has, not older than what was synced, and goes on from there.
func (h *History) findState(got string) {
	for i := len(h.states) - 1; i >= h.synced; i-- {
		if h.states[i] == got {
			if i < len(h.states)-1 {
				h.rebuild()
				require.Equal(h.t, got, h.model.String())
			}
			h.states = append(h.states[:i:i], got)
			return
		}
	}
	require.Equal(h.t, h.states[h.synced], got, "the disk has no state of the history since the last fsync (%d to %d)", h.synced, len(h.states)-1)
}

// rebuild reads the model from the volume, after operations were lost.
func (h *History) rebuild() {
	m := newModel()
	byIno := map[meta.Ino]*modelNode{}
	var walk func(path string, ino meta.Ino)
	walk = func(path string, ino meta.Ino) {
		for _, e := range list(h.t, h.vol, ino) {
			p := path + "/" + e.Name
			if n := byIno[e.Ino]; n != nil {
				m.nodes[p] = n
				continue
			}
			a, err := h.vol.Attr(e.Ino)
			require.NoError(h.t, err)
			n := &modelNode{mode: a.Mode, xattrs: map[string]string{}}
			byIno[e.Ino], m.nodes[p] = n, n
			switch a.Mode & syscall.S_IFMT {
			case syscall.S_IFREG:
				n.data = readAll(h.t, h.vol, e.Ino, a.Size)
			case syscall.S_IFLNK:
				b, err := h.vol.Readlink(e.Ino)
				require.NoError(h.t, err)
				n.target = string(b)
			case syscall.S_IFDIR:
				walk(p, e.Ino)
			}
			names, err := h.vol.ListXattr(e.Ino)
			require.NoError(h.t, err)
			for _, name := range names {
				v, err := h.vol.GetXattr(e.Ino, name)
				require.NoError(h.t, err)
				n.xattrs[name] = string(v)
			}
		}
	}
	walk("", meta.Root)
	h.model = m
}
