package quorum

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

const logBytes = 1 << 20

// TestMain is also the replica, when it is started as one.
func TestMain(m *testing.M) {
	if text := os.Getenv("QUORUM_REPLICA"); text != "" {
		var args ReplicaArgs
		err := json.Unmarshal([]byte(text), &args)
		if err == nil {
			err = Replica(context.Background(), args, os.Stdin, os.Stdout)
		}
		if err != nil {
			_, _ = os.Stderr.WriteString(err.Error() + "\n")
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func self(t *testing.T) func(ReplicaArgs) *exec.Cmd {
	exe, err := os.Executable()
	require.NoError(t, err)
	return func(args ReplicaArgs) *exec.Cmd {
		text, err := json.Marshal(args)
		require.NoError(t, err)
		cmd := exec.Command(exe)
		cmd.Env = append(os.Environ(), "QUORUM_REPLICA="+string(text))
		return cmd
	}
}

func TestThreeProcesses(t *testing.T) {
	args := Args{Dir: t.TempDir(), Peers: [2]string{t.TempDir(), t.TempDir()}, LogBytes: logBytes, Size: 4096, For: 200 * time.Millisecond}
	for _, args.Depth = range []int{1, 16} {
		got, err := Run(t.Context(), args, self(t))
		require.NoError(t, err)
		require.Positive(t, got.Records)
		require.Positive(t, got.PerSecond)
		require.Positive(t, got.P50)
		require.GreaterOrEqual(t, got.P99, got.P50)
		require.Positive(t, got.OwnerCPU)
		require.Positive(t, got.ReplicaCPU)
		written := 0
		for _, dir := range []string{args.Dir, args.Peers[0], args.Peers[1]} {
			b, err := os.ReadFile(filepath.Join(dir, "quorum.log"))
			require.NoError(t, err)
			require.Equal(t, logBytes, len(b))
			if !bytes.Equal(b, make([]byte, logBytes)) { // the number of a record
				written++
			}
		}
		require.GreaterOrEqual(t, written, 2, "two logs have what was acknowledged")
	}
}

// TestSecond: a record counts when the own log and another have it.
func TestSecond(t *testing.T) {
	for _, has := range [][3]uint64{{5, 5, 0}, {5, 0, 5}, {5, 9, 9}, {9, 5, 1}, {9, 1, 5}} {
		require.Equal(t, uint64(5), (&owner{has: has}).second(), "%v", has)
	}
}

func TestAReplicaThatDoesNotStart(t *testing.T) {
	none := filepath.Join(t.TempDir(), "none")
	args := Args{Dir: t.TempDir(), Peers: [2]string{t.TempDir(), none}, LogBytes: logBytes, Depth: 1, Size: 1, For: time.Second}
	_, err := Run(t.Context(), args, self(t))
	require.ErrorContains(t, err, "replica")
}

// TestALogIsWrittenRoundAndRound: whatever comes at once, it does not become longer.
func TestALogIsWrittenRoundAndRound(t *testing.T) {
	dir := t.TempDir()
	l, err := openLog(dir, logBytes)
	require.NoError(t, err)
	defer l.close()
	for _, n := range []int{1, 4096, logBytes - 1, logBytes, 3*logBytes + 5, 7} {
		require.NoError(t, l.append(bytes.Repeat([]byte{1}, n)))
		info, err := os.Stat(filepath.Join(dir, "quorum.log"))
		require.NoError(t, err)
		require.Equal(t, int64(logBytes), info.Size(), "after %d bytes", n)
	}
}
