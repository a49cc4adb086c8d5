package store_test

import (
	"context"
	"errors"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/remora-storage/remora/cachefs/meta"
	"github.com/remora-storage/remora/cachefs/record"
	"github.com/remora-storage/remora/cachefs/store"
)

// peer fetches from another replica, as a sidecar does.
type peer struct {
	to, from *replica
	fetched  int
	before   func() // runs first
}

func (p *peer) Fetch(_ context.Context, ino meta.Ino, chunk uint64, first, n uint32) error {
	if p.before != nil {
		p.before()
	}
	w, err := p.to.store.Want(ino, chunk, first, n)
	if err != nil || w.IsZero() {
		return err
	}
	p.fetched++
	_, err = p.to.fill(w, p.from)
	return err
}

// TestRebuild: a new replica gets the metadata, goes on with the log, and gets the content later, from replicas that are behind it or ahead
// of it. A returning one keeps what has not changed.
func TestRebuild(t *testing.T) {
	eachSeed(t, func(t *testing.T, rng *rand.Rand) {
		v, a := newVolume(t, rng)
		defer v.fs.Close()
		v.create()
		v.write(v.inos[0], 0, 100_000)
		v.inos = nil // nobody changes this one
		v.steps(60)
		v.pump()
		c := newReplica(t, rng, v.key)
		require.NoError(t, c.install(a))
		c.open(v, a.store.Position().Index)
		require.False(t, c.store.Complete())
		_, err := c.store.Digest(t.Context())
		require.ErrorIs(t, err, store.ErrIncomplete)
		require.NotZero(t, c.requirePart(a))
		for range 60 {
			v.step()
			rebuildStep(t, rng, v, a, c)
		}
		v.pump()
		c.apply(v, a.store.Position().Index)
		c.complete(a)

		// Away for a while.
		c.checkpoint()
		require.NoError(t, c.store.Close())
		v.steps(20)
		v.pump()
		require.NoError(t, c.install(a))
		c.open(v, a.store.Position().Index)
		p, err := c.store.Progress(t.Context())
		require.NoError(t, err)
		require.Less(t, p.AbsentBytes, p.Bytes, "what did not change is here")
		c.requirePart(a)
		c.complete(a)
		require.NoError(t, c.store.Close())
		c.open(v, a.store.Position().Index)
		require.True(t, c.store.Complete(), "after a restart")
		v.check()
	})
}

// rebuildStep is what happens to a replica that is being filled.
func rebuildStep(t *testing.T, rng *rand.Rand, v *volume, a, c *replica) {
	switch rng.IntN(5) {
	case 0:
		from, to := c.store.Position().Index, v.log.end()
		c.apply(v, from+record.Index(rng.IntN(int(to-from)+1)))
	case 1:
		c.checkpoint()
	default:
		wants, _, err := c.store.Missing(t.Context(), nil, 1+rng.IntN(3))
		require.NoError(t, err)
		for _, w := range wants {
			if rng.IntN(2) == 0 { // some of it
				w.Blocks[rng.IntN(len(w.Blocks))] = 0
			}
			if _, err := c.fill(w, a); err != nil && !errors.Is(err, store.ErrBehind) {
				require.ErrorIs(t, err, store.ErrGone)
			}
		}
	}
}

// TestOwnerBeforeFill: the file system serves at once on a replica that has the metadata alone, reads and ragged writes included.
func TestOwnerBeforeFill(t *testing.T) {
	fetched := 0
	eachSeed(t, func(t *testing.T, rng *rand.Rand) {
		v, a := newVolume(t, rng)
		v.steps(60)
		v.pump()
		v.fs.Close()
		c := newReplica(t, rng, v.key)
		require.NoError(t, c.install(a))
		c.open(v, a.store.Position().Index)
		p := &peer{to: c, from: a}
		p.before = func() {
			a.apply(v, c.store.Position().Index+record.Index(rng.IntN(int(v.log.end()-c.store.Position().Index)+1)))
		}
		v.own(c, p, false)
		defer v.fs.Close()
		for range 60 {
			v.step()
			if rng.IntN(8) == 0 {
				c.checkpoint()
			}
		}
		v.check()
		fetched += p.fetched
		v.pump()
		p.before()
		c.complete(a)
	})
	require.NotZero(t, fetched)
}

