//go:build kube

package kube

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
)

// kube is a cluster, as its administrator sees it through kubectl.
type kube struct {
	root, config, kubectl string
	own                   bool // the cluster is bin/cluster's, and its nodes can lose their power
}

// run runs kubectl with this standard input, and returns what it printed.
func (k *kube) run(ctx context.Context, stdin string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, k.kubectl, args...)
	cmd.Env = append(os.Environ(), "KUBECONFIG="+k.config)
	if strings.HasPrefix(stdin, "{") {
		stdin = "---\n" + stdin // before 1.33 kubectl takes YAML that begins like JSON for JSON
	}
	cmd.Stdin = strings.NewReader(stdin)
	var out, complaints bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &complaints
	if err := cmd.Run(); err != nil {
		return out.String(), fmt.Errorf("kubectl %s: %w: %s", strings.Join(args, " "), err, strings.TrimSpace(complaints.String()))
	}
	return out.String(), nil
}

// state is what a person would look at first, for messages of failure.
func (k *kube) state(ctx context.Context, namespace string) string {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 30*time.Second)
	defer cancel()
	var all strings.Builder
	for _, what := range []string{"pods,volumes.remora.dev -o wide", "events --sort-by=.lastTimestamp"} {
		out, err := k.run(ctx, "", append([]string{"-n", namespace, "get"}, strings.Fields(what)...)...)
		fmt.Fprintln(&all, tail(out, 15), err)
	}
	list, _ := k.run(ctx, "", "-n", namespace, "get", "pods", "-o", "name")
	for _, p := range strings.Fields(list) {
		out, _ := k.run(ctx, "", "-n", namespace, "logs", p, "--all-containers", "--prefix", "--tail=12")
		all.WriteString(out)
	}
	return all.String()
}

func tail(text string, n int) string {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}

// space is a namespace of one test.
type space struct {
	t    *testing.T
	k    *kube
	name string
}

// newSpace makes a namespace that opted in, and in which Pod Security "restricted" is enforced. When the test is over it goes, and
// that it does, with no mount of its pods left on any node, is part of every test.
func newSpace(t *testing.T) *space {
	t.Helper()
	name := strings.ToLower(strings.NewReplacer("/", "-", "_", "-").Replace(strings.TrimPrefix(t.Name(), "Test")))
	s := &space{t: t, k: here, name: "e2e-" + name + "-" + strconv.FormatInt(time.Now().Unix()%1e6, 36)} // a kept one may be there
	s.apply(fmt.Sprintf(`{apiVersion: v1, kind: Namespace, metadata: {name: %s, labels: {remora.dev/injection: enabled,
		pod-security.kubernetes.io/enforce: restricted}}}`, s.name))
	s.until("service account", func() bool { _, err := s.try("get", "serviceaccount", "default"); return err == nil })
	t.Cleanup(s.gone)
	return s
}

func (s *space) gone() {
	if s.t.Failed() {
		s.t.Log(s.k.state(s.t.Context(), s.name), "\nnode plugin and webhook:\n", s.k.state(s.t.Context(), "remora-system"))
		if *keep {
			return
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	defer cancel()
	uids := s.uids(ctx)
	_, err := s.k.run(ctx, "", "delete", "namespace", s.name, "--timeout=150s")
	if err != nil {
		s.t.Errorf("the namespace is stuck: %v\n%s", err, s.k.state(ctx, s.name))
		return
	}
	for node, left := range s.k.mounts(ctx, uids) {
		s.t.Errorf("mounts of deleted pods are left on %s: %s", node, left)
	}
}

// uids are those of all pods of the namespace.
func (s *space) uids(ctx context.Context) []string {
	out, _ := s.k.run(ctx, "", "-n", s.name, "get", "pods", "-o", "jsonpath={.items[*].metadata.uid}")
	return strings.Fields(out)
}

// try runs kubectl in the namespace.
func (s *space) try(args ...string) (string, error) {
	return s.k.run(s.t.Context(), "", append([]string{"-n", s.name}, args...)...)
}

// kubectl is try that must succeed.
func (s *space) kubectl(args ...string) string {
	s.t.Helper()
	out, err := s.try(args...)
	require.NoError(s.t, err)
	return out
}

// apply applies a manifest of any objects.
func (s *space) apply(manifest string) {
	s.t.Helper()
	require.NoError(s.t, s.tryApply(manifest))
}

func (s *space) tryApply(manifest string) error {
	args := []string{"apply", "-f", "-"}
	if !strings.Contains(manifest, "kind: Namespace") {
		args = append(args, "-n", s.name)
	}
	if *offline {
		inject := exec.CommandContext(s.t.Context(), filepath.Join(s.k.root, "bin", "remora"), "inject", "--mode=node", "--image="+*remoraName, "-f", "-")
		inject.Stdin = strings.NewReader(manifest)
		out, err := inject.Output()
		if err != nil {
			return fmt.Errorf("remora inject: %w", err)
		}
		manifest = string(out)
	}
	_, err := s.k.run(s.t.Context(), manifest, args...)
	return err
}

// pod returns a pod, or nil.
func (s *space) pod(name string) *corev1.Pod {
	out, err := s.try("get", "pod", name, "-o", "json")
	if err != nil {
		return nil
	}
	var p corev1.Pod
	require.NoError(s.t, json.Unmarshal([]byte(out), &p))
	return &p
}

// ready waits until a pod is, and returns it.
func (s *space) ready(name string) *corev1.Pod {
	s.t.Helper()
	var p *corev1.Pod
	s.until("pod "+name+" ready", func() bool {
		p = s.pod(name)
		return p != nil && p.DeletionTimestamp == nil && condition(p, corev1.PodReady)
	})
	return p
}

func condition(p *corev1.Pod, c corev1.PodConditionType) bool {
	for _, have := range p.Status.Conditions {
		if have.Type == c {
			return have.Status == corev1.ConditionTrue
		}
	}
	return false
}

// until waits up to two minutes for something that the cluster does on its own.
func (s *space) until(what string, ok func() bool) {
	s.t.Helper()
	deadline := time.Now().Add(2 * time.Minute)
	for !ok() {
		if time.Now().After(deadline) {
			require.FailNow(s.t, "waited two minutes for "+what)
		}
		time.Sleep(200 * time.Millisecond)
	}
}

// logs are what a container printed; of its last but one life with previous.
func (s *space) logs(pod, container string) string {
	s.t.Helper()
	return s.kubectl("logs", pod, "-c", container)
}

// restarts of a pod's container.
func restarts(p *corev1.Pod, container string) int {
	for _, c := range append(append([]corev1.ContainerStatus{}, p.Status.InitContainerStatuses...), p.Status.ContainerStatuses...) {
		if c.Name == container {
			return int(c.RestartCount)
		}
	}
	return -1
}
