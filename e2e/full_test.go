package e2e

import (
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
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
