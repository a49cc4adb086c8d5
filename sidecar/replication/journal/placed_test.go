package journal

import (
	"math/rand/v2"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/stretchr/testify/require"
)

// testArena says which slots are good.
type testArena struct {
	bad      map[uint32]bool
	hardened []uint32
	again    int
}

func (a *testArena) Verify(_, _ uint64, placed []Placement) (bool, error) {
	return !a.bad[placed[0].Slot], nil
}

func (a *testArena) Harden(_, _ uint64, placed []Placement) error {
	a.hardened = append(a.hardened, placed[0].Slot)
	return nil
}

func (a *testArena) Again() { a.again++ }

func placedPayload(seq uint64) Payload {
	return Payload{Epoch: 1, Seq: seq, Placed: []Placement{{Slot: uint32(seq), Count: 1}}, Record: []byte("record")}
}

// TestPlaced: a frame whose content is not there ends the log, unless a witness says that it was; then it is not looked at.
func TestPlaced(t *testing.T) {
	fs := vfs.NewCrashableMem()
	arena := &testArena{}
	o := testOptions(fs)
	o.Arena = arena
	j, err := Open(o, func(Frame) error { return nil })
	require.NoError(t, err)
	var ends []LSN
	add := func(seq uint64) {
		end, err := j.AppendPayload(1, 2, placedPayload(seq))
		require.NoError(t, err)
		ends = append(ends, end)
	}
	add(1)
	_, err = j.SyncTo(ends[0])
	require.NoError(t, err)
	require.Less(t, j.Witness(), ends[0], "no frame names it yet")
	add(2)
	add(3)
	synced, err := j.SyncTo(ends[1])
	require.NoError(t, err)
	require.Equal(t, ends[1], synced, "the content of 3 was not synced")
	require.Equal(t, ends[0], j.Witness(), "frame 2 names it, and is durable")
	add(4)

	open := func(bad ...uint32) (seqs []uint64) {
		mem := fs.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: 100, RNG: rand.New(rand.NewPCG(1, 2))})
		*arena = testArena{bad: map[uint32]bool{}}
		for _, b := range bad {
			arena.bad[b] = true
		}
		o.FS = mem
		visit := func(f Frame) error {
			if arena.again > 0 {
				seqs, arena.again = nil, 0
			}
			p, _, err := PayloadOf(f)
			seqs = append(seqs, p.Seq)
			return err
		}
		sum, err := Scan(o, visit)
		require.NoError(t, err)
		require.Equal(t, len(seqs), sum.Frames)
		scanned := seqs
		seqs = nil
		j, err := Open(o, visit)
		require.NoError(t, err)
		require.Equal(t, scanned, seqs)
		require.NoError(t, j.Close())
		return seqs
	}
	require.Equal(t, []uint64{1, 2, 3, 4}, open())
	require.Equal(t, []uint32{3, 4}, arena.hardened, "frame 4 is a witness for 1 and 2")
	require.Equal(t, []uint64{1, 2, 3}, open(4))
	require.Equal(t, []uint32{3}, arena.hardened)
	require.Equal(t, []uint64{1, 2}, open(3))
	require.Equal(t, []uint64{1, 2}, open(3, 4))
	require.Equal(t, []uint64{1, 2, 3, 4}, open(1, 2), "what was written over later")
	require.NoError(t, j.Close())
}
