package e2e

import (
	"fmt"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/remora-storage/remora/e2e/supervisor"
)

const startLimit = supervisor.StartLimit

// instance is a `remora dev` of its own.
type instance struct {
	t          *testing.T
	dir        string // its --dir
	args       []string
	out        *supervisor.Output
	supervised *supervisor.Supervisor
}

// What it says of itself.
type (
	status    = supervisor.Status
	podStatus = supervisor.Pod
)

// needRoot skips a test where nothing can be mounted.
func needRoot(t *testing.T) {
	t.Helper()
	supervisor.Need(t)
}

// tempDir is like t.TempDir, but every user may enter it, and it stays when the test fails.
func tempDir(t *testing.T) string {
	t.Helper()
	return programs.TempDir(t)
}

// statefulSet is a manifest of a StatefulSet "db" with a volume "data".
func statefulSet(replicas int, size string) string {
	return fmt.Sprintf(`
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: db}
spec:
  replicas: %d
  template:
    metadata:
      annotations:
        remora.dev/volumes: data
        data.remora.dev/size: %s
        data.remora.dev/class: default
    spec:
      containers:
      - {name: app, image: app, volumeMounts: [{name: data, mountPath: /data}]}
`, replicas, size)
}

// startOne starts a StatefulSet of one pod in a directory of its own.
func startOne(t *testing.T) *instance {
	t.Helper()
	needRoot(t)
	return start(t, filepath.Join(tempDir(t), "dev"), statefulSet(1, "4Gi"))
}

// start runs `remora dev` on dir and waits until its volumes are mounted. It ends with the test.
func start(t *testing.T, dir, manifest string, args ...string) *instance {
	t.Helper()
	dev := programs.Start(t, dir, manifest, args...)
	return &instance{t: t, dir: dir, args: dev.Args, out: dev.Out, supervised: dev}
}

// again starts the supervisor after it has ended, and waits for the mounts.
func (i *instance) again() {
	i.t.Helper()
	i.supervised.Again(i.t)
}

// stop is Ctrl-C: it must end cleanly.
func (i *instance) stop() {
	i.t.Helper()
	i.supervised.Stop(i.t)
}

// end sends the signal and waits; false if the supervisor is still there.
func (i *instance) end(signal syscall.Signal) bool { return i.supervised.End(signal) }

// mount is where the volume "data" of a pod is.
func (i *instance) mount(pod string) string { return i.supervised.Mount(pod) }

func (i *instance) status() status {
	i.t.Helper()
	return i.supervised.Status(i.t)
}

func (i *instance) statusJSON() []byte {
	i.t.Helper()
	return i.supervised.StatusJSON(i.t)
}

func (i *instance) pod(name string) podStatus {
	i.t.Helper()
	for _, p := range i.status().Pods {
		if p.Name == name {
			return p
		}
	}
	require.FailNow(i.t, "no such pod", name)
	return podStatus{}
}

// served waits until a sidecar other than not serves the pod, and returns its process.
func (i *instance) served(pod string, not int) int {
	i.t.Helper()
	for deadline := time.Now().Add(startLimit); time.Now().Before(deadline); {
		p := i.pod(pod)
		if p.PID != nil && *p.PID != not && p.Volumes[0].State == "Mounted" {
			return *p.PID
		}
		time.Sleep(5 * time.Millisecond)
	}
	require.FailNow(i.t, "no sidecar serves", "%s\n%s", pod, i.out)
	return 0
}

// killSidecar kills the pod's sidecar with SIGKILL, and returns when the next one serves.
func (i *instance) killSidecar(pod string) {
	i.t.Helper()
	pid := i.served(pod, 0)
	require.NoError(i.t, syscall.Kill(pid, syscall.SIGKILL))
	i.served(pod, pid)
}
