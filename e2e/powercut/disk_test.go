package powercut

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// recorder is a disk that is served by a child process.
type recorder struct {
	dir    string
	cmd    *exec.Cmd
	orders io.WriteCloser
	lines  *json.Decoder
	ended  chan error
}

// startRecorder serves dir/disk.img.
func startRecorder(t testing.TB, dir string) *recorder {
	r := &recorder{dir: dir, ended: make(chan error, 1)}
	r.cmd = exec.Command("/proc/self/exe")
	r.cmd.Env = append(os.Environ(), roleEnv+"=disk", baseEnv+"="+dir)
	r.cmd.Stderr = os.Stderr
	var err error
	r.orders, err = r.cmd.StdinPipe()
	require.NoError(t, err)
	out, err := r.cmd.StdoutPipe()
	require.NoError(t, err)
	r.lines = json.NewDecoder(out)
	require.NoError(t, r.cmd.Start())
	t.Cleanup(func() { _ = r.stop() })
	_, err = r.report()
	require.NoError(t, err)
	return r
}

func (r *recorder) report() (diskReport, error) {
	var answer diskReport
	err := r.lines.Decode(&answer)
	return answer, err
}

func (r *recorder) tell(t testing.TB, o diskOrder) diskReport {
	require.NoError(t, json.NewEncoder(r.orders).Encode(o))
	answer, err := r.report()
	require.NoError(t, err)
	return answer
}

// file is the disk, for a loop device.
func (r *recorder) file() string { return filepath.Join(r.dir, "fuse", "disk.img") }

// logFile is what was asked of the disk; its length is a position.
func (r *recorder) logFile() string { return filepath.Join(r.dir, "log") }

// stop ends the disk. Whoever still uses it gets errors.
func (r *recorder) stop() error {
	if r.cmd == nil {
		return nil
	}
	cmd := r.cmd
	r.cmd = nil
	err := r.orders.Close()
	killer := time.AfterFunc(limit, func() { _ = cmd.Process.Kill() })
	defer killer.Stop()
	err = errors.Join(err, cmd.Wait())
	// Its mount goes with it, or is dead now.
	if uerr := unix.Unmount(filepath.Join(r.dir, "fuse"), unix.MNT_DETACH); uerr != nil && !errors.Is(uerr, unix.EINVAL) {
		err = errors.Join(err, fmt.Errorf("unmount the disk: %w", uerr))
	}
	return err
}
