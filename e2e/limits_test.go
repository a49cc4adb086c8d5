package e2e

import (
	"path/filepath"
	"testing"
	"time"
)

// TestLimits: a volume takes exactly as many bytes and files as it may, says so in statfs, and has room again as soon as something is
// deleted.
func TestLimits(t *testing.T) {
	t.Parallel()
	needRoot(t)
	i := start(t, filepath.Join(tempDir(t), "dev"), statefulSet(1, "64Mi"))
	i.worker("", "fill-bytes", i.mount("db-0"), "67108864").run(2 * time.Minute)
	i = start(t, filepath.Join(tempDir(t), "dev"), statefulSet(1, "4Mi"))
	i.worker("", "fill-inodes", i.mount("db-0"), "1024").run(2 * time.Minute)
	i.killSidecar("db-0")
	i.worker("", "fill-inodes", i.mount("db-0"), "1024").run(2 * time.Minute)
}
