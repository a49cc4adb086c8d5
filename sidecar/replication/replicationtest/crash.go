package replicationtest

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/remora-storage/remora/disk"
	"github.com/remora-storage/remora/disk/faultfs"
)

// Small is a tuning for histories of some dozen steps: segments are recycled, checkpoints made, slots reused and metadata files
// compacted all the time.
var Small = Tuning{SegmentBytes: 64 << 10, CheckpointBytes: 96 << 10, ReserveBytes: 256 << 10, MemTableBytes: 16 << 10, MaxDelay: 200 * time.Microsecond}

// Crashes is an exploration of the crash points of one random history. It runs once for many of them: at every sync, and at some
// other calls, the disk is asked what a crash would leave at that very moment, while everything goes on. Each image is recovered and
// compared with what was answered (the process died) or acknowledged by fsync (power was cut) at that moment, and with the model.
// Some recoveries are crashed themselves, at each of their syncs. Then the history goes on from one of the images. In half of the
// generations the applier is held up now and then, so that checkpoints meet a full apply queue.
type Crashes struct {
	Seed        uint64
	Generations int // times that the history goes on from a crash; 0 means 4
	Steps       int // in each, at most; 0 means 60
	Points      int // at most; 0 means no limit
	Tuning      Tuning
	// Lie may say that a call is to be answered and not done: a planted bug.
	Lie func(*faultfs.Op) bool
	// StopEarly ends the exploration with the first violation.
	StopEarly bool
}

// Found is what an exploration found.
type Found struct {
	Points     int
	Kinds      map[string]int // points by how the disk was left, and where
	Violations []string
	Nonces     int
	Histories  int
}

// Add adds another exploration.
func (f *Found) Add(o *Found) {
	f.Points += o.Points
	f.Nonces += o.Nonces
	f.Histories += o.Histories
	f.Violations = append(f.Violations, o.Violations...)
	for k, n := range o.Kinds {
		f.kind(k, n)
	}
}

func (f *Found) kind(k string, n int) {
	if f.Kinds == nil {
		f.Kinds = map[string]int{}
	}
	f.Kinds[k] += n
}

// crashes is a running exploration.
type crashes struct {
	Crashes
	t     testing.TB
	h     *History
	found *Found
	mu    sync.Mutex // found, and rng below
	rng   *rand.Rand
}

// Run explores.
func (c Crashes) Run(t testing.TB) *Found {
	if c.Generations == 0 {
		c.Generations = 4
	}
	if c.Steps == 0 {
		c.Steps = 60
	}
	if c.Tuning == (Tuning{}) {
		c.Tuning = Small
	}
	rng := rand.New(rand.NewPCG(c.Seed, 11))
	fs := faultfs.New(rand.New(rand.NewPCG(c.Seed, 12)))
	require.NoError(t, fs.MkdirAll("node", 0o755))
	require.NoError(t, disk.SyncDir(fs, "/"))
	r := &crashes{Crashes: c, t: t, rng: rng, found: &Found{Histories: 1}}
	r.h = newHistory(t, rand.New(rand.NewPCG(c.Seed, 0)), fs, "node", c.Tuning)
	for g := range c.Generations {
		if !r.generation(g) {
			break
		}
	}
	r.h.Stop()
	r.found.Nonces = r.h.Nonces()
	return r.found
}

// left is how many more points may be taken.
func (r *crashes) left() int {
	if r.StopEarly && len(r.found.Violations) > 0 {
		return 0
	}
	if r.Points == 0 {
		return 1 << 30
	}
	return r.Points - r.found.Points
}

// generation runs the history for a while, verifies what crashes would have left, and goes on from one of them; false at the end.
func (r *crashes) generation(g int) bool {
	fs, ok := r.h.FS().(*faultfs.FS)
	require.True(r.t, ok)
	col := &collector{fs: fs, lie: r.Lie, rng: rand.New(rand.NewPCG(r.rng.Uint64(), 13)), other: 6, most: r.left(), h: r.h}
	fs.Watch(col.hooks())
	var err error
	slow := r.rng.IntN(2) == 0
	for range 1 + r.rng.IntN(r.Steps) {
		if slow {
			col.hold.step(r.rng.IntN)
		}
		if err = r.h.TryStep(); err != nil {
			break
		}
	}
	col.hold.end()
	r.h.Stop()
	fs.Watch(nil)
	if err != nil {
		r.violation(fmt.Sprintf("generation %d: a step failed: %s", g, brief(err)))
		return false
	}
	if len(col.images) == 0 {
		return false
	}
	next := col.images[r.rng.IntN(len(col.images))]
	next.fs = next.fs.Image(r.rng, faultfs.Killed, nil)
	r.verifyAll(g, col.images)
	return r.left() > 0 && r.goOn(g, next)
}

