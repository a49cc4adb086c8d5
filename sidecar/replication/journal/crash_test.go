package journal

import (
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
)

var crashSeed = flag.Uint64("crash.seed", 0, "run TestCrash with this seed only")

var errCrash = errors.New("crash")

// crashWorld is a journal on a disk that stops at a random operation, and what the journal owes.
type crashWorld struct {
	t    testing.TB
	rng  *rand.Rand
	seed uint64

	mem  *vfs.MemFS // the disk now
	next *vfs.MemFS // the disk after the crash, once it has happened
	left int        // operations until the crash
	log  []string

	j        *Journal
	frames   []seen // appended and not known lost; lsn 0: its Append crashed
	durable  int    // so many of them are promised
	released LSN
}

// before counts down to the crash. A power cut loses any of what was not synced; a death of the process loses nothing of it,
// but leaves it unsynced.
func (w *crashWorld) before(op, name string, size int) (int, error) {
	if w.next != nil {
		return 0, errCrash
	}
	w.left--
	if w.left > 0 {
		return size, nil
	}
	w.next = w.mem
	if percent := []int{-1, 0, 20, 50, 80, 100}[w.rng.IntN(6)]; percent >= 0 {
		w.next = w.mem.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: percent, RNG: w.rng})
		w.logf("power cut at %s %s, %d%% of unsynced data kept", op, name, percent)
		return 0, errCrash
	}
	n := 0
	if size > 0 {
		n = w.rng.IntN(size + 1)
	}
	w.logf("process dies at %s %s after %d of %d bytes", op, name, n, size)
	return n, errCrash
}

func (w *crashWorld) logf(format string, args ...any) {
	w.log = append(w.log, fmt.Sprintf(format, args...))
}

func (w *crashWorld) fatalf(format string, args ...any) {
	w.t.Helper()
	for _, l := range w.log[max(0, len(w.log)-60):] {
		w.t.Log(l)
	}
	w.t.Fatalf("seed %d: %s", w.seed, fmt.Sprintf(format, args...))
}

func (w *crashWorld) options() Options {
	o := testOptions(&faultFS{FS: w.mem, before: w.before})
	o.Rand = chacha(w.rng.Uint64())
	o.MaxFree = 1 + w.rng.IntN(3)
	return o
}

// life opens the journal, works until the crash, and leaves the disk that the crash left.
func (w *crashWorld) life() {
	w.next = nil
	w.left = 1 + w.rng.IntN(15)
	if w.rng.IntN(4) > 0 {
		w.left = 1 + w.rng.IntN(400)
	}
	if w.open() {
		for w.next == nil {
			w.step()
		}
	}
	w.mem = w.next
}

func (w *crashWorld) open() bool {
	var scanned, visited []seen
	o := w.options()
	if _, err := w.mem.Stat(testDir); err == nil {
		_, err := Scan(o, collect(&scanned))
		if err != nil {
			w.fatalf("scan: %v", err)
		}
		w.compare(scanned)
	}
	j, err := Open(o, collect(&visited))
	switch {
	case err == nil:
	case errors.Is(err, errCrash):
		w.logf("crash within open")
		return false
	default:
		w.fatalf("open: %v", err)
	}
	w.compare(visited)
	if j.Start() > max(w.released, j.o.firstFrame(1)) {
		w.fatalf("the log starts at %d, released below %d", j.Start(), w.released)
	}
	if len(scanned) != len(visited) {
		w.fatalf("scan saw %d frames, open %d", len(scanned), len(visited))
	}
	w.j, w.frames, w.durable = j, visited, len(visited)
	w.logf("open: %d frames, end %d", len(visited), j.End())
	return true
}

