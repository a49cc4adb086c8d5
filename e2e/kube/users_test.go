//go:build kube

package kube

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
)

// TestDrain: a node is drained while a pod writes there. Its successor waits for the node that has the data, and says so; when the node takes
// pods again, it goes on.
func TestDrain(t *testing.T) {
	s := newSpace(t)
	s.apply(statefulSet("db", 1, writerContainer("data")))
	p := s.ready("db-0")
	s.resumes("db-0")
	s.drain(p.Spec.NodeName, "app=db")
	s.reason("db-0", "FailedScheduling")
	waits := s.pod("db-0")
	require.NotEqual(t, p.UID, waits.UID)
	require.Empty(t, waits.Spec.NodeName, "there is no data on the other nodes")
	s.uncordon(p.Spec.NodeName)
	require.Equal(t, p.Spec.NodeName, s.ready("db-0").Spec.NodeName)
	require.Positive(t, s.resumes("db-0"))
}

// drain drains a node of the pods of a label, as an administrator does; uncordon, also at the test's end, takes that back.
func (s *space) drain(node, label string) {
	s.t.Helper()
	s.t.Cleanup(func() { s.uncordon(node) })
	_, err := s.k.run(s.t.Context(), "", "drain", node, "--ignore-daemonsets", "--pod-selector="+label, "--timeout=110s")
	require.NoError(s.t, err)
}

func (s *space) uncordon(node string) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	_, err := s.k.run(ctx, "", "uncordon", node)
	require.NoError(s.t, err)
}

// TestRollout: a StatefulSet is rolled out anew, scaled to nothing and back, and a pod that runs is deleted by force, so that its successor comes
// while it still writes: each time the pods find what was synced, and so does the last.
func TestRollout(t *testing.T) {
	s := newSpace(t)
	s.apply(statefulSet("db", 2, writerContainer("data")))
	names := []string{"db-0", "db-1"}
	uids := map[string]string{}
	others := func(pods ...string) { // than before
		t.Helper()
		for _, name := range pods {
			s.until("another "+name, func() bool { p := s.pod(name); return p != nil && string(p.UID) != uids[name] })
			uids[name] = string(s.ready(name).UID)
		}
	}
	others(names...)
	for _, name := range names {
		require.Zero(t, s.resumes(name))
	}
	s.kubectl("rollout", "restart", "statefulset/db")
	s.kubectl("rollout", "status", "statefulset/db", "--timeout=120s")
	others(names...)
	for _, name := range names {
		require.Positive(t, s.resumes(name), name)
	}
	s.kubectl("scale", "statefulset/db", "--replicas=0")
	s.kubectl("wait", "--for=delete", "pod/db-0", "pod/db-1", "--timeout=120s")
	require.Empty(t, s.k.mounts(t.Context(), []string{uids["db-0"], uids["db-1"]}))
	s.kubectl("scale", "statefulset/db", "--replicas=2")
	others(names...)
	for _, name := range names {
		require.Positive(t, s.resumes(name), name)
	}
	s.kubectl("delete", "pod", "db-0", "--force", "--grace-period=0")
	others("db-0")
	require.Positive(t, s.resumes("db-0"))
	require.Zero(t, restarts(s.ready("db-1"), "writer"))
}

// TestScale: a Deployment whose rollouts would need two owners is refused with advice; scaled to two, each pod has a volume of its own; and who comes
// after one has gone gets that one's.
func TestScale(t *testing.T) {
	s := newSpace(t)
	web := `{apiVersion: apps/v1, kind: Deployment, metadata: {name: web}, spec: {replicas: 1,%s selector: {matchLabels: {app: web}}, template: ` +
		podTemplate("{app: web}", writerContainer("data")) + `}}`
	require.ErrorContains(t, s.tryApply(fmt.Sprintf(web, "")), "Recreate")
	s.apply(fmt.Sprintf(web, " strategy: {type: Recreate},"))
	first := s.podOf("app=web")
	s.ready(first)
	s.kubectl("scale", "deployment/web", "--replicas=2")
	second := s.podOf("app=web", first)
	s.ready(second)
	require.Zero(t, s.resumes(second), "a volume of its own")
	owners := func() []string {
		all := strings.Fields(s.kubectl("get", "volumes.remora.dev", "-o", "jsonpath={.items[*].status.ownerPod}"))
		slices.Sort(all)
		return all
	}
	want := []string{first, second}
	slices.Sort(want)
	require.Equal(t, want, owners())
	s.kubectl("scale", "deployment/web", "--replicas=1")
	var stays string
	s.until("one pod", func() bool {
		stays = s.kubectl("get", "pods", "-l", "app=web", "-o", "jsonpath={.items[*].metadata.name}")
		return len(strings.Fields(stays)) == 1
	})
	s.kubectl("scale", "deployment/web", "--replicas=2")
	third := s.podOf("app=web", stays)
	s.ready(third)
	require.Positive(t, s.resumes(third), "the volume of the one that went")
	want = []string{stays, third}
	slices.Sort(want)
	require.Equal(t, want, owners())
	require.Zero(t, restarts(s.ready(stays), "writer"))
}