// TestHeal: blocks that the disk has changed are found by reads and by scrubs, and healed; the reader never sees them.
func TestHeal(t *testing.T) {
	eachSeed(t, func(t *testing.T, rng *rand.Rand) {
		v, a := newVolume(t, rng)
		v.create()
		v.write(v.inos[0], 0, 100_000)
		v.steps(40)
		v.pump()
		v.fs.Close()
		c := newReplica(t, rng, v.key)
		require.NoError(t, c.install(a))
		c.open(v, a.store.Position().Index)
		c.complete(a)
		p := &peer{to: c, from: a}
		v.own(c, p, false)
		a.apply(v, v.log.end())
		defer v.fs.Close()
		n := rot(t, rng, c)
		v.check()
		require.EqualValues(t, n, c.store.Counts().HealedBlocks, "by reads")
		require.EqualValues(t, n, c.store.Counts().BadBlocks)
		c.scrub(0)
		m := rot(t, rng, c)
		found := c.scrub(m)
		require.EqualValues(t, m, c.store.Counts().Unhealed)
		for _, w := range found {
			// A peer with bad blocks does not pass them on.
			x, err := c.store.Export(w)
			require.NoError(t, err)
			require.True(t, x.Blocks.IsZero())
			f, err := c.fill(w, a)
			require.NoError(t, err)
			require.EqualValues(t, w.Bytes()/record.BlockSize, f.Healed)
		}
		require.EqualValues(t, n+m, c.store.Counts().HealedBlocks)
		require.Zero(t, c.store.Counts().Unhealed)
		c.scrub(0)
		v.check()
		c.checkpoint()
		require.Equal(t, a.digest(), c.digest())
	})
}

// rot turns bits of some blocks over, and returns how many.
func rot(t *testing.T, rng *rand.Rand, r *replica) (n int) {
	for _, w := range r.all() {
		for i := range uint32(record.ChunkBlocks) {
			if !w.Blocks.Has(i) || n > 0 && rng.IntN(20) > 0 {
				continue
			}
			off, err := r.store.Offset(w.Blob, i)
			require.NoError(t, err)
			require.NoError(t, r.fs.Flip("r/arena", off+int64(rng.IntN(record.BlockSize)), uint(rng.IntN(8))))
			n++
		}
	}
	return n
}

