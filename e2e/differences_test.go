package e2e

import (
	"path/filepath"
	"testing"
	"time"
)

// TestDifferences: what docs/semantics.md says that a volume does in another way than ext4.
func TestDifferences(t *testing.T) {
	t.Parallel()
	i := startOne(t)
	dir := filepath.Join(i.mount("db-0"), "dir")
	i.worker("", "differences", dir).run(time.Minute)
}
