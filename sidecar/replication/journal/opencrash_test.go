package journal

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/stretchr/testify/require"
)

// tornStates are disks that a power cut may leave, made by hand because chance makes them too seldom.
func tornStates(t *testing.T) map[string]*vfs.MemFS {
	// The page of an unsynced frame is lost, and four segments behind it reached the disk.
	long, _ := crashable(t)
	j, _ := mustOpen(t, testOptions(long))
	mustAppend(t, j, "synced")
	mustSync(t, j)
	mustAppend(t, j, "not synced, not lost")
	lost := j.End()
	for len(j.segs) < 5 {
		mustAppend(t, j, strings.Repeat("x", 7000))
	}
	clear(fileBytes(t, long, 1)[lost-j.segs[0].base:][:4096])

	// The first frame of a segment whose header is synced is lost, and the second is not.
	first, _ := crashable(t)
	j, _ = mustOpen(t, testOptions(first))
	mustAppend(t, j, "synced")
	require.NoError(t, j.Close())
	j, _ = mustOpen(t, testOptions(first))
	mustAppend(t, j, "lost")
	mustAppend(t, j, "behind the end of the log")
	clear(fileBytes(t, first, 2)[headerPageBytes:][:64])

	// The same in a journal of one segment.
	only, _ := crashable(t)
	j, _ = mustOpen(t, testOptions(only))
	mustAppend(t, j, "lost")
	mustAppend(t, j, "behind the end of the log")
	clear(fileBytes(t, only, 1)[headerPageBytes:][:64])
	return map[string]*vfs.MemFS{"long": long, "first": first, "only": only}
}

func crashable(t testing.TB) (*vfs.MemFS, Options) {
	fs := vfs.NewCrashableMem()
	require.NoError(t, fs.MkdirAll(testDir, 0o700))
	require.NoError(t, syncDir(fs, "/"))
	return fs, testOptions(fs)
}

// TestCrashWithinOpen cuts the power at each operation of a recovery: the next one finds the same log.
func TestCrashWithinOpen(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	for name, state := range tornStates(t) {
		var want []seen
		_, err := Scan(testOptions(state), collect(&want))
		require.NoError(t, err)
		for _, percent := range []int{0, 50, 100} {
			t.Run(fmt.Sprintf("%s/%d%%", name, percent), func(t *testing.T) {
				ops := 0
				for at := 1; ; at++ {
					mem := state.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: 100, RNG: rng})
					after := openCutAt(mem, at, vfs.CrashCloneCfg{UnsyncedDataPercent: percent, RNG: rng})
					if after == nil {
						break
					}
					ops++
					var got []seen
					_, err := Open(testOptions(after), collect(&got))
					require.NoError(t, err, "power cut at operation %d", at)
					require.Equal(t, bodies(want), bodies(got), "power cut at operation %d", at)
				}
				require.Greater(t, ops, 5)
			})
		}
	}
}

// openCutAt opens the journal and returns the disk after a power cut at the given operation; nil if Open needs fewer.
func openCutAt(mem *vfs.MemFS, at int, cfg vfs.CrashCloneCfg) *vfs.MemFS {
	var after *vfs.MemFS
	fs := &faultFS{FS: mem, before: func(string, string, int) (int, error) {
		if at--; at == 0 {
			after = mem.CrashClone(cfg)
		}
		if after != nil {
			return 0, errCrash
		}
		return 0, nil
	}}
	_, _ = Open(testOptions(fs), func(Frame) error { return nil })
	return after
}

// TestVisitedHasWitness: what Open has visited may have been acted upon, so from then on its loss is damage, and no torn tail.
func TestVisitedHasWitness(t *testing.T) {
	fs, o := crashable(t)
	j, _ := mustOpen(t, o)
	mustAppend(t, j, "never synced by the process that wrote it")
	mustOpen(t, o)
	fs = fs.CrashClone(vfs.CrashCloneCfg{})
	fileBytes(t, fs, 1)[headerPageBytes+frameHeaderBytes] ^= 1
	_, err := Open(testOptions(fs), func(Frame) error { return nil })
	var damage *DamageError
	require.ErrorAs(t, err, &damage)
}

// TestNamesAreDurable: a process may die between a rename and the directory's sync; the next one must not put synced frames into a
// file whose name the disk does not know.
func TestNamesAreDurable(t *testing.T) {
	mem, _ := crashable(t)
	dead := false
	fs := &faultFS{FS: mem, before: func(op, name string, _ int) (int, error) {
		if dead = dead || op == "sync" && name == "dir" && exists(mem, segmentName(2)); dead {
			return 0, errCrash
		}
		return 0, nil
	}}
	j, _ := mustOpen(t, testOptions(fs))
	mustAppend(t, j, "one")
	mustSync(t, j)
	require.ErrorIs(t, j.Prepare(), errCrash)

	j, _ = mustOpen(t, testOptions(mem))
	mustAppend(t, j, "two")
	mustSync(t, j)
	_, frames := mustOpen(t, testOptions(mem.CrashClone(vfs.CrashCloneCfg{})))
	require.Equal(t, []string{"one", "two"}, bodies(frames))
}

func exists(fs vfs.FS, name string) bool {
	_, err := fs.Stat(testDir + "/" + name)
	return err == nil
}

// TestPreparedIsBlank: under a segment's name, a header is there only after activate has written it.
func TestPreparedIsBlank(t *testing.T) {
	mem, o := crashable(t)
	j, _ := mustOpen(t, o)
	for len(j.segs) < 2 {
		mustAppend(t, j, strings.Repeat("x", 9000))
	}
	require.NoError(t, j.Release(mustSync(t, j)))
	require.True(t, exists(mem, freeName(1)))
	require.NoError(t, j.Prepare())
	require.False(t, exists(mem, freeName(1)))
	b := fileBytes(t, mem.CrashClone(vfs.CrashCloneCfg{}), 3)
	require.Equal(t, make([]byte, headerPageBytes), b[:headerPageBytes])
	require.Equal(t, make([]byte, headerPageBytes), b[len(b)-headerPageBytes:])
	require.NotEqual(t, make([]byte, headerPageBytes), b[headerPageBytes:2*headerPageBytes], "it is a recycled file")
}