// TestFillRefuses: content that is not what its seals say, of another place, or of another change.
func TestFillRefuses(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 3))
	v, a := newSealed(t, rng)
	defer v.fs.Close()
	v.create()
	ino := v.inos[0]
	v.write(ino, 0, 64<<10)
	v.pump()
	c := newReplica(t, rng, v.key)
	require.NoError(t, c.install(a))
	c.open(v, a.store.Position().Index)
	w, err := c.store.Want(ino, 0, 3, 1)
	require.NoError(t, err)
	require.EqualValues(t, 64<<10, w.Bytes(), "all of the chunk")
	content := func() store.Content {
		x, err := a.store.Export(w)
		require.NoError(t, err)
		return x
	}
	refused := func(x store.Content, want error) {
		t.Helper()
		_, err := c.store.Fill(x)
		require.ErrorIs(t, err, want)
	}
	x := content()
	x.Data[5000] ^= 1
	refused(x, store.ErrForged)
	x = content() // the checksum fits, the tag does not
	x.Data[5000] ^= 1
	x.Seals[1].CRC = record.Checksum(x.Data[4096:8192])
	refused(x, store.ErrForged)
	x = content() // two blocks change places
	x.Seals[0], x.Seals[1] = x.Seals[1], x.Seals[0]
	refused(x, store.ErrForged)
	x = content()
	x.Data = x.Data[:len(x.Data)-1]
	refused(x, store.ErrMalformed)
	require.EqualValues(t, 16, c.requirePart(a), "nothing was taken")

	// The peer is behind, then ahead.
	old := content()
	v.write(ino, 8192, 4096)
	v.pump()
	c.apply(v, v.log.end())
	refused(old, store.ErrBehind)
	_, err = a.store.Export(store.Want{Ino: ino, Blob: w.Blob, Last: meta.Change{Epoch: v.epoch, Seq: 1000}, Blocks: w.Blocks})
	require.ErrorIs(t, err, store.ErrBehind)
	v.write(ino, 16384, 4096)
	v.pump()
	f, err := c.store.Fill(content())
	require.NoError(t, err)
	require.Equal(t, store.Filled{Blocks: 14, Newer: 1}, f, "block 2 was written here, block 4 will be")
	c.apply(v, v.log.end())
	require.Zero(t, c.requirePart(a))
	v.unlink(ino)
	v.pump()
	a.apply(v, v.log.end())
	_, err = a.store.Export(w)
	require.ErrorIs(t, err, store.ErrGone)
	late, err := c.store.Export(w)
	require.NoError(t, err)
	c.apply(v, v.log.end())
	f, err = c.store.Fill(late)
	require.NoError(t, err)
	require.Zero(t, f)
}

// TestInstallFails: a store into which half a snapshot went is refused until a whole one is there.
func TestInstallFails(t *testing.T) {
	v, a := newVolume(t, rand.New(rand.NewPCG(4, 4)))
	defer v.fs.Close()
	v.steps(20)
	v.pump()
	c := newReplica(t, v.rng, v.key)
	broken := errors.New("the peer is gone")
	keys := 0
	err := store.Install(c.config(store.Checkpoint{}), a.store.Position(), func() ([]byte, []byte, error) {
		if keys++; keys < 15000 { // Pebble has put some of it on the disk by then
			return meta.InodeKey(meta.Ino(keys)), make([]byte, 100), nil
		}
		return nil, nil, broken
	})
	require.ErrorIs(t, err, broken)
	_, err = store.Open(c.config(store.Checkpoint{}))
	require.ErrorIs(t, err, store.ErrDamaged)
	for _, keys := range [][]byte{{}, {meta.LocalPrefix, 0}, {99}} {
		err = store.Install(c.config(store.Checkpoint{}), a.store.Position(), func() ([]byte, []byte, error) { return keys, nil, nil })
		require.ErrorIs(t, err, store.ErrMalformed, "%x", keys)
	}
	require.NoError(t, c.install(a))
	c.open(v, a.store.Position().Index)
	c.complete(a)
}

// TestInstallOverDamage: metadata that cannot be opened any more is replaced, and nothing of the content is trusted.
func TestInstallOverDamage(t *testing.T) {
	rng := rand.New(rand.NewPCG(5, 5))
	v, a := newVolume(t, rng)
	defer v.fs.Close()
	v.create()
	v.write(v.inos[0], 0, 300_000)
	v.pump()
	c := newReplica(t, rng, v.key)
	require.NoError(t, c.install(a))
	c.open(v, a.store.Position().Index)
	c.complete(a)
	require.NoError(t, c.store.Close())
	names, err := c.fs.List("r/meta")
	require.NoError(t, err)
	for _, n := range names {
		if strings.HasPrefix(n, "MANIFEST") {
			require.NoError(t, c.fs.Flip("r/meta/"+n, 40, 3))
		}
	}
	_, at := c.super()
	_, err = store.Open(c.config(at))
	require.ErrorIs(t, err, store.ErrDamaged)
	require.NoError(t, c.install(a))
	c.open(v, a.store.Position().Index)
	p, err := c.store.Progress(t.Context())
	require.NoError(t, err)
	require.Equal(t, p.Bytes, p.AbsentBytes)
	c.complete(a)
}
