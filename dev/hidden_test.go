package dev

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestWhatIsBelowAMount: a program that goes on while nothing is mounted writes to the bare directory. Who starts the volume again is told:
// those files are not in the volume, and nobody sees them while it is mounted.
func TestWhatIsBelowAMount(t *testing.T) {
	const told = "files were written to the directory while no volume was mounted on it"
	dir := t.TempDir()
	r := start(t, dir, set("db", "default", 1))
	r.waitReady()
	require.NotContains(t, r.out.String(), told)
	r.stop()
	require.NoError(t, os.WriteFile(filepath.Join(dir, "pods", "db-0", "data", "lost"), nil, 0o600))

	r = start(t, dir, set("db", "default", 1))
	r.waitReady()
	require.Equal(t, 1, strings.Count(r.out.String(), told), "%s", r.out)
	require.Contains(t, r.out.String(), "entries=1")
	r.stop()
	require.FileExists(t, filepath.Join(dir, "pods", "db-0", "data", "lost"))
}
