package replication_test

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/remora-storage/remora/disk/faultfs"
	"github.com/remora-storage/remora/sidecar/replication"
)

// gathered is a group of which 1 leads and owns, 2 answers first, and what 3 is to get is gathered (docs/decisions/0024) until the test lets it go.
// Before each sync of each journal and arena it takes what a power cut of all three would leave at that moment.
type gathered struct {
	*trio
	disks   map[uint64]*faultfs.FS
	slow    uint64 // whose disk takes its time
	ticking chan struct{}
	ticker  sync.WaitGroup

	mu      sync.Mutex // held while a moment is looked at: nobody begins a call of a disk meanwhile
	rng     *rand.Rand
	watches bool
	holds   bool
	due     []func() // what the group's clock is to call
	told    int      // frames that 3 got while it was to get none
	acked   []string // files
	cuts    []cut
}

// cut is a moment: what an fsync had acknowledged, and what the disks had.
type cut struct {
	what  string
	acked []string
	power map[uint64]*faultfs.FS // after the loss of power
	stays *faultfs.FS            // of 2, whose process goes on
}

const gatheredSize = 3000

func newGathered(t *testing.T, slow, seed uint64) *gathered {
	c := newSlowTrio(t, -1)
	g := &gathered{trio: c, disks: map[uint64]*faultfs.FS{}, slow: slow, rng: rand.New(rand.NewPCG(seed, slow))}
	c.after = g.after
	c.tap = func(l letter) {
		g.mu.Lock()
		defer g.mu.Unlock()
		if g.holds && l.to == 3 {
			g.told++
		}
	}
	for id := uint64(1); id <= 3; id++ {
		c.object = append(c.object, replication.Member{ID: id, Role: replication.Voter})
	}
	for id := uint64(1); id <= 3; id++ {
		g.disks[id] = faultfs.New(rand.New(rand.NewPCG(seed, 10+id)))
		c.emptyOn(g.disks[id], id).start([]uint64{1, 2, 3})
	}
	g.tick()
	require.Eventually(t, func() bool {
		c.nodes[1].group.Lead()
		return c.nodes[1].group.Status().Group.Leads
	}, time.Minute, 20*time.Millisecond)
	c.nodes[1].own(true)
	c.mu.Lock()
	c.cut[[2]uint64{3, 1}] = true // so 2 is the first to answer
	c.mu.Unlock()
	g.write("first", gatheredSize)
	c.mu.Lock()
	clear(c.cut)
	c.mu.Unlock()
	require.Eventually(t, func() bool { // has all of the log, and has said so
		s := c.nodes[1].group.Status().Group
		return s.Leads && s.Peers[3].Match == s.Last && s.Peers[3].Active
	}, time.Minute, time.Millisecond)
	return g
}

// after is the group's clock for what is gathered.
func (g *gathered) after(_ time.Duration, f func()) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.holds {
		g.due = append(g.due, f)
		return
	}
	go f()
}

// tick has time pass.
func (g *gathered) tick() {
	stop := make(chan struct{})
	g.ticking = stop
	g.ticker.Go(func() {
		for {
			for _, id := range []uint64{1, 2, 3} {
				g.nodes[id].group.Tick()
			}
			select {
			case <-stop:
				return
			case <-time.After(5 * time.Millisecond):
			}
		}
	})
}

func (g *gathered) stopTicks() {
	close(g.ticking)
	g.ticker.Wait()
}

// watch has every moment looked at from here on.
func (g *gathered) watch() {
	g.mu.Lock()
	g.watches = true
	g.mu.Unlock()
	for id, fs := range g.disks {
		fs.Watch(&faultfs.Hooks{Before: func(op *faultfs.Op) error {
			if op.Kind == faultfs.Sync && g.slow == id {
				time.Sleep(2 * time.Millisecond) // as slow disks do: the others are done meanwhile
			}
			g.mu.Lock() // also of other calls: what an image that is being taken does not have, nobody may answer for
			defer g.mu.Unlock()
			if op.Kind == faultfs.Sync && (strings.Contains(op.Path, "/journal/") || op.Base() == "arena") {
				g.look(fmt.Sprintf("before a sync of %s of %d", op.Base(), id))
			}
			return nil
		}})
	}
}

// look takes what the disks have. g.mu is held.
func (g *gathered) look(what string) {
	if !g.watches {
		return
	}
	c := cut{what: fmt.Sprintf("%d acknowledged, %s", len(g.acked), what), acked: slices.Clone(g.acked), power: map[uint64]*faultfs.FS{}}
	for id := uint64(1); id <= 3; id++ {
		kind := faultfs.LoseAll + faultfs.Cut(g.rng.IntN(int(faultfs.Cuts-faultfs.LoseAll)))
		c.power[id] = g.disks[id].Image(g.rng, kind, nil)
	}
	c.stays = g.disks[2].Image(g.rng, faultfs.Killed, nil)
	g.cuts = append(g.cuts, c)
}

