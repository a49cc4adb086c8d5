package replication_test

import (
	"context"
	"log/slog"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/remora-storage/remora/cachefs"
	"github.com/remora-storage/remora/cachefs/meta"
	"github.com/remora-storage/remora/disk/faultfs"
	"github.com/remora-storage/remora/sidecar/replication"
	"github.com/remora-storage/remora/sidecar/replication/diskdir"
)

// watched is a group of three whose disks are counted, and may be held.
type watched struct {
	*trio
	syncs   map[uint64]*atomic.Int64 // of journals
	journal map[uint64]*atomic.Int64 // bytes written
	arena   map[uint64]*atomic.Int64
	gates   map[uint64]*gate
}

// gate holds the syncs of a journal while it is shut.
type gate struct {
	mu      sync.Mutex
	open    chan struct{} // closed when it is
	waiting int
}

func (g *gate) pass() {
	g.mu.Lock()
	open := g.open
	g.waiting++
	g.mu.Unlock()
	if open != nil {
		<-open
	}
	g.mu.Lock()
	g.waiting--
	g.mu.Unlock()
}

func (g *gate) shut() { g.mu.Lock(); g.open = make(chan struct{}); g.mu.Unlock() }

func (g *gate) release() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.open != nil {
		close(g.open)
		g.open = nil
	}
}

// holds tells how many syncs wait at it.
func (g *gate) holds() int { g.mu.Lock(); defer g.mu.Unlock(); return g.waiting }

func newWatched(t *testing.T) *watched {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	w := &watched{trio: newSlowTrio(t, 20*time.Millisecond), syncs: map[uint64]*atomic.Int64{}, journal: map[uint64]*atomic.Int64{}, arena: map[uint64]*atomic.Int64{}, gates: map[uint64]*gate{}}
	founders := []uint64{1, 2, 3}
	for _, id := range founders {
		w.object = append(w.object, replication.Member{ID: id, Role: replication.Voter})
	}
	for _, id := range founders {
		w.on(id, rand.New(rand.NewPCG(seed, id))).start(founders)
	}
	t.Cleanup(func() { // before the nodes are stopped
		for _, g := range w.gates {
			g.release()
		}
	})
	return w
}

// on makes an empty node whose disk is watched.
func (w *watched) on(id uint64, rng *rand.Rand) *node {
	w.syncs[id], w.journal[id], w.arena[id], w.gates[id] = &atomic.Int64{}, &atomic.Int64{}, &atomic.Int64{}, &gate{}
	syncs, journal, arena, gate := w.syncs[id], w.journal[id], w.arena[id], w.gates[id]
	fs := faultfs.New(rng)
	fs.Watch(&faultfs.Hooks{Before: func(op *faultfs.Op) error {
		inJournal := strings.Contains(op.Path, "/journal/")
		switch {
		case op.Kind == faultfs.Sync && inJournal:
			syncs.Add(1)
			gate.pass()
		case op.Kind == faultfs.Write && inJournal:
			journal.Add(int64(op.Len))
		case op.Kind == faultfs.Write && op.Base() == "arena":
			arena.Add(int64(op.Len))
		}
		return nil
	}})
	return w.emptyOn(fs, id)
}

// leads waits until node 1 leads.
func (w *watched) leads() *node {
	n := w.nodes[1]
	require.Eventually(w.t, func() bool { n.group.Lead(); return n.group.Status().Group.Leads }, time.Minute, 20*time.Millisecond)
	return n
}

// TestSentWhileItSyncs: the others get a record, and have it in their journals, while the leader's own sync is still under way.
func TestSentWhileItSyncs(t *testing.T) {
	w := newWatched(t)
	n := w.leads()
	n.own(true)
	n.file("first", 3000)
	w.gates[1].shut()
	done := make(chan error, 1)
	n.unsynced("second", 3000)
	go func() { done <- n.fs1.Sync(t.Context(), &cachefs.Caller{}) }()
	require.Eventually(t, func() bool { return w.gates[1].holds() > 0 }, time.Minute, time.Millisecond, "its sync is under way")
	last := n.group.Status().Group.Last
	for _, id := range []uint64{2, 3} {
		require.Eventually(t, func() bool { return w.nodes[id].group.Status().Group.Last >= last }, time.Minute, time.Millisecond, "node %d", id)
	}
	require.Positive(t, w.gates[1].holds(), "and still is")
	w.gates[1].release()
	require.NoError(t, <-done)
	w.agree()
}

// TestOneSyncForAllGroups: what waits for a disk while a sync of it is under way shares the next one, whichever group it is of.
func TestOneSyncForAllGroups(t *testing.T) {
	w := newWatched(t)
	n := w.leads()
	n.own(true)
	n.file("first", 3000)
	const groups = 10
	all := []*node{n}
	for id := range groups {
		all = append(all, w.beside(n, diskdir.ID(70+id)))
	}

	// One sync is held; a program of each group writes and waits meanwhile.
	w.gates[1].shut()
	done := make(chan error, len(all)+1)
	n.unsynced("before", 3000)
	go func() { done <- n.fs1.Sync(t.Context(), &cachefs.Caller{}) }()
	require.Eventually(t, func() bool { return w.gates[1].holds() > 0 }, time.Minute, time.Millisecond)
	for _, at := range all {
		at.unsynced("shared", 1000)
		go func() { done <- at.fs1.Sync(t.Context(), &cachefs.Caller{}) }()
	}
	before := w.syncs[1].Load()
	w.gates[1].release()
	for range len(all) + 1 {
		require.NoError(t, <-done)
	}
	t.Logf("%d syncs", w.syncs[1].Load()-before)
	require.Less(t, w.syncs[1].Load()-before, int64(groups/2), "syncs for %d groups that waited", len(all))
}

