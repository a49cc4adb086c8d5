//go:build kube

package kube

import (
	"context"
	"fmt"
	"strings"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
)

const handsNamespace = "remora-e2e"

// startHands puts a privileged pod on every node, in which tests see the node's processes and mounts.
func (k *kube) startHands(ctx context.Context) error {
	_, err := k.run(ctx, fmt.Sprintf(`
apiVersion: v1
kind: Namespace
metadata: {name: %[1]s, labels: {pod-security.kubernetes.io/enforce: privileged}}
---
apiVersion: apps/v1
kind: DaemonSet
metadata: {name: hands, namespace: %[1]s}
spec:
  selector: {matchLabels: {app: hands}}
  template:
    metadata: {labels: {app: hands}}
    spec:
      hostPID: true
      terminationGracePeriodSeconds: 1
      tolerations: [{operator: Exists}]
      containers:
      - {name: hands, image: %[2]s, args: [wait], imagePullPolicy: IfNotPresent, securityContext: {privileged: true}}
`, handsNamespace, toolsImage), "apply", "-f", "-")
	if err != nil {
		return err
	}
	_, err = k.run(ctx, "", "-n", handsNamespace, "rollout", "status", "daemonset/hands", "--timeout=120s")
	return err
}

// hands are the names of the pods by node.
func (k *kube) hands(ctx context.Context) (map[string]string, error) {
	out, err := k.run(ctx, "", "-n", handsNamespace, "get", "pods", "--field-selector=status.phase=Running",
		"-o", `jsonpath={range .items[*]}{.spec.nodeName} {.metadata.name}{"\n"}{end}`)
	pods := map[string]string{}
	for _, line := range strings.Split(strings.TrimSpace(out), "\n") {
		if node, pod, ok := strings.Cut(line, " "); ok {
			pods[node] = pod
		}
	}
	return pods, err
}

// on runs a shell script with busybox on a node, among its processes. An exec that ends at once can lose what it printed (containerd
// 1.6), so the last line says that nothing is missing; a script must bear to run again.
func (k *kube) on(ctx context.Context, node, script string) (string, error) {
	const end = "nothing is missing"
	pods, err := k.hands(ctx)
	if err != nil {
		return "", err
	}
	for range 10 {
		out, err := k.run(ctx, "", "-n", handsNamespace, "exec", pods[node], "--", "sh", "-c", script+"\necho "+end)
		if text, found := strings.CutSuffix(strings.TrimSpace(out), end); found || err != nil {
			return text, err
		}
	}
	return "", fmt.Errorf("exec on %s loses its output", node)
}

// mounts are the entries of nodes' mount tables that name one of these pods, by node.
func (k *kube) mounts(ctx context.Context, uids []string) map[string]string {
	found := map[string]string{}
	pods, err := k.hands(ctx)
	if err != nil {
		return map[string]string{"?": err.Error()}
	}
	for node := range pods {
		out, err := k.on(ctx, node, "cat /proc/1/mountinfo")
		if err != nil {
			found[node] = err.Error()
		}
		for _, line := range strings.Split(out, "\n") {
			for _, uid := range uids {
				if strings.Contains(line, uid) {
					found[node] += line + "\n"
				}
			}
		}
	}
	return found
}

// processes are the pids of a container on its node, the first of them its pid 1, each with the time of its birth; none while it is not
// running.
func (s *space) processes(p *corev1.Pod, container string) []string {
	s.t.Helper()
	id := containerID(p, container)
	if id == "" {
		return nil
	}
	out, err := s.k.on(s.t.Context(), p.Spec.NodeName, fmt.Sprintf(
		`for d in /proc/[0-9]*; do if grep -q %s $d/cgroup 2>/dev/null; then echo ${d#/proc/} $(sed 's/.*) //' $d/stat | cut -d' ' -f20); fi; done | sort -k 2n,2 -k 1n,1`, id))
	require.NoError(s.t, err)
	var all []string
	for _, line := range strings.Split(strings.TrimSpace(out), "\n") {
		if strings.Contains(line, " ") {
			all = append(all, line)
		}
	}
	return all
}

// kill sends SIGKILL, from the node, to the process that serves: the youngest of the container.
func (s *space) kill(p *corev1.Pod, container string) {
	s.t.Helper()
	all := s.processes(p, container)
	require.NotEmpty(s.t, all, "no process of container %s of %s on %s", container, p.Name, p.Spec.NodeName)
	s.signal(p, all[len(all)-1])
}

// killContainer sends it to pid 1, which takes the container down; kubelet starts another.
func (s *space) killContainer(p *corev1.Pod, container string) {
	s.t.Helper()
	all := s.processes(p, container)
	require.NotEmpty(s.t, all, "no process of container %s of %s on %s", container, p.Name, p.Spec.NodeName)
	s.signal(p, all[0])
}

func (s *space) signal(p *corev1.Pod, process string) {
	s.t.Helper()
	pid, _, _ := strings.Cut(process, " ")
	_, err := s.k.on(s.t.Context(), p.Spec.NodeName, "kill -9 "+pid)
	require.NoError(s.t, err)
}

func containerID(p *corev1.Pod, container string) string {
	for _, c := range append(append([]corev1.ContainerStatus{}, p.Status.InitContainerStatuses...), p.Status.ContainerStatuses...) {
		if c.Name == container && c.State.Running != nil {
			_, id, _ := strings.Cut(c.ContainerID, "://")
			return id
		}
	}
	return ""
}
