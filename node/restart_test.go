package node_test

import (
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/remora-storage/remora/node"
)

// TestPluginRestarts kills and stops the plugin under a program that writes: nobody notices. The descriptor comes back from the sidecar, so
// that the sidecar can die afterwards.
func TestPluginRestarts(t *testing.T) {
	r := newRig(t, nil)
	p := r.api.pod("default", "db-0", "n1", []string{"data"}, nil)
	r.publishAll(p)
	s := r.sidecar(p)
	writer := r.program(filepath.Join(r.target(p, "data"), "file"))
	epoch := 1
	for _, sig := range []syscall.Signal{syscall.SIGKILL, syscall.SIGTERM, syscall.SIGKILL} {
		r.plugin.end(sig)
		writer.progress()
		r.start()
		r.serves(p, epoch)
		r.publishAll(p) // as a kubelet that was restarted, too, does
		s.kill()
		s = r.sidecar(p)
		epoch++
		r.serves(p, epoch)
		writer.progress()
	}
	writer.finish()
	r.plugin.kill()
	r.start()
	r.serves(p, epoch)
	r.unpublish(p, "data", "remora-disks")
	require.Empty(t, r.mounts())
	_ = s.wait() // a sidecar whose mount is gone ends
	require.Zero(t, r.metric("remora_node_mounts"))
}

// TestUnpublishedAfterBothDied: the kubelet calls a plugin that has only its state file, and no sidecar.
func TestUnpublishedAfterBothDied(t *testing.T) {
	r := newRig(t, nil)
	p := r.api.pod("default", "db-0", "n1", []string{"data"}, nil)
	r.publishAll(p)
	s := r.sidecar(p)
	r.program(filepath.Join(r.target(p, "data"), "file")).finish()
	r.plugin.kill()
	s.kill()
	r.start()
	r.unpublish(p, "data", "remora-disks")
	require.Empty(t, r.mounts())
	require.Empty(t, names(t, filepath.Join(r.cfg.KubeletDir, "plugins/remora.dev/state")))
}

// TestUnpublishedUnserved: mounts that nobody serves, where the least look at one would wait for ever, go at once: of a pod that never had a sidecar,
// and of one whose sidecar was killed and does not come back while a program waits. The budgets are hours here.
func TestUnpublishedUnserved(t *testing.T) {
	r := newRig(t, func(c *node.Config) { c.HangBudget, c.EndBudget = time.Hour, time.Hour })
	never := r.api.pod("default", "never-0", "n1", []string{"data"}, nil)
	r.publishAll(never)
	r.unpublish(never, "data", "remora-disks")
	require.Empty(t, r.mounts())

	p := r.api.pod("default", "db-0", "n1", []string{"data"}, nil)
	r.publishAll(p)
	s := r.sidecar(p)
	writer := r.program(filepath.Join(r.target(p, "data"), "file"))
	s.kill()
	r.unpublish(p, "data", "remora-disks")
	require.Error(t, writer.wait())
	require.Empty(t, r.mounts())
}

// TestLostConnection: plugin and sidecar die together, and with them the last descriptor. Programs get errors, and the pod an event; the
// next sidecar gets a new mount with everything that was written.
func TestLostConnection(t *testing.T) {
	r := newRig(t, nil)
	p := r.api.pod("default", "db-0", "n1", []string{"data"}, nil)
	r.publishAll(p)
	s := r.sidecar(p)
	file := filepath.Join(r.target(p, "data"), "file")
	writer := r.program(file)
	r.eventually("the state says that it was served", func() bool { return r.stateSays(p, `"served": true`) })
	r.plugin.kill()
	s.kill()
	require.Error(t, writer.wait())
	r.start()
	r.sidecar(p)
	r.serves(p, 2)
	b, err := r.read(file)
	require.NoError(t, err)
	require.Contains(t, string(b), "line 0\n")
	r.eventually("an event says so", func() bool { return contains(r.api.reasons("db-0"), "VolumeMountedAnew") })
	r.program(file + "2").finish()
}

// TestHangBudget: a mount that nobody serves any more is aborted, and the next sidecar gets a new one.
func TestHangBudget(t *testing.T) {
	r := newRig(t, func(c *node.Config) { c.HangBudget = 300 * time.Millisecond })
	p := r.api.pod("default", "db-0", "n1", []string{"data"}, nil)
	r.publishAll(p)
	s := r.sidecar(p)
	file := filepath.Join(r.target(p, "data"), "file")
	writer := r.program(file)
	s.kill()
	require.Error(t, writer.wait())
	r.eventually("an event says so", func() bool { return contains(r.api.reasons("db-0"), "VolumeAborted") })
	require.EqualValues(t, 1, r.metric("remora_node_aborted_mounts_total"))
	r.sidecar(p)
	r.serves(p, 2)
	_, err := r.read(file)
	require.NoError(t, err)
	r.program(file + "2").finish()
}

