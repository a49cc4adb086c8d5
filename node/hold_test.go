package node_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"

	"github.com/remora-storage/remora/api/v1alpha1"
	"github.com/remora-storage/remora/node"
	"github.com/remora-storage/remora/node/host"
)

// container is the privileged sidecar's of one pod: its own folders, and two processes.
type container struct {
	r    *rig
	p    *corev1.Pod
	dir  string
	hold *process
	side *process
}

func newHoldRig(t *testing.T) *rig { return newRig(t, func(c *node.Config) { c.KubeletDir = "" }) }

func (r *rig) privileged(name string) *corev1.Pod {
	return r.api.pod("default", name, "n1", []string{"data"}, func(p *corev1.Pod) { p.Spec.InitContainers[0].Args[1] = "--mode=privileged" })
}

// container makes a new one: nothing of an earlier one's file system is in it.
func (r *rig) container(p *corev1.Pod) *container {
	r.t.Helper()
	dir, err := os.MkdirTemp(r.dir, "container")
	require.NoError(r.t, err)
	require.NoError(r.t, os.Chmod(dir, 0o755))
	c := &container{r: r, p: p, dir: dir}
	c.startHold()
	c.startSide()
	return c
}

func (c *container) startHold() {
	r := c.r
	cfg := r.cfg
	cfg.KubeletDir = filepath.Join(c.dir, "hold")
	b, err := json.Marshal(cfg)
	require.NoError(r.t, err)
	h, err := json.Marshal(node.Held{Namespace: c.p.Namespace, Pod: c.p.Name, UID: string(c.p.UID), Disks: filepath.Join(c.dir, "disks")})
	require.NoError(r.t, err)
	c.hold = r.run(roleHold, 0, string(b), r.api.kubeconfig(r.dir), string(h))
}

func (c *container) startSide() {
	c.side = c.r.sidecarAt(c.p, "privileged", filepath.Join(c.dir, "disks"))
}

// killed is what happens to a container that ran out of memory: both at once.
func (c *container) killed() {
	_ = c.hold.Process.Kill()
	c.side.kill()
	c.hold.kill()
	require.NoError(c.r.t, host.Detach(c.dir)) // of its own mount namespace
}

func (c *container) mount() string {
	return filepath.Join(c.r.cfg.Root, ".mounts/pods", string(c.p.UID), "data")
}

func (r *rig) mountsOfRoot() (all []string) {
	found, err := host.MountsBelow(r.cfg.Root)
	require.NoError(r.t, err)
	for _, m := range found {
		all = append(all, m.Type+" "+strings.TrimPrefix(m.Path, r.cfg.Root))
	}
	return all
}

// TestHold: one pod's life in privileged mode. Either process is killed under a program that writes, and is started again, as remora-init
// does; then both are told to end, and nothing is left but the data.
func TestHold(t *testing.T) {
	r := newHoldRig(t)
	p := r.privileged("db-0")
	c := r.container(p)
	r.serves(p, 1)
	require.ElementsMatch(t, []string{"run", "disk-0"}, names(t, filepath.Join(c.dir, "disks")))
	for folder, mode := range map[string]os.FileMode{".mounts": 0o700, ".mounts/pods": 0o777, ".keys": 0o700} {
		info, err := os.Stat(filepath.Join(r.cfg.Root, folder))
		require.NoError(t, err)
		require.Equal(t, mode, info.Mode().Perm(), folder)
	}
	writer := r.program(filepath.Join(c.mount(), "file"))
	for epoch := 2; epoch < 5; epoch++ {
		c.side.kill()
		c.startSide()
		r.serves(p, epoch)
		writer.progress()
		c.hold.kill()
		writer.progress() // goes on meanwhile
		c.startHold()
		r.serves(p, epoch)
		writer.progress()
	}
	writer.finish()
	o := r.api.volume("default", "data-db-0")
	require.Equal(t, v1alpha1.VolumeReady, o.Status.Phase)
	require.NotEmpty(t, o.Status.KeyID)
	require.FileExists(t, filepath.Join(r.cfg.Root, ".keys/default", string(o.UID)))
	require.Equal(t, "disk-0", o.Status.Members[0].Disk)

	c.side.end(syscall.SIGTERM)
	c.hold.end(syscall.SIGTERM)
	require.True(t, c.hold.ProcessState.Success())
	require.Empty(t, r.mountsOfRoot())
	require.Empty(t, names(t, filepath.Join(r.cfg.Root, ".mounts/pods")))

	r.api.remove(podPath("default", "db-0"))
	next := r.container(r.privileged("db-0"))
	r.serves(next.p, 5)
	b, err := r.read(filepath.Join(next.mount(), "file"))
	require.NoError(t, err)
	require.Contains(t, string(b), "line 0\n")
}

// TestHoldKilledContainer: what a container leaves that was killed as a whole. Nobody can write past the missing mount; the same pod's next
// container mounts anew and says so; and when the pod is gone for good, another pod's takes the rest away.
func TestHoldKilledContainer(t *testing.T) {
	r := newHoldRig(t)
	p := r.privileged("db-0")
	c := r.container(p)
	r.serves(p, 1)
	writer := r.program(filepath.Join(c.mount(), "file"))
	c.killed()
	require.Error(t, writer.wait(), "its connection ended")
	require.NoError(t, host.Detach(c.mount()))
	require.ErrorIs(t, os.WriteFile(filepath.Join(c.mount(), "lost"), nil, 0o600), unix.EROFS, "what kubelet would bind now takes no data")

	c = r.container(p)
	r.serves(p, 2)
	b, err := r.read(filepath.Join(c.mount(), "file"))
	require.NoError(t, err)
	require.Contains(t, string(b), "line 9\n", "every line was synced")
	c.killed()
	c = r.container(p) // this time the dead mount is still there
	r.serves(p, 3)
	_, err = r.read(filepath.Join(c.mount(), "file"))
	require.NoError(t, err)
	r.eventually("the event", func() bool { return contains(r.api.reasons("db-0"), "VolumeMountedAnew") })
	c.killed()
	require.NotEmpty(t, r.mountsOfRoot())

	r.api.remove(podPath("default", "db-0"))
	other := r.container(r.privileged("other"))
	r.serves(other.p, 1)
	r.eventually("the other pod's container takes away what is left", func() bool {
		return slices.Equal(r.mountsOfRoot(), []string{"tmpfs /.mounts/pods/" + string(other.p.UID), "fuse.remora /.mounts/pods/" + string(other.p.UID) + "/data"})
	})
	r.eventually("its folder and its lock", func() bool { return len(names(t, filepath.Join(r.cfg.Root, ".mounts/pods"))) == 2 })
}

// TestHoldRefuses: a pod that was not injected for this mode gets nothing, an event says why, and nothing is left of the try.
func TestHoldRefuses(t *testing.T) {
	r := newHoldRig(t)
	p := r.api.pod("default", "db-0", "n1", []string{"data"}, nil) // for the node plugin
	c := r.container(p)
	r.eventually("the event", func() bool { return contains(r.api.reasons("db-0"), "NotInjected") })
	c.side.end(syscall.SIGTERM)
	c.hold.end(syscall.SIGTERM)
	require.Empty(t, r.mountsOfRoot())
	require.Empty(t, names(t, filepath.Join(r.cfg.Root, ".mounts/pods")))
}
