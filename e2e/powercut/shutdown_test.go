package powercut

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/remora-storage/remora/disk"
	"github.com/remora-storage/remora/sidecar/replication/replicationtest"
)

// TestShutdownExt4 and TestShutdownXFS let the kernel itself forget: FS_IOC_SHUTDOWN without a flush of the journal, at a random
// moment of a history.
func TestShutdownExt4(t *testing.T) { shutDown(t, ext4, *shutdowns) }

func TestShutdownXFS(t *testing.T) { shutDown(t, xfs, *shutdowns) }

// From linux/fs.h: _IOR('X', 125, __u32) and FS_SHUTDOWN_FLAGS_NOLOGFLUSH.
const (
	fsShutdown   = 0x8004587d
	noJournaling = 2
)

func shutDown(t *testing.T, fs fileSystem, n int) {
	l := newLab(t, fs)
	caught := 0
	for i := range n {
		require.True(t, t.Run(fmt.Sprintf("round=%d", i), func(t *testing.T) {
			if l.shutDown(t) {
				caught++
			}
		}), "VIOLATION: seed %d", l.seed)
	}
	t.Logf("%s: seed %d: %d shutdowns, %d of them while the history ran; 0 violations", fs.name, l.seed, n, caught)
}

// shutDown is one round: a history, its end, and what the file system has when it is mounted again. It returns whether the history
// was still running.
func (l *lab) shutDown(t *testing.T) bool {
	l.tally.runs++
	dir := l.directory(t)
	image := filepath.Join(dir, "disk.img")
	copyFile(t, image, l.empty)
	m, err := l.fs.mount(image, filepath.Join(dir, "mnt"), false)
	require.NoError(t, err)
	j := job{Root: m.dir, Notes: filepath.Join(dir, "notes"), Seed: l.rng.Uint64(), Steps: 400}
	after := time.Duration(l.rng.IntN(500)) * time.Millisecond
	down := make(chan error, 1)
	go func() { down <- shutDownAfter(m.dir, j.Notes, after) }()
	end := j.run(t)
	require.NoError(t, <-down)
	require.Contains(t, []int{endDone, endFailed, exitPanic}, end.code, end.output)
	if end.code == exitPanic {
		requireFatal(t, end)
	}
	require.NoError(t, m.unmount())
	require.True(t, l.look(t, image, j.Notes), "the file system is broken")
	return end.code != endDone
}

// shutDownAfter shuts the file system down some time after a volume is there.
func shutDownAfter(dir, notes string, after time.Duration) error {
	for {
		if n, err := replicationtest.ReadNotes(notes); err == nil && n.Started() >= 0 {
			break
		}
		time.Sleep(time.Millisecond) // another process has no other way to tell
	}
	time.Sleep(after)
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	err = unix.IoctlSetPointerInt(int(f.Fd()), fsShutdown, noJournaling)
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	return err
}

// look mounts a disk and compares it with the end of a history; false if the file system is not there any more.
func (l *lab) look(t *testing.T, image, notesFile string) bool {
	notes, err := replicationtest.ReadNotes(notesFile)
	require.NoError(t, err)
	m, err := l.fs.mount(image, filepath.Join(filepath.Dir(image), "check"), false)
	if broken(err) {
		return false
	}
	require.NoError(t, err)
	t.Cleanup(func() {
		if t.Failed() {
			_ = unix.Unmount(m.dir, unix.MNT_DETACH)
		}
	})
	h := notes.History(t, rand.New(rand.NewPCG(l.rng.Uint64(), 0)), replicationtest.End)
	h.Recover(disk.OS, m.dir)
	h.Check(false)
	for range 3 {
		h.Step()
	}
	require.NoError(t, h.Sync())
	h.Stop()
	require.NoError(t, m.unmount())
	return true
}