// TestHangBudgetOutlivesThePlugin: a plugin that was started anew and gets no descriptor aborts, too.
func TestHangBudgetOutlivesThePlugin(t *testing.T) {
	r := newRig(t, func(c *node.Config) { c.HangBudget = 300 * time.Millisecond })
	p := r.api.pod("default", "db-0", "n1", []string{"data"}, nil)
	r.publishAll(p)
	s := r.sidecar(p)
	writer := r.program(filepath.Join(r.target(p, "data"), "file"))
	r.eventually("the state says that it was served", func() bool { return r.stateSays(p, `"served": true`) })
	require.NoError(t, s.Process.Signal(syscall.SIGSTOP)) // it has the descriptor, and never brings it
	r.plugin.kill()
	r.start()
	require.Error(t, writer.wait())
	r.eventually("an event says so", func() bool { return contains(r.api.reasons("db-0"), "VolumeAborted") })
}

// TestEndingPod: the sidecar of a pod that is being deleted does not come back; what waits on the mount could not even be killed.
func TestEndingPod(t *testing.T) {
	r := newRig(t, func(c *node.Config) { c.EndBudget = 300 * time.Millisecond })
	p := r.api.pod("default", "db-0", "n1", []string{"data"}, nil)
	r.publishAll(p)
	s := r.sidecar(p)
	writer := r.program(filepath.Join(r.target(p, "data"), "file"))
	r.api.remove(podPath("default", "db-0"))
	writer.progress()
	s.kill()
	require.Error(t, writer.wait())
	r.unpublish(p, "data", "remora-disks")
	require.Empty(t, r.mounts())
}

// TestEndedPod: where nothing of a pod runs any more, its mount is closed at once, for kubelet looks at it; as long as something runs, a pod
// that ends still gets its next sidecar.
func TestEndedPod(t *testing.T) {
	r := newRig(t, func(c *node.Config) { c.HangBudget, c.EndBudget = time.Hour, time.Hour })
	running := corev1.ContainerState{Running: &corev1.ContainerStateRunning{}}
	terminated := corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{}}
	for name, end := range map[string]func(*corev1.Pod){
		"deleted-0":   func(p *corev1.Pod) { p.DeletionTimestamp = &metav1.Time{Time: time.Now()} },
		"completed-0": func(p *corev1.Pod) { p.Status.Phase = corev1.PodSucceeded },
	} {
		p := r.api.pod("default", name, "n1", []string{"data"}, nil)
		r.publishAll(p)
		s := r.sidecar(p)
		writer := r.program(filepath.Join(r.target(p, "data"), "file"))
		says := func(sidecar, app corev1.ContainerState) {
			now := p.DeepCopy()
			end(now)
			now.Status.InitContainerStatuses = []corev1.ContainerStatus{{Name: "remora", State: sidecar}}
			now.Status.ContainerStatuses = []corev1.ContainerStatus{{Name: "app", State: app}}
			r.api.put(podPath("default", name), now)
		}
		says(terminated, running)
		s.kill()
		asked := r.api.gets(podPath("default", name))
		r.eventually("the plugin has asked, twice", func() bool { return r.api.gets(podPath("default", name)) > asked+1 })
		s = r.sidecar(p)
		r.serves(p, 2)
		writer.progress()
		s.kill()
		says(terminated, terminated)
		require.Error(t, writer.wait(), "otherwise it would wait for an hour")
		r.unpublish(p, "data", "remora-disks")
		require.Empty(t, r.mounts())
		require.NotContains(t, r.api.reasons(name), "VolumeAborted", "nobody was disturbed")
	}
}

// TestAPIServerAway: the plugin and what runs need it for nothing; a sidecar that starts waits for it.
func TestAPIServerAway(t *testing.T) {
	r := newRig(t, nil)
	p := r.api.pod("default", "db-0", "n1", []string{"data"}, nil)
	r.publishAll(p)
	s := r.sidecar(p)
	writer := r.program(filepath.Join(r.target(p, "data"), "file"))
	r.api.setAway(true)
	r.plugin.kill()
	r.start()
	r.serves(p, 1)
	writer.progress()
	s.kill()
	r.sidecar(p)
	r.eventually("the sidecar has asked", func() bool { return r.metric(`remora_node_sidecar_requests_total{op="get"}`) > 1 })
	r.api.setAway(false)
	r.serves(p, 2)
	writer.progress()
	writer.finish()
}