// beside is a group of one, of another volume, on the disk of a node.
func (w *watched) beside(n *node, id diskdir.ID) *node {
	t := w.t
	other := &node{trio: w.trio, id: n.id, fs: n.fs, disk: n.disk, keys: n.keys}
	r, err := n.dir.CreateReplica(diskdir.ReplicaInfo{Replica: id, Group: id, VolumeUID: id.String(), Volume: id.String()})
	require.NoError(t, err)
	other.group, err = n.disk.OpenGroup(replication.GroupConfig{Replica: r, Keys: n.keys, Logger: slog.New(slog.DiscardHandler)})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, other.group.Close(context.Background())) })
	other.own(true)
	return other
}

// TestWholeChunksAreWrittenOnce: the content of whole chunks goes to the arena of each replica once, and not through its journal.
func TestWholeChunksAreWrittenOnce(t *testing.T) {
	w := newWatched(t)
	n := w.leads()
	n.own(true)
	n.file("first", 3000)
	journal, arena := map[uint64]int64{}, map[uint64]int64{}
	for id := range w.nodes {
		journal[id], arena[id] = w.journal[id].Load(), w.arena[id].Load()
	}
	const size = 16 << 20
	n.file("large", size)
	w.agree()
	for id := range w.nodes {
		require.Less(t, w.journal[id].Load()-journal[id], int64(size/4), "node %d", id)
		require.GreaterOrEqual(t, w.arena[id].Load()-arena[id], int64(size), "node %d", id)
		require.Less(t, w.arena[id].Load()-arena[id], int64(size*5/4), "node %d", id)
	}
}

// TestChangesWaitWithoutAMajority: an owner that is alone answers no more than its bound, and what waits is answered when the others are back.
func TestChangesWaitWithoutAMajority(t *testing.T) {
	w := newWatched(t)
	n := w.leads()
	n.own(true)
	n.file("file", 3000)
	a, err := n.fs1.Lookup(meta.Root, "file")
	require.NoError(t, err)
	w.mu.Lock()
	for _, id := range []uint64{2, 3} {
		w.cut[[2]uint64{1, id}], w.cut[[2]uint64{id, 1}] = true, true
	}
	w.mu.Unlock()
	var answered atomic.Int64
	heal := func() {
		w.mu.Lock()
		clear(w.cut)
		w.mu.Unlock()
	}
	stop := make(chan struct{})
	end := sync.OnceFunc(func() { close(stop) })
	var writer sync.WaitGroup
	t.Cleanup(func() { heal(); end(); writer.Wait() })
	var failed error
	writer.Go(func() {
		failed = func() error {
			for b := make([]byte, 64<<10); ; {
				select {
				case <-stop:
					return nil
				default:
				}
				if err := n.fs1.Admit(); err != nil {
					return err
				}
				if _, err := n.fs1.Write(&cachefs.Caller{}, a.Ino, uint64(answered.Load()%(64<<20)), b, false); err != nil {
					return err
				}
				answered.Add(int64(len(b)))
			}
		}()
	})
	quiet, seen := time.Now(), int64(-1)
	require.Eventually(t, func() bool { // nothing for a while: it waits
		if now := answered.Load(); now != seen {
			quiet, seen = time.Now(), now
		}
		return time.Since(quiet) > 2*time.Second
	}, time.Minute, 10*time.Millisecond)
	require.LessOrEqual(t, seen, int64(17<<20), "16 MiB, and what one program may bring")
	_, err = n.fs1.Lookup(meta.Root, "file")
	require.NoError(t, err, "reads go on")
	heal()
	require.Eventually(t, func() bool { return answered.Load() > seen+(1<<20) }, time.Minute, 10*time.Millisecond)
	end()
	writer.Wait()
	require.NoError(t, failed)
	require.NoError(t, n.fs1.Sync(t.Context(), &cachefs.Caller{}))
	w.agree()
}

// TestFillIsSlow: content is filled in the background no faster than its rate, and what is read is fetched at once.
func TestFillIsSlow(t *testing.T) {
	w := newWatched(t)
	w.fillRate = 1 << 20
	n := w.leads()
	n.own(true)
	const size = 8 << 20
	n.file("large", size)
	w.agree()
	began := time.Now()
	w.mu.Lock()
	w.object = append(w.object, replication.Member{ID: 4, Role: replication.Learner})
	w.mu.Unlock()
	n4 := w.on(4, rand.New(rand.NewPCG(4, 4)))
	n4.start(nil)
	require.Eventually(t, func() bool { return n4.group.FillStatus().FilledBytes >= 4<<20 }, time.Minute, time.Millisecond)
	st := n4.group.FillStatus()
	took := time.Since(began)
	// A chunk is on its way before it is waited for, so one more than the rate allows; a busy machine only makes it slower.
	require.LessOrEqual(t, float64(st.FilledBytes), took.Seconds()*float64(w.fillRate)+float64(2<<20), "after %v", took)
	require.False(t, n4.group.Filled(), "after %v", took)
}
