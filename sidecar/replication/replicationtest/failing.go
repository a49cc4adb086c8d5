package replicationtest

import (
	"fmt"
	"math/rand/v2"
	"slices"

	"github.com/stretchr/testify/require"

	"github.com/remora-storage/remora/disk/faultfs"
)

// RunToFailure steps until a step fails because the replica has stopped, or n are done. Any other failure is returned.
func (h *History) RunToFailure(n int) error {
	for range n {
		if err := h.TryStep(); err != nil {
			if h.Err() == nil {
				return err
			}
			return nil
		}
	}
	return nil
}

// RestartFrom starts again on what the disk has after the death of the process and after a power cut, and compares both with what
// was answered, or acknowledged.
func (h *History) RestartFrom(fs *faultfs.FS, seed uint64) error {
	rng := rand.New(rand.NewPCG(seed, 16))
	fs.Watch(nil)
	images := map[faultfs.Cut]*faultfs.FS{}
	for _, cut := range []faultfs.Cut{faultfs.Killed, faultfs.LoseAll, faultfs.SomeSectors} {
		images[cut] = fs.Image(rng, cut, nil)
	}
	answered, synced := int(h.seen.answered.Load()), int(h.seen.durable.Load())
	h.Stop()
	for cut, img := range images {
		n := &History{Machine: &Machine{t: h.t, fs: img, root: "node", rng: rng, replica: h.replica, key: h.key, tuning: h.tuning,
			ledger: h.ledger}, states: h.states, synced: synced}
		if cut == faultfs.Killed {
			n.synced = answered
		}
		err := n.recoverAndFind()
		n.Stop()
		if err != nil {
			return fmt.Errorf("%v, states %d to %d: %s", cut, n.synced, len(n.states)-1, brief(err))
		}
	}
	return nil
}

// ReadAllUnder reads every file while reads may fail, compares what it gets with the model, and returns how many reads failed.
func (h *History) ReadAllUnder() (failed int) {
	for _, path := range h.model.files() {
		err := h.try(func(h *History) {
			a, err := h.vol.Attr(h.ino(path))
			require.NoError(h.t, err)
			got, err := readAll(h.vol, a.Ino, a.Size)
			require.NoError(h.t, err)
			if !slices.Equal(got, h.model.nodes[path].data) {
				panic(fmt.Sprintf("%s: wrong bytes", path))
			}
		})
		if err != nil {
			failed++
		}
	}
	return failed
}
