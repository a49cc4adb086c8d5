//go:build kube

package kube

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
)

// TestPrivileged: a second injector gives privileged sidecars, to the namespaces that an administrator allows it. A writer and SQLite see no
// error while either process of the sidecar is killed; the pod's end leaves no mount, and its successor finds its data. What is refused
// says why.
func TestPrivileged(t *testing.T) {
	if *installed || *offline {
		t.Skip("installs a second injector, which -installed and -offline do not")
	}
	stable := newSpace(t)
	stable.installPrivileged()
	pod := barePod("p", annotated("data"), "", writerContainer("data"))
	refused := stable.sibling("r", "pod-security.kubernetes.io/enforce: privileged")
	refused.until("a refusal that tells of the label", func() bool { // the API server hears of configurations a little later
		err := refused.tryApply(pod)
		return err != nil && strings.Contains(err.Error(), "kubectl label namespace "+refused.name+" remora.dev/privileged=allowed")
	})
	require.ErrorContains(t, refused.tryApply(statefulSet("db", 1, writerContainer("data"))), "remora.dev/privileged", "a workload is told when it is applied")
	strict := stable.sibling("s", "remora.dev/privileged: allowed, pod-security.kubernetes.io/enforce: restricted")
	require.ErrorContains(t, strict.tryApply(pod), "is a Pod Security level that refuses privileged containers")

	s := stable.sibling("p", "remora.dev/privileged: allowed, pod-security.kubernetes.io/enforce: privileged")
	s.kubectl("create", "rolebinding", "remora-pod", "--clusterrole=remora-pod", "--group=system:serviceaccounts:"+s.name)
	below := strings.Replace(shell("below", "data", "set -e; echo hello >/data/f; trap 'exit 0' TERM; while :; do sleep 1; done"), "mountPath: /data}", "mountPath: /data, subPath: a/b}", 1)
	s.apply(statefulSet("db", 1, writerContainer("data"), shell("sqlite", "data", sqliteScript), below))
	first := s.ready("db-0")
	require.Contains(t, first.Annotations["remora.dev/status"], `"mode":"privileged"`)
	require.Contains(t, s.kubectl("exec", "db-0", "-c", "writer", "--", "cat", "/data/a/b/f"), "hello", "a folder of the volume, which kubelet made")
	require.NotEmpty(t, s.k.mounts(t.Context(), []string{string(first.UID)}), "otherwise looking for what is left proves nothing")
	require.Equal(t, "65534", s.uidOf(first, "sidecar"), "what serves is not root")
	require.Equal(t, "0", s.uidOf(first, "hold"))
	out, err := s.try("set", "image", "pod/db-0", "remora="+*remoraName+"-next")
	require.ErrorContains(t, err, "would end the mounts of a running pod", out)
	for i := range *kills {
		s.killProgram(s.ready("db-0"), []string{"sidecar", "hold"}[i%2])
		p := s.ready("db-0")
		for _, c := range []string{"remora", "writer", "sqlite", "below"} {
			require.Zero(t, restarts(p, c), "kill %d: container %s was started again", i, c)
		}
	}
	t.Logf("%d kills; the writer: %s", *kills, tail(s.logs("db-0", "writer"), 1))
	s.killContainer(s.ready("db-0"), "below")
	s.until("a container of the application that is started again", func() bool { return restarts(s.ready("db-0"), "below") > 0 })
	for _, line := range s.memory(s.name, "db-0", "remora") {
		t.Log("FIGURE privileged sidecar:", line)
	}
	p := s.replaced("db-0", func() { s.kubectl("delete", "pod", "db-0") })
	require.Contains(t, s.logs("db-0", "sqlite"), "check: ok")
	require.Equal(t, first.Spec.NodeName, p.Spec.NodeName, "its Volume is there")
	s.noMounts(first, "after the pod's end")

	// The container as a whole: its connection ends, and with it the pod's life; the data stays.
	s.killContainer(p, "remora")
	s.until("the container's end is seen", func() bool { p := s.pod("db-0"); return p != nil && restarts(p, "remora") > 0 })
	next := s.replaced("db-0", func() { s.kubectl("delete", "pod", "db-0") })
	s.noMounts(p, "after the end of a pod whose sidecar's container had been killed")

	// Killed and deleted at once: what it leaves stays until another one looks, and nothing is stuck.
	s.replaced("db-0", func() {
		s.killContainer(next, "remora")
		s.kubectl("delete", "pod", "db-0", "--force", "--grace-period=0")
	})
	s.noMounts(next, "after a pod that was killed and deleted by force")
}

// replaced does something that ends a pod, and returns the next one when its writer has found what the first one's wrote.
func (s *space) replaced(name string, end func()) *corev1.Pod {
	s.t.Helper()
	uid := s.pod(name).UID
	end()
	s.until("the next pod", func() bool { p := s.pod(name); return p != nil && p.UID != uid })
	p := s.ready(name)
	s.until("the next writer", func() bool { return len(s.logs(name, "writer")) > 0 })
	require.NotContains(s.t, s.logs(name, "writer"), "resumed at 0,")
	return p
}