// compare holds what a walk has visited against the promises.
func (w *crashWorld) compare(visited []seen) {
	w.t.Helper()
	first := 0
	for first < len(w.frames) && (len(visited) == 0 || w.frames[first].lsn != visited[0].lsn) {
		if f := w.frames[first]; f.end > w.released || f.lsn == 0 {
			break
		}
		first++
	}
	rest := w.frames[first:]
	if len(visited) > len(rest) {
		w.fatalf("%d frames visited, at most %d were appended from there on", len(visited), len(rest))
	}
	if first+len(visited) < w.durable {
		w.fatalf("%d frames visited from the %dth on, %d are promised", len(visited), first, w.durable)
	}
	for i, v := range visited {
		want := rest[i]
		if want.lsn == 0 {
			want.lsn, want.end, want.synced = v.lsn, v.end, v.synced
		}
		if v.synced > v.lsn {
			w.fatalf("frame at %d says synced up to %d", v.lsn, v.synced)
		}
		want.synced = v.synced
		if v != want {
			w.fatalf("frame %d is %v, want %v", i, v, want)
		}
	}
}

func (w *crashWorld) step() {
	switch n := w.rng.IntN(100); {
	case n < 70:
		w.append()
	case n < 88:
		count := len(w.frames)
		end, err := w.j.Sync()
		if w.survived("sync", err) {
			if end != w.j.End() || end != w.j.Synced() {
				w.fatalf("synced to %d and %d, end %d", end, w.j.Synced(), w.j.End())
			}
			w.durable = count
		}
	case n < 92:
		w.survived("prepare", w.j.Prepare())
	case n < 99:
		if w.durable == 0 {
			return
		}
		below := w.frames[w.rng.IntN(w.durable)].end
		w.released = max(w.released, below)
		w.survived(fmt.Sprintf("release below %d", below), w.j.Release(below))
	default:
		if w.survived("close", w.j.Close()) {
			w.durable = len(w.frames)
			w.open()
		}
	}
}

func (w *crashWorld) append() {
	size := w.rng.IntN(300)
	switch w.rng.IntN(10) {
	case 0:
		size = w.rng.IntN(50 << 10)
	case 1, 2, 3:
		size = 4096 + PayloadHeaderBytes
	}
	body := make([]byte, size)
	for i := range body {
		body[i] = byte(w.rng.Uint32())
	}
	f := seen{kind: KindPayload, group: w.rng.Uint64N(3), replica: w.rng.Uint64N(3), body: string(body)}
	w.frames = append(w.frames, f)
	cut := w.rng.IntN(size + 1)
	end, err := w.j.Append(f.kind, f.group, f.replica, body[:cut], body[cut:])
	if w.survived(fmt.Sprintf("append %d bytes", size), err) {
		f.end, f.lsn = end, end-LSN(frameBytes(size))
		w.frames[len(w.frames)-1] = f
	}
}

// survived reports whether a call succeeded; the only other outcome is the crash, and then nothing else may succeed.
func (w *crashWorld) survived(what string, err error) bool {
	w.t.Helper()
	w.logf("%s: %v", what, err)
	if err == nil {
		return true
	}
	var failed *FailedError
	if !errors.Is(err, errCrash) || !errors.As(err, &failed) {
		w.fatalf("%s: %v", what, err)
	}
	if _, err := w.j.Append(KindHardState, 0, 0); !errors.Is(err, failed) {
		w.fatalf("append after a failure: %v", err)
	}
	if _, err := w.j.Sync(); !errors.Is(err, failed) {
		w.fatalf("sync after a failure: %v", err)
	}
	return false
}

// TestCrash: rules 1 to 11 of the outline above type Journal, at random. Planted and seen to fail: CRCs without seed or without
// generation, a prevEnd that is ignored or too high, a sync of the current segment only, a synced end ahead of the sync, a log
// that goes on behind a tear, an Open that syncs nothing, names without a directory sync.
func TestCrash(t *testing.T) {
	seeds := []uint64{*crashSeed}
	if *crashSeed == 0 {
		seeds = seeds[:0]
		count := 100
		if testing.Short() {
			count = 30
		}
		for range count {
			seeds = append(seeds, rand.Uint64())
		}
	}
	frames := 0
	for _, seed := range seeds {
		rng := rand.New(rand.NewPCG(seed, 1))
		mem, _ := crashable(t)
		w := &crashWorld{t: t, rng: rng, seed: seed, mem: mem}
		for range 8 + rng.IntN(8) {
			w.life()
		}
		frames += len(w.frames)
	}
	t.Logf("%d seeds from %d on, %d frames at their ends", len(seeds), seeds[0], frames)
}
