package e2e

import (
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// TestRequestsHappenOnce: what the kernel sends again after the death of a sidecar has its effect once. A second mkdir would be
// EEXIST, a second unlink ENOENT, a second rename of a name that is used again would destroy it.
func TestRequestsHappenOnce(t *testing.T) {
	t.Parallel()
	const processes, kills = 8, 20
	i := startOne(t)
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	dir, stop := filepath.Join(i.mount("db-0"), "names"), filepath.Join(tempDir(t), "stop")
	i.program("", nil, "mkdir", "-p", dir+"/a", dir+"/b").run(time.Minute)
	i.program("", nil, "sh", "-c", `echo 0 >"$0"/count`, dir).run(time.Minute)
	var all []*child
	for p := range processes {
		all = append(all, i.worker("", "names", dir, stop, strconv.Itoa(p), strconv.FormatUint(seed+uint64(p), 10)).start())
	}
	r := rand.New(rand.NewPCG(seed, 1))
	for range kills {
		time.Sleep(time.Duration(r.IntN(80)) * time.Millisecond) // of work between two deaths
		i.killSidecar("db-0")
		for _, c := range all {
			select {
			case <-c.done:
				require.FailNow(t, "a call failed that must not", "seed %d: %v\n%s", seed, c.err, c.out.String())
			default:
			}
		}
	}
	require.NoError(t, os.WriteFile(stop, nil, 0o644))
	var want []string
	calls, counted := 0, 0
	for _, c := range all {
		said := lines(c.ok(time.Minute))
		calls += number(t, c.out.String(), "calls ")
		counted += number(t, c.out.String(), "counted ")
		want = append(want, said[:len(said)-2]...)
	}
	slices.Sort(want)
	t.Logf("%d kills, %d calls, %d files at the end", kills, calls, len(want))
	compare := func(when string) {
		t.Helper()
		require.Equal(t, want, names(i.worker("", "describe", dir).run(time.Minute)), "seed %d, %s", seed, when)
		require.Equal(t, strconv.Itoa(counted)+"\n", i.program("", nil, "cat", dir+"/count").run(time.Minute), when)
	}
	compare("as the kernel has it")
	i.stop()
	i.again()
	compare("after a new start")
}

var described = regexp.MustCompile(`^("/[ab]/.*" ino=\d+ )mode=\d+ (nlink=\d+ ).*?(?:ctime=\S+) ?(\S*)`)

// names makes of the lines of describe what the workers of changeNames say about their files.
func names(text string) []string {
	var all []string
	for _, line := range lines(text) {
		if m := described.FindStringSubmatch(line); m != nil {
			all = append(all, strings.TrimSpace(m[1]+m[2]+m[3]))
		}
	}
	slices.Sort(all)
	return all
}
