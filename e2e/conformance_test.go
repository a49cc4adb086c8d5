package e2e

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

var manyLinks = flag.Bool("many-links", false, "TestConformance makes 65,000 links of a file, too; `make posix`")

// TestConformance runs the checks of e2e/conformance on a volume.
func TestConformance(t *testing.T) {
	t.Parallel()
	i := startOne(t)
	t.Log(lastLine(conformer(i, fmt.Sprintf("-slow=%v", *manyLinks)).run(5 * time.Minute)))
	i = start(t, filepath.Join(tempDir(t), "dev"), statefulSet(1, "4Mi"))
	t.Log("full:", lastLine(conformer(i, "-small").run(5*time.Minute)))
}

// TestConformanceDeath does the same while sidecars are killed: nothing that the kernel asked may be lost or be done twice.
func TestConformanceDeath(t *testing.T) {
	t.Parallel()
	i := startOne(t)
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	c := conformer(i).start()
	kills, r := 0, rand.New(rand.NewPCG(seed, 0))
	for pid := i.served("db-0", 0); running([]*child{c}); kills++ {
		time.Sleep(time.Duration(r.IntN(200)) * time.Millisecond) // of checks between two deaths
		said := len(servedAgain.FindAllString(i.out.String(), -1))
		require.NoError(t, syscall.Kill(pid, syscall.SIGKILL))
		restarts := i.restarts(said + 1)
		pid = restarts[len(restarts)-1].pid
		require.Less(t, kills, 500, "the checks do not end")
	}
	t.Logf("%d kills; %s", kills, lastLine(c.out.String()))
	require.Greater(t, kills, 2)
}

// conformer makes the checks in a directory of the volume.
func conformer(i *instance, flags ...string) *child {
	dir := filepath.Join(i.mount("db-0"), "conformance")
	i.program("", nil, "mkdir", "-m", "0755", dir).run(time.Minute)
	return i.worker("", "conformance", append([]string{dir}, flags...)...)
}

func lastLine(text string) string {
	text = strings.TrimSpace(text)
	return text[strings.LastIndexByte(text, '\n')+1:]
}
