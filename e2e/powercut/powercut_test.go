package powercut

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/remora-storage/remora/disk"
	"github.com/remora-storage/remora/sidecar/replication/replicationtest"
)

// TestPowerCutsExt4 and TestPowerCutsXFS cut the power of a volume's disk at random moments.
func TestPowerCutsExt4(t *testing.T) { powerCuts(t, ext4, *images) }

func TestPowerCutsXFS(t *testing.T) { powerCuts(t, xfs, *xfsImages) }

func powerCuts(t *testing.T, fs fileSystem, n int) {
	l := newLab(t, fs)
	start := time.Now()
	for generation := 0; l.tally.images < n; generation++ {
		if generation%4 == 0 {
			l.first = disk0{image: l.empty} // an empty disk again
		}
		count := min(5+n/6, 20, n-l.tally.images)
		if !t.Run(fmt.Sprintf("run=%d", generation), func(t *testing.T) { l.run(t, count) }) {
			t.Logf("VIOLATION on %s after %v; seed %d", fs.name, l.tally, l.seed)
			return
		}
	}
	require.Less(t, l.tally.broken, 3+n/20)
	spent := time.Since(start)
	t.Logf("%s: seed %d: %v; %.1f images/s; 0 violations", fs.name, l.seed, l.tally, float64(l.tally.images)/spent.Seconds())
}

// lab is what the runs of a test share.
type lab struct {
	fs    fileSystem
	seed  uint64
	rng   *rand.Rand
	dir   string
	empty string // an image with an empty file system
	first disk0  // what the next run begins with
	tally tally
}

// disk0 is the disk that a run begins with, and the history that it is from.
type disk0 struct {
	image string
	notes string // "" if there is no volume yet
	at    int64
}

func newLab(t *testing.T, fs fileSystem) *lab {
	if reason := unusable(); reason != "" {
		t.Skip(reason)
	}
	l := &lab{fs: fs, seed: *seed, dir: filepath.Join(os.Getenv(baseEnv), t.Name())}
	if l.seed == 0 {
		l.seed = rand.Uint64()>>40 + 1
	}
	t.Logf("seed %d", l.seed)
	l.rng = rand.New(rand.NewPCG(l.seed, 0))
	require.NoError(t, os.MkdirAll(l.dir, 0o700))
	l.empty = filepath.Join(l.dir, "empty.img")
	fs.make(t, l.empty)
	l.first = disk0{image: l.empty}
	t.Cleanup(func() {
		if !t.Failed() {
			require.Empty(t, loopDevices(l.dir), "loop devices are left")
			require.NoError(t, os.RemoveAll(l.dir))
		}
	})
	return l
}

// run runs one history and cuts the power count times.
func (l *lab) run(t *testing.T, count int) {
	dir := l.directory(t)
	first := l.first
	j := l.record(t, dir, first)
	notes, err := replicationtest.ReadNotes(j.Notes)
	require.NoError(t, err)
	log := readLog(t, filepath.Join(dir, "log"))
	defer func() { require.NoError(t, log.close()) }()
	durable := filepath.Join(dir, "durable.img")
	copyFile(t, durable, first.image)
	c := newCutter(t, log, durable, &l.tally)
	defer c.close(t)
	l.tally.runs++
	points := l.points(log, notes, count)
	next := l.rng.IntN(len(points))
	for i, at := range points {
		image := filepath.Join(dir, "image.img")
		c.cut(t, l.rng, image, at)
		if i == next {
			l.first = disk0{image: filepath.Join(l.dir, fmt.Sprintf("first-%d.img", l.tally.runs%2)), notes: j.Notes, at: at}
			copyFile(t, l.first.image, image)
		}
		if !l.check(t, image, notes, at) && i == next {
			l.first = disk0{image: l.empty}
		}
	}
}

// directory is a new one for a run; that of the run before the last one goes.
func (l *lab) directory(t *testing.T) string {
	name := func(k int) string { return filepath.Join(l.dir, fmt.Sprintf("run-%d", k)) }
	require.NoError(t, os.RemoveAll(name(l.tally.runs-2)))
	dir := name(l.tally.runs)
	require.NoError(t, os.MkdirAll(dir, 0o700))
	return dir
}

// record runs a history on a recorded disk.
func (l *lab) record(t *testing.T, dir string, first disk0) job {
	copyFile(t, filepath.Join(dir, "disk.img"), first.image)
	d := startRecorder(t, dir)
	m, err := l.fs.mount(d.file(), filepath.Join(dir, "mnt"), true)
	require.NoError(t, err)
	j := job{Root: m.dir, Notes: filepath.Join(dir, "notes"), Position: d.logFile(), Seed: l.rng.Uint64(), Steps: 20 + l.rng.IntN(*steps),
		Kill: l.rng.IntN(2) == 0, Earlier: first.notes, At: first.at}
	end := j.run(t)
	if j.Kill {
		require.Equal(t, endKilled, end.code, end.output)
	} else {
		require.Equal(t, endDone, end.code, end.output)
	}
	require.NoError(t, m.unmount())
	require.NoError(t, d.stop())
	return j
}

// points are positions in ascending order; many of them are in the recovery that a run begins with.
func (l *lab) points(log *diskLog, notes *replicationtest.Notes, count int) []int64 {
	started := notes.Started()
	var at []int64
	for i := range count {
		if l.first.notes != "" && i%3 == 0 {
			at = append(at, log.point(l.rng, 0, notes.Recovered()))
		} else {
			at = append(at, log.point(l.rng, started, replicationtest.End))
		}
	}
	slices.Sort(at)
	return at
}

// check looks at what an image has; false if the file system is not there any more.
func (l *lab) check(t *testing.T, image string, notes *replicationtest.Notes, at int64) bool {
	dir := filepath.Join(filepath.Dir(image), "check")
	m, err := l.fs.mount(image, dir, false)
	if broken(err) {
		l.tally.images--
		l.tally.broken++
		return false
	}
	require.NoError(t, err, "power cut at %d: the file system cannot be mounted", at)
	good := false
	defer func() {
		if !good { // the volume has files open
			_ = unix.Unmount(dir, unix.MNT_DETACH)
			l.keep(t, image, at)
		}
	}()
	h := notes.History(t, l.rng, at)
	h.Recover(disk.OS, dir)
	h.Check(false)
	for range 3 {
		h.Step()
	}
	require.NoError(t, h.Sync())
	h.Stop()
	require.NoError(t, m.unmount())
	good = true
	return true
}

// keep saves what is needed to look at a violation.
func (l *lab) keep(t *testing.T, image string, at int64) {
	t.Logf("power cut at %d of the log; seed %d", at, l.seed)
	if *keep == "" {
		return
	}
	require.NoError(t, os.MkdirAll(*keep, 0o700))
	for _, file := range []string{image, filepath.Join(filepath.Dir(image), "notes")} {
		to := filepath.Join(*keep, fmt.Sprintf("%s-%d-%d-%s", l.fs.name, l.seed, at, filepath.Base(file)))
		copyFile(t, to, file)
		t.Logf("kept %s", to)
	}
}
