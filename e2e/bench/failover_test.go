package main

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestFailoverFlags(t *testing.T) {
	cfg, err := parseFailover([]string{"-rounds", "3", "-size", "2048", "-files", "5000"})
	require.NoError(t, err)
	require.Equal(t, failoverConfig{remora: "bin/remora", rounds: 3, sizeMiB: 2048, files: 5000, timeout: 10 * time.Minute}, cfg)
	for _, bad := range [][]string{{"-rounds", "0"}, {"-size", "0"}, {"-files", "-1"}, {"-files", "1"}, {"-changed", "11"}, {"-changed", "-1"}, {"more"}} {
		_, err := parseFailover(bad)
		require.Error(t, err, "%v", bad)
	}
}

// TestWhatProductsSay: the figures come out of lines of the product, which must not be changed without the command.
func TestWhatProductsSay(t *testing.T) {
	require.Equal(t, "747ms", string(afterStart.FindSubmatch([]byte("node node-0 failed, node node-3 takes its place\npod db-0 is mounted again, 747ms after its start there\n"))[1]))
	line := func(bytes, took string) string {
		return "db-0 | 2026-11-22T07:00:24Z INFO  caught up with the group by a copy of its state from=001eb6b957a09224 index=6 bytes=" + bytes + " took=" + took + "\n"
	}
	log := filepath.Join(t.TempDir(), "log")
	old := line("999999", "9s")
	require.NoError(t, os.WriteFile(log, []byte(old+line("10", "1ms")+line("1048576", "1.5s")+"something else\n"), 0o600))
	b := &bench{rig: &rig{log: log}}
	bytes, took, err := b.metadata(len(old))
	require.NoError(t, err)
	require.Equal(t, int64(1048576), bytes)
	require.Equal(t, 1500*time.Millisecond, took)
}

func TestTouch(t *testing.T) {
	dir := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(dir, "content"), make([]byte, 16384), 0o600))
	_, err := touch(touchArgs{dir, 16384})
	require.NoError(t, err)
	_, err = touch(touchArgs{dir, 1 << 20})
	require.Error(t, err, "the content is shorter than it should be")
}

func TestCompleteEnds(t *testing.T) {
	b := &bench{rig: &rig{binary: "/bin/true", dir: t.TempDir()}}
	_, _, err := b.complete(context.Background(), time.Second)
	require.Error(t, err)
}
