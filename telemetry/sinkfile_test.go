package telemetry

import (
	"context"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestRotateMovesOnlyFiles: a path that names a device is written to, and never renamed.
func TestRotateMovesOnlyFiles(t *testing.T) {
	path := filepath.Join(t.TempDir(), "spans")
	require.NoError(t, os.Symlink("/dev/null", path))
	s, err := openFileSink(path, 10)
	require.NoError(t, err)
	for range 3 {
		_, err := s.send(context.Background(), []byte("longer than ten bytes\n"))
		require.NoError(t, err)
	}
	require.NoError(t, s.close())
	_, err = os.Lstat(path)
	require.NoError(t, err)
	require.NoFileExists(t, path+".1")
}
