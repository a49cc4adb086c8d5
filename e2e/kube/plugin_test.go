//go:build kube

package kube

import (
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestPlugin: the node plugin is killed, restarted and upgraded (image and back) while a pod writes; then the sidecar is killed too, and finds the
// descriptors at a plugin that did not make them.
func TestPlugin(t *testing.T) {
	s := newSpace(t)
	s.apply(statefulSet("db", 1, writerContainer("data")))
	p := s.ready("db-0")
	s.resumes("db-0")
	for range 3 {
		system := &space{t: t, k: s.k, name: "remora-system"}
		plugin := system.pluginOn(p.Spec.NodeName)
		node := system.ready(plugin)
		before := restarts(node, "node")
		system.kill(node, "node")
		s.until("the plugin's restart", func() bool { return restarts(system.pod(plugin), "node") > before })
		system.ready(plugin)
		s.killAndReturn("db-0")
	}
	for _, image := range []string{*remoraName + "-next", *remoraName} { // upgraded, and back
		_, err := s.k.run(t.Context(), "", "-n", "remora-system", "set", "image", "daemonset/remora-node", "node="+image)
		require.NoError(t, err)
		_, err = s.k.run(t.Context(), "", "-n", "remora-system", "rollout", "status", "daemonset/remora-node", "--timeout=180s")
		require.NoError(t, err)
		s.killAndReturn("db-0")
	}
	require.Zero(t, restarts(s.ready("db-0"), "writer"))
	t.Log(tail(s.logs("db-0", "writer"), 1))
}

func (s *space) pluginOn(node string) (name string) {
	s.t.Helper()
	s.until("the plugin on "+node, func() bool {
		out, err := s.try("get", "pods", "-l", "app.kubernetes.io/name=remora-node", "--field-selector=spec.nodeName="+node, "-o", "jsonpath={.items[0].metadata.name}")
		name = out
		return err == nil && name != ""
	})
	return name
}

// TestImage: a sidecar's image is changed in a running pod; the process is another, and the application does not notice.
func TestImage(t *testing.T) {
	s := newSpace(t)
	s.apply(statefulSet("db", 1, writerContainer("data")))
	p := s.ready("db-0")
	require.Equal(t, "remora", p.Spec.InitContainers[0].Name)
	s.resumes("db-0")
	for _, image := range []string{*remoraName + "-next", *remoraName} {
		before := restarts(s.pod("db-0"), "remora")
		s.kubectl("patch", "pod", "db-0", "--type=json", "-p", fmt.Sprintf(`[{"op":"replace","path":"/spec/initContainers/0/image","value":%q}]`, image))
		s.until("the new sidecar", func() bool {
			p := s.pod("db-0")
			return p.Spec.InitContainers[0].Image == image && restarts(p, "remora") > before
		})
		s.ready("db-0")
	}
	require.Zero(t, restarts(s.pod("db-0"), "writer"))
	t.Log(tail(s.logs("db-0", "writer"), 1))
}

// TestOOM: the kernel's OOM killer takes the sidecar, because something else in its cgroup eats all of its
// memory; that goes next.
func TestOOM(t *testing.T) {
	s := newSpace(t)
	s.class("e2e-limited", "{sidecar: {resources: {requests: {cpu: 50m, memory: 256Mi}, limits: {memory: 256Mi}}}}")
	s.apply(strings.Replace(statefulSet("db", 1, writerContainer("data")), "data.remora.dev/size: 8Gi", "data.remora.dev/size: 8Gi, data.remora.dev/class: e2e-limited", 1))
	s.ready("db-0")
	for range 3 {
		p := s.ready("db-0")
		before := s.processes(p, "remora")
		pid, _, _ := strings.Cut(before[len(before)-1], " ")
		_, err := s.k.on(t.Context(), p.Spec.NodeName, fmt.Sprintf(`
			path=$(sed -n 's/^[0-9]*:memory://p; s/^0:://p' /proc/%[1]s/cgroup | head -n 1)
			for top in /proc/1/root/sys/fs/cgroup/memory /proc/1/root/sys/fs/cgroup; do [ -e $top$path/cgroup.procs ] && break; done
			echo 1000 >/proc/%[1]s/oom_score_adj
			sh -c "echo 0 >/proc/self/oom_score_adj; echo \$\$ >$top$path/cgroup.procs; exec tail /dev/zero" >/dev/null 2>&1 </dev/null`, pid))
		require.NoError(t, err)
		s.until("another sidecar", func() bool {
			now := s.processes(s.ready("db-0"), "remora")
			return len(now) > 0 && now[len(now)-1] != before[len(before)-1]
		})
		s.served("db-0")
		previous, _ := s.try("logs", "db-0", "-c", "remora", "--previous") // if the container went as well
		require.Contains(t, previous+s.logs("db-0", "remora"), "died: killed")
	}
	require.Zero(t, restarts(s.pod("db-0"), "writer"))
	t.Log(tail(s.logs("db-0", "writer"), 1))
}