// noMounts waits until no node's mount table names the pod.
func (s *space) noMounts(p *corev1.Pod, when string) {
	s.t.Helper()
	start := time.Now()
	s.until("no mount of the pod "+when, func() bool { return len(s.k.mounts(s.t.Context(), []string{string(p.UID)})) == 0 })
	s.t.Logf("no mount is left %s, %s later", when, time.Since(start).Round(100*time.Millisecond))
}

// sibling is another namespace of the same test, of the second injector, with these labels.
func (s *space) sibling(suffix, labels string) *space {
	s.t.Helper()
	other := &space{t: s.t, k: s.k, name: s.name + "-" + suffix}
	other.apply(fmt.Sprintf(`{apiVersion: v1, kind: Namespace, metadata: {name: %s, labels: {remora.dev/injection: enabled, remora.dev/revision: canary, %s}}}`, other.name, labels))
	s.t.Cleanup(other.gone)
	other.until("service account", func() bool { _, err := other.try("get", "serviceaccount", "default"); return err == nil })
	return other
}

// killProgram kills one of the programs of a privileged sidecar from the node, and waits until another one is there and the volume answers.
func (s *space) killProgram(p *corev1.Pod, command string) {
	s.t.Helper()
	pid := func() string { return s.ofProgram(p, command, "echo ${d#/proc/}") }
	before := pid()
	_, err := strconv.Atoi(before)
	require.NoError(s.t, err, "one process of %s", command)
	s.signal(p, before)
	s.until("another "+command, func() bool {
		now := pid()
		_, err := strconv.Atoi(now)
		return err == nil && now != before
	})
	s.served(p.Name)
}

// ofProgram runs a script on the pod's node for the process that runs this command of remora in the pod's sidecar; $d is its folder in /proc.
func (s *space) ofProgram(p *corev1.Pod, command, script string) string {
	s.t.Helper()
	out, err := s.k.on(s.t.Context(), p.Spec.NodeName, fmt.Sprintf(
		`for d in /proc/[0-9]*; do if grep -q %s $d/cgroup 2>/dev/null && tr '\0' ' ' <$d/cmdline 2>/dev/null | grep -q '^[^ ]*remora %s '; then %s; fi; done`,
		containerID(p, "remora"), command, script))
	require.NoError(s.t, err)
	return strings.TrimSpace(out)
}

func (s *space) uidOf(p *corev1.Pod, command string) string {
	s.t.Helper()
	return s.ofProgram(p, command, "grep ^Uid: $d/status | cut -f3")
}

// installPrivileged installs the second injector of manifests/overlays/canary, in privileged mode, until the test is over.
func (s *space) installPrivileged() {
	s.t.Helper()
	dir := filepath.Join(s.k.root, "bin", "e2e-privileged")
	require.NoError(s.t, os.MkdirAll(dir, 0o755))
	rbac, err := os.ReadFile(filepath.Join(s.k.root, "manifests/components/privileged/rbac.yaml"))
	require.NoError(s.t, err)
	require.NoError(s.t, os.WriteFile(filepath.Join(dir, "rbac.yaml"), rbac, 0o644))
	name, tag, _ := strings.Cut(*remoraName, ":")
	require.NoError(s.t, os.WriteFile(filepath.Join(dir, "kustomization.yaml"), fmt.Appendf(nil, `apiVersion: kustomize.config.k8s.io/v1beta1
kind: Kustomization
resources: [../../manifests/overlays/canary, rbac.yaml]
images: [{name: remora-storage/remora, newName: %q, newTag: %q}]
patches:
- target: {kind: Deployment}
  patch: |
    - {op: replace, path: /spec/template/spec/containers/0/args/1, value: --mode=privileged}
    - {op: replace, path: /spec/template/spec/containers/0/args/2, value: %q}
    - {op: add, path: /spec/template/spec/containers/0/args/-, value: %q}
`, name, tag, "--image="+*remoraName, "--allow-image="+*remoraName+"-next"), 0o644))
	s.t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
		defer cancel()
		_, err := s.k.run(ctx, "", "delete", "-k", dir, "--ignore-not-found", "--timeout=100s")
		require.NoError(s.t, err)
		_, _ = s.k.run(ctx, "", "-n", "remora-system", "delete", "secret", "remora-webhook-canary-tls", "--ignore-not-found")
	})
	_, err = s.k.run(s.t.Context(), "", "apply", "--server-side", "--force-conflicts", "-k", dir)
	require.NoError(s.t, err)
	_, err = s.k.run(s.t.Context(), "", "-n", "remora-system", "rollout", "status", "deployment/remora-webhook-canary", "--timeout=120s")
	require.NoError(s.t, err)
}
