package powercut

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/remora-storage/remora/sidecar/replication/replicationtest"
)

// TestDiskErrorsExt4 and TestDiskErrorsXFS let writes and flushes of the disk fail at random moments; a flush that fails may have
// lost what it should have made durable, and the page cache still has it.
func TestDiskErrorsExt4(t *testing.T) { diskErrors(t, ext4, *faults) }

func TestDiskErrorsXFS(t *testing.T) { diskErrors(t, xfs, *faults) }

// exitPanic is how a process ends that Go's runtime ends.
const exitPanic = 2

// outcomes counts how histories with a disk error went.
type outcomes struct {
	fired, stopped, panicked, unnoticed int // of the first process
	refused, restarted                  int // of the next one on the same mount
	remounted                           int
}

func diskErrors(t *testing.T, fs fileSystem, n int) {
	l := newLab(t, fs)
	var o outcomes
	for i := range n {
		require.True(t, t.Run(fmt.Sprintf("round=%d", i), func(t *testing.T) { l.diskError(t, &o, i%2 == 0) }), "VIOLATION: seed %d", l.seed)
	}
	t.Logf("%s: seed %d: %d histories, the error came in %d: replica stopped %d, process ended by the metadata store %d, unnoticed %d; "+
		"restarts on the same mount: %d went on, %d were refused by the file system; %d mounted again; 0 violations",
		fs.name, l.seed, n, o.fired, o.stopped, o.panicked, o.unnoticed, o.restarted, o.refused, o.remounted)
}

// diskError is one round.
//
//  1. A history runs, and the disk fails once. The worker itself sees to it that no fsync is acknowledged after the failure.
//  2. With restart, the next process opens the volume on the same mount, whose page cache has what the disk has not. What it
//     serves is a state of the history with all that was acknowledged; from then on it counts as durable. Then that process is
//     killed, and the power is cut.
//  3. The disk is mounted again, and everything acknowledged is there.
func (l *lab) diskError(t *testing.T, o *outcomes, restart bool) {
	l.tally.runs++
	dir := l.directory(t)
	copyFile(t, filepath.Join(dir, "disk.img"), l.empty)
	d := startRecorder(t, dir)
	m, err := l.fs.mount(d.file(), filepath.Join(dir, "mnt"), true)
	require.NoError(t, err)
	j := job{Root: m.dir, Notes: filepath.Join(dir, "notes"), Position: d.logFile(), Seed: l.rng.Uint64(), Steps: 20 + *steps}
	armed := make(chan struct{})
	f := fault{Flush: l.rng.IntN(3) > 0, After: l.rng.IntN(1 + *steps/4), Count: 1 + l.rng.IntN(2), Lose: l.rng.IntN(3) > 0}
	go func() {
		defer close(armed)
		for {
			if n, err := replicationtest.ReadNotes(j.Notes); err == nil && n.Started() >= 0 {
				break
			}
			time.Sleep(time.Millisecond) // another process has no other way to tell
		}
		d.tell(t, diskOrder{Fault: &f})
	}()
	end := j.run(t)
	<-armed
	fired := d.tell(t, diskOrder{Fault: &fault{}}).Fired
	t.Logf("%+v: failed %d operations; the worker ended with %d: %s", f, fired, end.code, firstLines(end.output))
	o.count(t, end, fired)
	last := j
	if restart {
		last = l.restart(t, o, j)
	}
	if restart && last.Notes != j.Notes {
		l.cutNow(t, d, last)
	}
	_ = m.unmount() // the file system may have given up; what is on the disk is what counts
	require.NoError(t, d.stop())
	o.remounted++
	require.True(t, l.look(t, filepath.Join(dir, "disk.img"), last.Notes), "the file system is broken")
}

// firstLines is what a worker says first, without the places.
func firstLines(s string) string {
	var lines []string
	for line := range strings.Lines(s) {
		if line = strings.TrimSpace(line); line != "" && !strings.Contains(line, ".go:") && len(lines) < 4 {
			lines = append(lines, line)
		}
	}
	return strings.Join(lines, "; ")
}

func (o *outcomes) count(t *testing.T, end ended, fired int) {
	if fired > 0 {
		o.fired++
	}
	switch end.code {
	case endDone:
		if fired > 0 {
			o.unnoticed++
		}
	case endFailed:
		require.NotZero(t, fired, "the volume fails on a good disk: %s", end.output)
		o.stopped++
	case exitPanic:
		requireFatal(t, end)
		require.NotZero(t, fired, "the process dies on a good disk: %s", end.output)
		o.panicked++
	default:
		require.Fail(t, "worker", "exit code %d: %s", end.code, end.output)
	}
}

// requireFatal: Pebble knows no other answer to an error of its manifest than the end of the process.
func requireFatal(t *testing.T, end ended) {
	require.Contains(t, end.output, "panic: metadata store: ")
}

// restart opens the volume in a new process on the same mount. It returns that process's job, or the one before if the file system
// refuses.
func (l *lab) restart(t *testing.T, o *outcomes, before job) job {
	notes, err := replicationtest.ReadNotes(before.Notes)
	require.NoError(t, err)
	j := before
	j.Earlier, j.At, j.Notes = before.Notes, replicationtest.End, before.Notes+"-2"
	j.Seed, j.Steps, j.Kill = l.rng.Uint64(), l.rng.IntN(30), true
	j.Expect = notes.Answered() // the process died, and no more: the page cache has everything
	end := j.run(t)
	switch end.code {
	case endKilled:
		o.restarted++
		return j
	case endNoStart:
		o.refused++
		require.Regexp(t, "read-only file system|input/output error|mkdir .*: file exists", end.output)
		return before
	default:
		require.Fail(t, "worker", "exit code %d: %s", end.code, end.output)
		return before
	}
}

// cutNow cuts the power, and checks.
func (l *lab) cutNow(t *testing.T, d *recorder, j job) {
	log := readLog(t, d.logFile())
	defer func() { require.NoError(t, log.close()) }()
	durable := filepath.Join(d.dir, "durable.img")
	copyFile(t, durable, l.empty)
	c := newCutter(t, log, durable, &l.tally)
	image := filepath.Join(d.dir, "image.img")
	for range 2 {
		c.cut(t, l.rng, image, replicationtest.End)
		l.look(t, image, j.Notes) // a torn XFS may be gone
	}
	c.close(t)
}