// write writes a file, syncs it, and notes that it is acknowledged.
func (g *gathered) write(name string, size int) {
	g.nodes[1].file(name, size)
	g.mu.Lock()
	defer g.mu.Unlock()
	g.acked = append(g.acked, name)
	g.look("after " + name)
}

func sizeOf(name string) int {
	if strings.HasPrefix(name, "large") {
		return 300_000 // in slots of the arenas
	}
	return gatheredSize
}

// run writes while what 3 is to get is held, then lets it go, and returns the moments.
func (g *gathered) run() []cut {
	g.stopTicks() // a tick lets go, too
	g.mu.Lock()
	g.holds = true
	g.mu.Unlock()
	g.watch()
	for i := range 5 {
		g.write(fmt.Sprintf("held-%d", i), gatheredSize)
	}
	g.write("large-held", 300_000)
	g.mu.Lock()
	g.holds = false
	due := g.due
	g.mu.Unlock()
	require.NotEmpty(g.t, due)
	for _, f := range due {
		f()
	}
	g.tick()
	g.agree()
	g.stopTicks()
	g.mu.Lock()
	g.watches = false
	g.mu.Unlock()
	for _, fs := range g.disks {
		fs.Watch(nil)
	}
	return g.cuts
}

// comesBack starts what a moment has left of some nodes, and looks for all that was acknowledged.
func (c *cut) comesBack(t *testing.T, of *gathered, disks map[uint64]*faultfs.FS, owner uint64) {
	n := newSlowTrio(t, 5*time.Millisecond)
	n.key, n.epoch, n.object = of.key, of.epoch, of.members()
	rng := rand.New(rand.NewPCG(1, 2))
	for _, id := range slices.Sorted(maps.Keys(disks)) {
		n.nodes[id] = &node{trio: n, id: id, fs: disks[id].Image(rng, faultfs.Killed, nil)} // a copy: another variant uses it, too
	}
	for _, id := range slices.Sorted(maps.Keys(disks)) {
		n.nodes[id].start(nil)
	}
	o := n.nodes[owner]
	o.own(false)
	for _, name := range c.acked {
		o.check(name, sizeOf(name))
	}
	o.file("after", gatheredSize)
	n.agree()
}

// TestPowerCutWhileAppendsAreHeld: what leader and first follower have acknowledged, while the other one's appends are gathered, is there after the power of
// all is cut at any moment: where all come back, the first follower perhaps without a cut, and where it, or the leader, is lost with its disk
// just then, and the one comes back that had been told of nothing. -points=25000 tries all of it.
func TestPowerCutWhileAppendsAreHeld(t *testing.T) {
	seed := max(*seed, 1)
	t.Logf("-seed=%d", seed)
	for slow, name := range []string{"all disks are fast", "the leader's disk is slow", "the first follower's disk is slow"} {
		t.Run(name, func(t *testing.T) {
			g := newGathered(t, uint64(slow), seed)
			cuts := g.run()
			rng := rand.New(rand.NewPCG(seed, 3))
			type trial struct{ cut, variant int }
			var trials []trial
			for i := range cuts {
				for v := range 3 {
					trials = append(trials, trial{i, v})
				}
			}
			rng.Shuffle(len(trials), func(i, k int) { trials[i], trials[k] = trials[k], trials[i] })
			tried := min(len(trials), max(1, *points/125))
			for _, tr := range trials[:tried] {
				c := &cuts[tr.cut]
				switch tr.variant {
				case 0:
					t.Run(fmt.Sprintf("all come back, %d: %s", tr.cut, c.what), func(t *testing.T) {
						c.comesBack(t, g, map[uint64]*faultfs.FS{1: c.power[1], 2: c.stays, 3: c.power[3]}, 2)
					})
				case 1:
					t.Run(fmt.Sprintf("the first follower is lost, %d: %s", tr.cut, c.what), func(t *testing.T) {
						c.comesBack(t, g, map[uint64]*faultfs.FS{1: c.power[1], 3: c.power[3]}, 3)
					})
				case 2:
					t.Run(fmt.Sprintf("the leader is lost, %d: %s", tr.cut, c.what), func(t *testing.T) {
						c.comesBack(t, g, map[uint64]*faultfs.FS{2: c.power[2], 3: c.power[3]}, 3)
					})
				}
			}
			t.Logf("%d moments, %d of %d trials", len(cuts), tried, len(trials))
			require.Zero(t, g.told, "3 got something while it was to get nothing: little is shown of what it lacks")
		})
	}
}
