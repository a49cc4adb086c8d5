package replicationtest

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/remora-storage/remora/cachefs"
	"github.com/remora-storage/remora/cachefs/meta"
)

// TryStep is Step on a disk that may fail, with a note of the state that it leads to before it begins. A step that fails may have
// done its work or not, and the history is at its end.
func (h *History) TryStep() (err error) {
	seed := h.rng.Uint64()
	plan := &History{Machine: &Machine{t: h.t, rng: stepRand(seed)}, model: h.model.clone(), planning: true}
	// What a volume refuses, nowhere accepts; then the model has not changed.
	_ = plan.try((*History).step)
	next := plan.model.String()
	h.noteState(next)
	rng := h.rng
	h.rng = stepRand(seed)
	h.syncing = false
	err = h.try((*History).step)
	h.rng = rng
	if err != nil {
		return err
	}
	require.Equal(h.t, next, h.model.String())
	last := len(h.states) - 1
	h.seen.answered.Store(int64(last))
	h.notes.write(h.t, note{At: h.notes.at(), Answered: &last})
	if h.acknowledged {
		h.noteSynced(last)
	}
	return nil
}

// FailedSync: the last step was an fsync, and failed.
func (h *History) FailedSync() bool { return h.syncing && !h.acknowledged }

// NoteSynced notes that a Sync of the caller's, after the last step, has acknowledged all that was answered.
func (h *History) NoteSynced() { h.noteSynced(int(h.seen.answered.Load())) }

func stepRand(seed uint64) *rand.Rand { return rand.New(rand.NewPCG(seed, 3)) }

// try runs a part of a history; an assertion that fails is an error and does not end the test.
func (h *History) try(part func(*History)) (err error) {
	t := h.t
	a := &attempt{TB: t}
	h.t = a
	defer func() {
		h.t = t
		if r := recover(); r != nil {
			if r != any(a) {
				panic(r)
			}
			err = a.err
		}
	}()
	part(h)
	return a.err
}

// attempt is a test whose failure is an error.
type attempt struct {
	testing.TB
	err error
}

func (a *attempt) Errorf(format string, args ...any) {
	a.err = errors.Join(a.err, fmt.Errorf(format, args...))
}

func (a *attempt) FailNow() { panic(a) }

func (m *model) clone() *model {
	c := &model{nodes: map[string]*modelNode{}}
	copies := map[*modelNode]*modelNode{}
	for path, n := range m.nodes {
		if copies[n] == nil {
			k := *n
			k.data, k.xattrs = slices.Clone(n.data), maps.Clone(n.xattrs)
			copies[n] = &k
		}
		c.nodes[path] = copies[n]
	}
	return c
}

// nowhere is a volume that takes everything and keeps nothing.
type nowhere struct{}

func (nowhere) Lookup(meta.Ino, string) (a cachefs.Attr, err error) { return a, nil }

func (nowhere) Create(*cachefs.Caller, meta.Ino, string, cachefs.Node) (a cachefs.Attr, err error) {
	return a, nil
}

func (nowhere) Link(*cachefs.Caller, meta.Ino, meta.Ino, string) (a cachefs.Attr, err error) {
	return a, nil
}

func (nowhere) Unlink(*cachefs.Caller, meta.Ino, string) error { return nil }

func (nowhere) Rmdir(*cachefs.Caller, meta.Ino, string) error { return nil }

func (nowhere) Rename(*cachefs.Caller, meta.Ino, string, meta.Ino, string, uint32) error { return nil }

func (nowhere) Forget(meta.Ino, uint64) {}

func (nowhere) Write(_ *cachefs.Caller, _ meta.Ino, _ uint64, data []byte, _ bool) (int, error) {
	return len(data), nil
}

func (nowhere) SetAttr(*cachefs.Caller, meta.Ino, cachefs.SetAttr) (a cachefs.Attr, err error) {
	return a, nil
}

func (nowhere) Fallocate(*cachefs.Caller, meta.Ino, uint32, uint64, uint64) error { return nil }

func (nowhere) CopyRange(_ *cachefs.Caller, _ meta.Ino, _ uint64, _ meta.Ino, _, n uint64) (int, error) {
	return int(n), nil
}

func (nowhere) SetXattr(*cachefs.Caller, meta.Ino, string, []byte, uint32) error { return nil }

func (nowhere) RemoveXattr(*cachefs.Caller, meta.Ino, string) error { return nil }

func (nowhere) Sync(context.Context, *cachefs.Caller) error { return nil }
