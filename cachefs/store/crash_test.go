package store_test

import (
	"flag"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/remora-storage/remora/cachefs/record"
	"github.com/remora-storage/remora/disk/faultfs"
)

var points = flag.Int("points", 24, "crash points of TestCrashWhileFilled")

// wreck is what a crash would have left of a replica's disk, and how far its journal went.
type wreck struct {
	fs    *faultfs.FS
	upTo  record.Index
	at    string
	power bool
}

// wrecker takes images of a disk: at every sync, and at some other calls.
type wrecker struct {
	fs   *faultfs.FS
	upTo atomic.Uint64 // what Apply was given: the journal has it

	mu     sync.Mutex
	rng    *rand.Rand
	wrecks []wreck
}

func (w *wrecker) hooks() *faultfs.Hooks {
	return &faultfs.Hooks{Before: func(op *faultfs.Op) error { w.take(op, "before"); return nil }, After: func(op *faultfs.Op) { w.take(op, "after") }}
}

func (w *wrecker) take(op *faultfs.Op, when string) {
	if op.Kind == faultfs.Read || op.Kind == faultfs.Open {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	sync := op.Kind == faultfs.Sync || op.Kind == faultfs.SyncDir
	if !sync && w.rng.IntN(20) > 0 {
		return
	}
	cut := faultfs.Cut(w.rng.IntN(int(faultfs.Cuts)))
	if cut == faultfs.KilledWriting {
		cut = faultfs.Killed
	}
	upTo := record.Index(w.upTo.Load())
	w.wrecks = append(w.wrecks, wreck{w.fs.Image(w.rng, cut, nil), upTo, when + " " + op.Kind.String() + " of " + op.Path + ", " + cut.String(), cut.Power()})
}

// TestCrashWhileFilled crashes a replica while it installs snapshots, is filled, applies and makes checkpoints. After each crash what is
// here is right, what is absent can be filled, and then the replica is the same as its peer.
func TestCrashWhileFilled(t *testing.T) {
	taken, absent := 0, 0
	for s := uint64(1); taken < *points; s++ {
		if *seed != 0 {
			s = *seed
		}
		n, a := crashWhileFilled(t, s, *points-taken)
		taken, absent = taken+n, absent+a
		if *seed != 0 {
			break
		}
	}
	t.Logf("%d crash points, %d blocks were absent after them", taken, absent)
	if *seed == 0 {
		require.NotZero(t, absent)
	}
}

func crashWhileFilled(t *testing.T, s uint64, most int) (taken, absent int) {
	rng := rand.New(rand.NewPCG(s, 31))
	v, a := newVolume(t, rng)
	v.steps(20)
	v.pump()
	c := newReplica(t, rng, v.key)
	w := &wrecker{fs: c.fs, rng: rand.New(rand.NewPCG(s, 32))}
	w.upTo.Store(uint64(a.store.Position().Index))
	c.fs.Watch(w.hooks())
	require.NoError(t, c.install(a), "seed %d", s)
	c.open(v, a.store.Position().Index)
	for range 25 {
		v.step()
		switch rng.IntN(8) {
		case 0:
			w.upTo.Store(uint64(v.log.end()))
			c.apply(v, v.log.end())
		case 1: // away for a while
			if rng.IntN(2) == 0 {
				c.checkpoint()
			}
			require.NoError(t, c.store.Close())
			v.steps(3)
			v.pump()
			w.upTo.Store(uint64(a.store.Position().Index))
			require.NoError(t, c.install(a), "seed %d", s)
			c.open(v, a.store.Position().Index)
		default:
			w.upTo.Store(uint64(v.log.end())) // it may apply so much
			rebuildStep(t, rng, v, a, c)
		}
	}
	c.fs.Watch(nil)
	require.NoError(t, c.store.Close())
	v.pump()
	v.fs.Close()
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, i := range w.rng.Perm(len(w.wrecks))[:min(len(w.wrecks), most, 60)] {
		k := w.wrecks[i]
		taken++
		if !t.Run(k.at, func(t *testing.T) { absent += k.recover(t, v, a) }) {
			t.Logf("seed %d, point %d of %d", s, i, len(w.wrecks))
		}
	}
	return taken, absent
}

// recover starts a replica again as its process does, and brings it up to its peer.
func (k *wreck) recover(t *testing.T, v *volume, peer *replica) (absent int) {
	c := &replica{t: t, fs: k.fs, keys: newKeys(t, v.key)}
	if state, _ := c.super(); state == installing {
		require.NoError(t, c.install(peer))
		k.upTo = peer.store.Position().Index
	}
	c.open(v, k.upTo)
	c.invariants()
	c.scrub(0)
	c.apply(v, peer.store.Position().Index)
	absent = c.requirePart(peer)
	c.complete(peer)
	require.NoError(t, c.store.Close())
	return absent
}
