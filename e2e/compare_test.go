package e2e

import (
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// TestLikeExt4: some hundred calls have the same results on a volume as on ext4: errors, modes, times, content and holes. What is meant to
// differ is in docs/semantics.md, and not among them.
func TestLikeExt4(t *testing.T) {
	t.Parallel()
	i := startOne(t)
	plain := ext4(t)
	for _, part := range comparisons {
		t.Run(part.name, func(t *testing.T) {
			run := func(dir string) string {
				return i.worker("", "compare", part.name, filepath.Join(dir, part.name)).run(2 * time.Minute)
			}
			want := run(plain)
			require.Equal(t, want, run(i.mount("db-0")))
			t.Logf("%d lines", len(want))
		})
	}
}
