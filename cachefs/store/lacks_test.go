package store_test

import (
	"bytes"
	"context"
	"errors"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/remora-storage/remora/cachefs/record"
	"github.com/remora-storage/remora/cachefs/store"
)

var errCut = errors.New("cut short")

// installCut begins to install the state of another replica, and gives up somewhere.
func (r *replica) installCut(from *replica, rng *rand.Rand) {
	snap, err := from.store.Snapshot()
	require.NoError(r.t, err)
	defer snap.Close()
	var stream bytes.Buffer
	require.NoError(r.t, snap.Send(context.Background(), &stream))
	keys := 0
	in, err := store.ReadSnapshot(bytes.NewReader(stream.Bytes()))
	require.NoError(r.t, err)
	for _, _, err = in.Next(); err == nil; _, _, err = in.Next() {
		keys++
	}
	in, err = store.ReadSnapshot(&stream)
	require.NoError(r.t, err)
	_, at := r.super()
	r.save(installing, at)
	left := keys - rng.IntN(min(keys, 8)) // what the sender lacks comes last
	require.ErrorIs(r.t, store.Install(r.config(at), in.Position(), func() (key, value []byte, err error) {
		if left--; left < 0 {
			return nil, nil, errCut
		}
		return in.Next()
	}), errCut)
}

// fillFrom fills what another replica has of what is absent.
func (r *replica) fillFrom(from *replica) {
	for after := store.Cursor(nil); ; {
		wants, next, err := r.store.Missing(r.t.Context(), after, 3)
		require.NoError(r.t, err)
		for _, w := range wants {
			_, err := r.fill(w, from)
			require.NoError(r.t, err)
		}
		if after = next; after == nil {
			r.checkpoint()
			r.invariants()
			return
		}
	}
}

// TestLastCopy: what a replica lacks whose state another takes in stays at that other one, wherever it is not older than what is lacking. The
// replica that had all of it is lost, and still nothing is.
func TestLastCopy(t *testing.T) {
	eachSeed(t, func(t *testing.T, rng *rand.Rand) {
		v, lost := newVolume(t, rng)
		defer v.fs.Close()
		v.steps(80)
		v.pump()
		old := lost.store.Position().Index
		a, b := newReplica(t, rng, v.key), newReplica(t, rng, v.key)
		a.open(v, old)
		require.NoError(t, a.store.Close()) // away
		v.steps(60)
		v.pump()
		b.open(v, old+record.Index(rng.IntN(20)))
		b.apply(v, lost.store.Position().Index)
		b.checkpoint()

		require.NoError(t, a.install(lost)) // and back, without content
		a.open(v, lost.store.Position().Index)
		require.NotZero(t, a.requirePart(lost))
		require.NoError(t, b.store.Close()) // away
		v.steps(60)
		v.pump()
		a.apply(v, lost.store.Position().Index)
		a.checkpoint()
		a.requirePart(lost)

		if rng.IntN(2) == 0 {
			b.installCut(a, rng)
		}
		require.NoError(t, b.install(a))
		b.open(v, lost.store.Position().Index)
		b.invariants()
		b.requirePart(lost)
		a.fillFrom(b)
		b.fillFrom(a)
		require.Zero(t, a.requirePart(lost))
		require.Zero(t, b.requirePart(lost))
		a.complete(b)
		b.complete(a)
		require.Equal(t, lost.digest(), a.digest())
	})
}

// TestLastCopyIsNotOld: what is older than what is lacking does not stay.
func TestLastCopyIsNotOld(t *testing.T) {
	eachSeed(t, func(t *testing.T, rng *rand.Rand) {
		v, lost := newVolume(t, rng)
		defer v.fs.Close()
		v.steps(80)
		v.pump()
		old := lost.store.Position().Index
		a, b := newReplica(t, rng, v.key), newReplica(t, rng, v.key)
		a.open(v, old)
		require.NoError(t, a.store.Close())
		v.steps(60)
		v.pump()
		end := lost.store.Position().Index
		b.open(v, old+record.Index(rng.IntN(int(end-old))))
		require.NoError(t, b.store.Close())
		require.NoError(t, a.install(lost))
		a.open(v, end)
		require.NoError(t, b.install(a))
		b.open(v, end)
		b.invariants()
		b.requirePart(lost)
		b.fillFrom(lost)
		require.Zero(t, b.requirePart(lost))
	})
}
