package replicationtest

import (
	"math/rand/v2"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/stretchr/testify/require"

	"github.com/remora-storage/remora/cachefs/meta"
	"github.com/remora-storage/remora/disk"
)

// History is a random run of operations on a machine and on a model.
type History struct {
	*Machine
	model  *model
	ids    int
	states []string // of the model, after each operation
	synced int      // the state that is known to be durable

	syncing      bool // the last step was an fsync
	acknowledged bool // which returned well
	planning     bool // there is no machine: see TryStep
	notes        *notebook

	// For whoever takes an image of the disk while steps run: states whose operation has begun, is answered, is durable.
	seen struct{ begun, answered, durable atomic.Int64 }
}

// NewHistory starts with an empty volume on a new node in the directory root of fs.
func NewHistory(t testing.TB, rng *rand.Rand, fs disk.FS, root string) *History {
	return newHistory(t, rng, fs, root, usual)
}

func newHistory(t testing.TB, rng *rand.Rand, fs disk.FS, root string, tuning Tuning) *History {
	h := &History{Machine: newMachine(t, rng, fs, root, tuning), model: newModel()}
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

// Step does one random operation on both and compares what they answer.
func (h *History) Step() {
	h.step()
	h.states = append(h.states, h.model.String())
	if h.acknowledged {
		h.synced = len(h.states) - 1
	}
}

func (h *History) step() {
	h.acknowledged = false
	switch n := h.rng.IntN(100); {
	case n < 15:
		h.create(syscall.S_IFREG | 0o640)
	case n < 20:
		h.create(syscall.S_IFDIR | 0o750)
	case n < 22:
		h.create(syscall.S_IFLNK | 0o777)
	case n < 23:
		h.create(syscall.S_IFIFO | 0o600)
	case n < 55:
		h.write()
	case n < 57:
		h.copyRange()
	case n < 58:
		h.zero()
	case n < 59:
		h.chmod()
	case n < 60:
		h.acl()
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
	h.noteFound()
}

// findState looks for the state of the model that the disk has, not older than what was synced, and goes on from there.
func (h *History) findState(got string) {
	for i := len(h.states) - 1; i >= h.synced; i-- {
		if h.states[i] == got {
			if h.model.String() != got {
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
				n.data, err = readAll(h.vol, e.Ino, a.Size)
				require.NoError(h.t, err)
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