// goOn takes the history back to a crash.
func (r *crashes) goOn(g int, img image) bool {
	h := r.h
	h.states = h.states[:img.hi+1]
	h.synced = img.lo
	if r.Lie != nil {
		img.fs.Watch(&faultfs.Hooks{Before: func(op *faultfs.Op) error {
			if r.Lie(op) {
				return faultfs.ErrPretend
			}
			return nil
		}})
	}
	err := h.try(func(h *History) {
		h.Move(img.fs, "node")
		h.Check(false)
	})
	if err != nil {
		r.violation(fmt.Sprintf("generation %d goes on: %s: %s", g, img.at, brief(err)))
	}
	return err == nil
}

func (r *crashes) violation(v string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.found.Violations = append(r.found.Violations, fmt.Sprintf("seed %d: %s", r.Seed, v))
}

// brief is what an assertion said, without the stack and the whole of two volumes.
func brief(err error) string {
	s := err.Error()
	if _, after, ok := strings.Cut(s, "Error:"); ok {
		s = after
	}
	s = strings.Join(strings.Fields(s), " ")
	return s[:min(len(s), 500)]
}

// verifyAll recovers images, two at a time.
func (r *crashes) verifyAll(g int, images []image) {
	var wg sync.WaitGroup
	work := make(chan int)
	for range 2 {
		wg.Go(func() {
			for i := range work {
				r.verify(g, images[i], uint64(i))
				images[i].fs = nil
			}
		})
	}
	for i := range images {
		r.mu.Lock()
		left := r.left()
		r.mu.Unlock()
		if left <= 0 {
			break
		}
		work <- i
	}
	close(work)
	wg.Wait()
}

// nestedEvery is how many recoveries there are for each that is crashed, too.
const nestedEvery = 40

// verify recovers an image and looks at what it has.
func (r *crashes) verify(g int, img image, n uint64) {
	rng := rand.New(rand.NewPCG(r.Seed<<20^uint64(g)<<16^n, 14))
	h := &History{Machine: &Machine{t: r.t, fs: img.fs, root: "node", rng: rng, replica: r.h.replica, key: r.h.key, tuning: r.Tuning,
		ledger: r.h.ledger}, states: r.h.states[:img.hi+1], synced: img.lo}
	h.see(img.hi, img.lo, img.synced)
	var col *collector
	if !img.nested && rng.IntN(nestedEvery) == 0 {
		col = &collector{fs: img.fs, lie: r.Lie, rng: rand.New(rand.NewPCG(rng.Uint64(), 15)), nested: true, most: 60, other: 20, h: h}
		img.fs.Watch(col.hooks())
	}
	var rotten *faultfs.FS
	if rng.IntN(rotEvery) == 0 {
		rotten = img.fs.Image(rng, faultfs.Killed, nil)
	}
	err := h.recoverAndFind()
	h.Stop()
	img.fs.Watch(nil)
	where := "history"
	if img.nested {
		where = "recovery"
	}
	r.point(fmt.Sprintf("%s in %s", img.cut, where))
	if err != nil {
		r.violation(fmt.Sprintf("generation %d: %s: states %d to %d: %s", g, img.at, img.lo, img.hi, brief(err)))
	}
	if rotten != nil {
		r.verifyRot(g, h, img, rotten, rng)
	}
	if col == nil || err != nil {
		return
	}
	for i := range col.images {
		in := &col.images[i]
		in.at = img.at + "; then " + in.at
		r.verify(g, *in, n<<16|uint64(i))
	}
}

func (r *crashes) point(kind string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.found.Points++
	r.found.kind(kind, 1)
}

// recoverAndFind starts the machine and looks for the state that it has. From then on that one is durable.
func (h *History) recoverAndFind() error {
	var got string
	err := h.try(func(h *History) {
		h.Start(false)
		got = DescribeFS(h.t, h.vol)
	})
	if err != nil {
		return err
	}
	for i := len(h.states) - 1; i >= h.synced; i-- {
		if h.states[i] == got {
			h.see(i, i, i)
			return nil
		}
	}
	if i := slices.Index(h.states, got); i >= 0 {
		return fmt.Errorf("%w: it has state %d", errWrongState, i)
	}
	return errWrongState
}

var errWrongState = errors.New("the volume has no state that it may have")
