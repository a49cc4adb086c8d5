package fsx

import (
	"fmt"
	"path/filepath"
	"regexp"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/remora-storage/remora/e2e/supervisor"
)

const startLimit = supervisor.StartLimit

const manifest = `
apiVersion: remora.dev/v1alpha1
kind: VolumeClass
metadata: {name: unsealed}
spec: {sealing: "off"}
---
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: db}
spec:
  replicas: 1
  template:
    metadata:
      annotations: {remora.dev/volumes: data, data.remora.dev/size: 8Gi%s}
    spec:
      containers:
      - {name: app, image: app, volumeMounts: [{name: data, mountPath: /data}]}
`

// More annotations of the volume.
const (
	sealed   = ", data.remora.dev/class: default"
	unsealed = ", data.remora.dev/class: unsealed"
)

// instance is a `remora dev` of its own, with one volume.
type instance struct {
	t          *testing.T
	dir        string
	mount      string // of its volume
	out        *supervisor.Output
	supervised *supervisor.Supervisor
}

// startDev starts `remora dev` and waits until its volume is mounted. It ends with the test.
func startDev(t *testing.T, annotations string) *instance {
	t.Helper()
	supervisor.Need(t)
	dev := programs.Start(t, filepath.Join(tempDir(t), "dev"), fmt.Sprintf(manifest, annotations))
	return &instance{t: t, dir: dev.Dir, mount: dev.Mount("db-0"), out: dev.Out, supervised: dev}
}

// tempDir is like t.TempDir, but it stays when the test fails.
func tempDir(t *testing.T) string {
	t.Helper()
	return programs.TempDir(t)
}

// start starts the supervisor after it has ended, and waits for the mount.
func (i *instance) start() {
	i.t.Helper()
	i.supervised.Again(i.t)
}

// stop is Ctrl-C: it must end cleanly.
func (i *instance) stop() {
	i.t.Helper()
	i.supervised.Stop(i.t)
}

// command runs remora and returns what it wrote.
func (i *instance) command(limit time.Duration, args ...string) ([]byte, error) {
	return i.supervised.Command(limit, args...)
}

// check stops the volume and has every byte of it verified.
func (i *instance) check() {
	i.t.Helper()
	i.stop()
	out, err := i.command(10*time.Minute, "check", i.dir)
	require.NoError(i.t, err, "remora check: %s", out)
	require.Contains(i.t, string(out), "checked 1 replica: 0 findings")
}

// status is what `remora status` says of the volume, in part.
type status struct {
	PID  *int
	Used uint64
}

func (i *instance) status() status {
	i.t.Helper()
	all := i.supervised.Status(i.t)
	require.Len(i.t, all.Pods, 1)
	require.Len(i.t, all.Pods[0].Volumes, 1)
	return status{all.Pods[0].PID, all.Pods[0].Volumes[0].Used}
}

var servedAgain = regexp.MustCompile(`msg="served again" .*pid=(\d+) `)

// kill kills the sidecar with SIGKILL, once or before the next one serves once more, and returns the process that serves then.
func (i *instance) kill(pid int, again bool) int {
	i.t.Helper()
	said := len(servedAgain.FindAllString(i.out.String(), -1))
	require.NoError(i.t, syscall.Kill(pid, syscall.SIGKILL))
	if again {
		if next := i.status().PID; next != nil && *next != pid {
			_ = syscall.Kill(*next, syscall.SIGKILL) // it may have ended
		}
	}
	for deadline := time.Now().Add(startLimit); time.Now().Before(deadline); time.Sleep(2 * time.Millisecond) {
		all := servedAgain.FindAllStringSubmatch(i.out.String(), -1)
		if len(all) <= said {
			continue
		}
		if next, err := strconv.Atoi(all[len(all)-1][1]); err == nil && syscall.Kill(next, 0) == nil {
			return next
		}
	}
	require.FailNow(i.t, "the volume is not served again", i.out.String())
	return 0
}