// TestDaemonSet: a pod on every node, each with a volume of that node, which its successor finds.
func TestDaemonSet(t *testing.T) {
	s := newSpace(t)
	s.apply(`{apiVersion: apps/v1, kind: DaemonSet, metadata: {name: log}, spec: {selector: {matchLabels: {app: log}}, template: ` +
		podTemplate("{app: log}", writerContainer("data")) + `}}`)
	nodes := strings.Fields(s.kubectl("get", "nodes", "-o", "jsonpath={.items[*].metadata.name}"))
	pods := func() (all []corev1.Pod) {
		t.Helper()
		s.until("a ready pod on every node", func() bool {
			var list corev1.PodList
			require.NoError(t, json.Unmarshal([]byte(s.kubectl("get", "pods", "-l", "app=log", "-o", "json")), &list))
			all = slices.DeleteFunc(list.Items, func(p corev1.Pod) bool { return p.DeletionTimestamp != nil || !condition(&p, corev1.PodReady) })
			return len(all) == len(nodes)
		})
		return all
	}
	before := pods()
	for _, p := range before {
		require.Zero(t, s.resumes(p.Name))
		require.Equal(t, p.Name, s.kubectl("get", "volumes.remora.dev", "data-log-"+p.Spec.NodeName, "-o", "jsonpath={.status.ownerPod}"))
	}
	s.kubectl("delete", "pods", "-l", "app=log", "--timeout=110s")
	for _, p := range pods() {
		require.Positive(t, s.resumes(p.Name), p.Spec.NodeName)
	}
}

// TestElsewhere: a pod on a node that does not have its data waits with a reason, never starts on an empty volume, and can be deleted; one without
// such a wish is brought to the data. So also with engine local, where there is no sidecar.
func TestElsewhere(t *testing.T) {
	s := newSpace(t)
	s.class("e2e-local", "{engine: local}")
	nodes := strings.Fields(s.kubectl("get", "nodes", "-o", "jsonpath={.items[*].metadata.name}"))
	if len(nodes) < 2 {
		t.Skip("needs two nodes")
	}
	for name, class := range map[string]string{"replicated": "default", "local": "e2e-local"} {
		pod := func(more string) string {
			return strings.Replace(barePod(name, annotated("data"), more, writerContainer("data")), "size: 8Gi", "size: 8Gi, data.remora.dev/class: "+class, 1)
		}
		s.apply(pod(""))
		p := s.ready(name)
		require.Equal(t, class == "default", len(p.Spec.InitContainers) == 1, "a sidecar")
		require.Zero(t, s.resumes(name))
		s.kubectl("delete", "pod", name, "--timeout=90s")

		other := nodes[(slices.Index(nodes, p.Spec.NodeName)+1)%len(nodes)]
		s.apply(pod("nodeName: " + other + ","))
		s.reason(name, "VolumeElsewhere")
		q := s.pod(name)
		require.Equal(t, other, q.Spec.NodeName)
		require.Equal(t, corev1.PodPending, q.Status.Phase)
		require.Empty(t, containerID(q, "writer"))
		s.kubectl("delete", "pod", name, "--timeout=90s")

		s.apply(pod(""))
		require.Equal(t, p.Spec.NodeName, s.ready(name).Spec.NodeName)
		require.Positive(t, s.resumes(name))
	}
}

// class makes a VolumeClass until the test is over.
func (s *space) class(name, spec string) {
	s.t.Helper()
	s.t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		_, _ = s.k.run(ctx, "", "delete", "volumeclass", name, "--ignore-not-found")
	})
	_, err := s.k.run(s.t.Context(), fmt.Sprintf(`{apiVersion: remora.dev/v1alpha1, kind: VolumeClass, metadata: {name: %s}, spec: %s}`, name, spec), "apply", "-f", "-")
	require.NoError(s.t, err)
}

