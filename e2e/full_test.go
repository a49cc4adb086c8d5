package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// fill writes until there is no room, and goes on to write where there was content before.
const fill = `cd "$0"
yes 0123456789 | head -c 3000000 >kept; sync kept; sum=$(cksum <kept)
errors=$(dd if=/dev/zero of=big bs=64k 2>&1) && { echo "the volume is never full"; exit 1; }
case "$errors" in *'No space left on device'*) ;; *) echo "$errors"; exit 1;; esac
[ "$(cksum <kept)" = "$sum" ] || { echo "a file has changed"; exit 1; }
dd if=/dev/zero of=kept bs=64k count=40 conv=notrunc,fsync 2>/dev/null || { echo "what is there cannot be overwritten"; exit 1; }
[ "$(stat -f -c %f .)" -lt 16 ] || { echo "statfs shows room"; exit 1; }
mkdir dir && mv kept dir/kept && mv dir/kept kept && rm big
for n in $(seq 300); do [ "$(stat -f -c %f .)" -gt 7000 ] && break; sleep 0.1; done # the kernel forgets files when it likes
yes abcdefghij | head -c 20000000 >again && sync again && cksum <again`

// TestFullVolume: ENOSPC harms nothing that is there, and room comes back.
func TestFullVolume(t *testing.T) {
	t.Parallel()
	needRoot(t)
	i := start(t, filepath.Join(tempDir(t), "dev"), statefulSet(1, "32Mi"))
	sum := i.program("", nil, "sh", "-c", fill, i.mount("db-0")).run(time.Minute)
	i.killSidecar("db-0")
	require.Equal(t, sum, i.program("", nil, "sh", "-c", `cksum <"$0"/again`, i.mount("db-0")).run(time.Minute))
	i.stop()
	i.again()
	require.Equal(t, sum, i.program("", nil, "sh", "-c", `cksum <"$0"/again`, i.mount("db-0")).run(time.Minute))
	require.Equal(t, uint64(32<<20), i.pod("db-0").Volumes[0].Size)
}

// fillPeers fills what is behind a volume while the volume itself has room: twice, for what was freed must be usable.
const fillPeers = `cd "$0"
yes 0123456789 | head -c 3000000 >kept; sync kept; sum=$(cksum <kept)
for round in 1 2; do
	errors=$(dd if=/dev/zero of=big bs=1M count=2000 conv=fsync 2>&1) && { echo "round $round: the disks are never full"; exit 1; }
	case "$errors" in *'No space left on device'*) ;; *) echo "round $round: $errors"; exit 1;; esac
	[ "$(cksum <kept)" = "$sum" ] || { echo "a file has changed"; exit 1; }
	dd if=/dev/zero of=small bs=1M count=20 2>/dev/null && { echo "round $round: there is room"; exit 1; }
	for n in $(seq 300); do [ "$(stat -f -c %a .)" -lt 5120 ] && break; sleep 0.1; done
	[ "$(stat -f -c %a .)" -lt 5120 ] || { echo "round $round: statfs shows room"; exit 1; }
	rm big small
	for n in $(seq 300); do dd if=/dev/zero of=again bs=1M count=50 conv=fsync 2>/dev/null && break; sleep 0.1; done
	[ "$(stat -c %s again)" = 52428800 ] || { echo "round $round: what was freed cannot be used"; exit 1; }
	rm again
done
cksum <kept`

// TestPeersDisksAreFull: a program gets ENOSPC where a peer has no room for what it writes, and waits for nothing for ever.
func TestPeersDisksAreFull(t *testing.T) {
	t.Parallel()
	needRoot(t)
	dir := filepath.Join(tempDir(t), "dev")
	for _, node := range []string{"node-1", "node-2"} {
		at := filepath.Join(dir, "nodes", node)
		require.NoError(t, os.MkdirAll(at, 0o700))
		require.NoError(t, unix.Mount("tmpfs", at, "tmpfs", 0, "size=512m,mode=0700"))
		t.Cleanup(func() { require.NoError(t, unix.Unmount(at, unix.MNT_DETACH)) })
	}
	i := start(t, dir, strings.Replace(replicated(1), "size: 1Gi", "size: 4Gi", 1))
	i.program("", nil, "sh", "-c", fillPeers, i.mount("db-0")).run(3 * time.Minute)
	i.inSync("db-0")
	require.NotContains(t, i.out.String(), "panic")
}
