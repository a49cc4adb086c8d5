package floor_test

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/remora-storage/remora/e2e/bench/floor"
)

// TestMain serves when it is told to. A process that uses the mount that it serves itself can hang: Go adds files to its poller while
// it holds a processor, and the kernel asks the daemon about that.
func TestMain(m *testing.M) {
	if len(os.Args) != 4 || os.Args[1] != "serve" {
		os.Exit(m.Run())
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	err := floor.Serve(ctx, os.Args[2], os.Args[3], 16<<20, func() { fmt.Println("ready") })
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// What is measured must be a file system: content, names and attributes come back as they were written.
func TestFloor(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("mounting needs root")
	}
	base := t.TempDir()
	dir := filepath.Join(base, "mount")
	require.NoError(t, os.Mkdir(dir, 0o755))
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "/proc/self/exe", "serve", dir, filepath.Join(base, "journal")) // killed at the end: the kernel aborts the connection
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	defer func() {
		require.NoError(t, cmd.Process.Signal(syscall.SIGTERM))
		require.NoError(t, cmd.Wait())
	}()
	require.True(t, bufio.NewScanner(out).Scan(), "it ended before it served")

	t.Run("content", func(t *testing.T) { content(t, filepath.Join(dir, "file")) })
	t.Run("names", func(t *testing.T) { names(t, filepath.Join(dir, "dir")) })
}

// content compares random writes and cuts with a model, across the chunks of a file.
func content(t *testing.T, path string) {
	f, err := os.Create(path)
	require.NoError(t, err)
	defer func() { require.NoError(t, f.Close()) }()
	var model []byte
	random := rand.New(rand.NewPCG(1, 2))
	for range 200 {
		if random.IntN(5) == 0 {
			size := random.IntN(5 << 20)
			require.NoError(t, f.Truncate(int64(size)))
			model = append(model, make([]byte, max(0, size-len(model)))...)[:size]
			continue
		}
		data := bytes.Repeat([]byte{byte(random.IntN(255) + 1)}, 1+random.IntN(1<<20))
		offset := random.IntN(4 << 20)
		_, err := f.WriteAt(data, int64(offset))
		require.NoError(t, err)
		model = append(model, make([]byte, max(0, offset+len(data)-len(model)))...)
		copy(model[offset:], data)
	}
	require.NoError(t, f.Sync())
	require.NoError(t, os.WriteFile("/proc/sys/vm/drop_caches", []byte("1"), 0)) // ask the daemon, not the kernel
	got, err := os.ReadFile(path)
	require.NoError(t, err)
	require.True(t, bytes.Equal(model, got), "%d bytes, want %d", len(got), len(model))
}

func names(t *testing.T, dir string) {
	require.NoError(t, os.Mkdir(dir, 0o755))
	want := map[string]bool{}
	for _, name := range []string{"a", "b", "c", "d"} {
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), []byte(name), 0o600))
		want[name] = true
	}
	require.NoError(t, os.Rename(filepath.Join(dir, "a"), filepath.Join(dir, "b")))
	require.NoError(t, os.Remove(filepath.Join(dir, "c")))
	require.NoError(t, os.Symlink("d", filepath.Join(dir, "link")))
	delete(want, "a")
	delete(want, "c")
	want["link"] = true
	entries, err := os.ReadDir(dir)
	require.NoError(t, err)
	for _, e := range entries {
		require.True(t, want[e.Name()], e.Name())
	}
	require.Len(t, entries, len(want))
	got, err := os.ReadFile(filepath.Join(dir, "b"))
	require.NoError(t, err)
	require.Equal(t, "a", string(got))
	require.Error(t, os.Remove(dir))
	_, err = os.Stat(filepath.Join(dir, "none"))
	require.ErrorIs(t, err, os.ErrNotExist)
}