// reason waits for an event on an object.
func (s *space) reason(of, reason string) {
	s.t.Helper()
	s.until("event "+reason+" on "+of, func() bool {
		out, err := s.try("get", "events", "--field-selector=involvedObject.name="+of+",reason="+reason, "-o", "name")
		return err == nil && out != ""
	})
}

// TestKubectl: files are copied into a volume and out of it; a debugging container in the running pod has the volume, and not what is the
// sidecar's.
func TestKubectl(t *testing.T) {
	s := newSpace(t)
	s.apply(barePod("p", annotated("data"), "", writerContainer("data")))
	s.ready("p")
	dir := t.TempDir()
	in, out := filepath.Join(dir, "in"), filepath.Join(dir, "out")
	content := strings.Repeat("what a user copies\n", 100_000)
	require.NoError(t, os.WriteFile(in, []byte(content), 0o644))
	s.kubectl("cp", in, "p:/data/copied", "-c", "writer")
	s.kubectl("cp", "p:/data/copied", out, "-c", "writer", "--retries=5")
	back, err := os.ReadFile(out)
	require.NoError(t, err)
	require.Equal(t, content, string(back))

	debug := func(container, volume, script string) (string, error) {
		profile := filepath.Join(dir, container)
		require.NoError(t, os.WriteFile(profile, fmt.Appendf(nil, `{"volumeMounts": [{"name": %q, "mountPath": "/seen"}]}`, volume), 0o644))
		return s.try("debug", "p", "--image="+toolsImage, "--image-pull-policy=IfNotPresent", "--profile=restricted", "--custom="+profile, "--container="+container, "--", "sh", "-c", script)
	}
	_, err = debug("thief", "remora-disks", "ls /seen")
	require.ErrorContains(t, err, "reserved for the sidecar")
	_, err = debug("doctor", "data", "wc -c </seen/copied; echo seen >/seen/by-the-doctor")
	require.NoError(t, err)
	s.until("the doctor", func() bool {
		said, _ := s.try("logs", "p", "-c", "doctor")
		return strings.TrimSpace(said) == fmt.Sprint(len(content))
	})
	s.until("what the doctor wrote", func() bool {
		said, _ := s.try("exec", "p", "-c", "writer", "--", "cat", "/data/by-the-doctor")
		return said == "seen\n"
	})
	require.Zero(t, restarts(s.ready("p"), "writer"))
}

// TestWebhookReplaced: every node is drained of the webhook's servers, one after the other, while pods are admitted all the time: their
// PodDisruptionBudget leaves one that answers, and none is refused. Then both are killed at once, and a workload that is applied in that
// moment comes up all the same: its controller tries again.
func TestWebhookReplaced(t *testing.T) {
	if *installed || *offline {
		t.Skip("drains the webhook, which -installed leaves as it is")
	}
	s := newSpace(t)
	system := &space{t: t, k: s.k, name: "remora-system"}
	const label = "app.kubernetes.io/name=remora-webhook"
	servers := func() []string {
		return strings.Fields(system.kubectl("get", "pods", "-l", label, "-o", "jsonpath={.items[*].metadata.name}"))
	}
	before := servers()
	admitted, stop := s.admitAlways()
	for _, node := range strings.Fields(s.kubectl("get", "nodes", "-o", "jsonpath={.items[*].metadata.name}")) {
		s.drain(node, label)
		system.kubectl("rollout", "status", "deployment/remora-webhook", "--timeout=110s")
		s.uncordon(node)
	}
	so := admitted()
	s.until("admissions afterwards", func() bool { return admitted() > so+20 })
	stop()
	t.Logf("%d pods were admitted while all nodes were drained of the webhook; none was refused", admitted())
	s.until("the old servers are gone", func() bool {
		now := servers()
		return len(now) == 2 && !slices.ContainsFunc(now, func(name string) bool { return slices.Contains(before, name) })
	})
	for _, name := range servers() {
		system.kill(system.ready(name), "webhook")
	}
	s.apply(statefulSet("db", 1, writerContainer("data")))
	s.ready("db-0")
	s.resumes("db-0")
}
