package e2e

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/hanwen/go-fuse/v2/posixtest"
	"github.com/stretchr/testify/require"
)

// TestPosix runs go-fuse's checks of POSIX on a mount.
func TestPosix(t *testing.T) {
	i := startOne(t)
	for name, check := range posixtest.All {
		if name == "FcntlFlockLocksFile" {
			// It wants fcntl and flock locks to exclude each other, as a FUSE server does that is sent both. Ours stay in the kernel,
			// where they are independent, as on ext4: the check fails on a plain directory, too.
			continue
		}
		t.Run(name, func(t *testing.T) {
			dir := filepath.Join(i.mount("db-0"), name)
			require.NoError(t, os.Mkdir(dir, 0o755))
			check(t, dir)
		})
	}
}
