//go:build kube

package kube

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
)

// TestDeletion: pods are deleted in every way while they write; none stays, no mount of them is left, no folder of them in
// kubelet's, and their neighbour on the same node notices nothing.
func TestDeletion(t *testing.T) {
	neighbour := newSpace(t)
	neighbour.apply(statefulSet("db", 1, writerContainer("data")))
	node := neighbour.ready("db-0").Spec.NodeName
	pinned := fmt.Sprintf("nodeSelector: {kubernetes.io/hostname: %s},", node)

	ways := map[string]func(s *space, p *corev1.Pod){
		"delete": func(s *space, p *corev1.Pod) { s.kubectl("delete", "pod", p.Name, "--timeout=90s") },
		"force":  func(s *space, p *corev1.Pod) { s.kubectl("delete", "pod", p.Name, "--force", "--grace-period=0") },
		"sidecar killed before": func(s *space, p *corev1.Pod) {
			s.kill(p, "remora")
			s.kubectl("delete", "pod", p.Name, "--timeout=90s")
		},
		"container killed before": func(s *space, p *corev1.Pod) {
			s.killContainer(p, "remora")
			s.kubectl("delete", "pod", p.Name, "--timeout=90s")
		},
		"sidecar killed during": func(s *space, p *corev1.Pod) {
			s.kubectl("delete", "pod", p.Name, "--wait=false")
			s.kill(p, "remora")
			s.kubectl("wait", "--for=delete", "pod/"+p.Name, "--timeout=90s")
		},
	}
	s := newSpace(t)
	lingers := shell("lingers", "data", `trap "sleep 2; date >/data/last; exit 0" TERM; while :; do sleep 0.2; done`) // so that there is a while of being deleted
	for name, remove := range ways {
		pod := "p-" + strings.ReplaceAll(name, " ", "-")
		s.apply(barePod(pod, annotated("data"), pinned, writerContainer("data"), lingers))
		p := s.ready(pod)
		s.resumes(pod)
		remove(s, p)
		s.until(name+": nothing is left", func() bool {
			left := s.k.mounts(t.Context(), []string{string(p.UID)})
			out, err := s.k.on(t.Context(), node, fmt.Sprintf("ls -d /proc/1/root/var/lib/kubelet/pods/%s 2>/dev/null || true", p.UID))
			return err == nil && len(left) == 0 && out == ""
		})
		// And what was written is there for the next pod of the name.
		s.apply(barePod(pod, annotated("data"), pinned, writerContainer("data"), lingers))
		s.ready(pod)
		require.Positive(t, s.resumes(pod), name)
	}
	require.Zero(t, restarts(neighbour.ready("db-0"), "writer"), "the neighbour saw an error")
}

// TestSubPath: kubelet looks at the mounts of subPaths before it takes them away, when the sidecar has ended already; nobody has to abort them, be
// the pod deleted or a Job's that completes.
func TestSubPath(t *testing.T) {
	s := newSpace(t)
	below := func(text string) string {
		return strings.Replace(text, "mountPath: /data}", "mountPath: /data, subPath: a/b}", 1)
	}
	s.apply(below(barePod("p", annotated("data"), "", writerContainer("data"))))
	s.apply(`{apiVersion: batch/v1, kind: Job, metadata: {name: once}, spec: {template: {metadata: {` + annotated("data") + `}, spec: {restartPolicy: Never, ` + podSecurity +
		`, volumes: [{name: data, emptyDir: {}}], containers: [` + below(writerContainer("data", "-records", `"100"`)) + `]}}}}`)
	uids := map[string]string{"p": string(s.ready("p").UID)}
	s.resumes("p")
	s.kubectl("delete", "pod", "p", "--timeout=110s")
	s.kubectl("wait", "--for=condition=complete", "job/once", "--timeout=110s")
	job := s.podOf("job-name=once")
	uids[job] = string(s.pod(job).UID)
	for pod, uid := range uids {
		s.until("no mount of "+pod, func() bool { return len(s.k.mounts(t.Context(), []string{uid})) == 0 })
		reasons := s.kubectl("get", "events", "--field-selector=involvedObject.name="+pod, "-o", "jsonpath={.items[*].reason}")
		require.NotContains(t, reasons, "VolumeAborted", pod)
	}
}

// TestNamespace: a namespace with pods that write is deleted as a whole, with a dead sidecar in it.
func TestNamespace(t *testing.T) {
	s := newSpace(t)
	s.apply(statefulSet("db", 2, writerContainer("data")))
	for _, name := range []string{"db-0", "db-1"} {
		s.ready(name)
		s.resumes(name)
	}
	s.killContainer(s.ready("db-1"), "remora")
	// gone does it, and looks.
}

// TestNodeRestart: a node loses its power while a pod writes, and comes back; so does the pod, on that node, with its data.
func TestNodeRestart(t *testing.T) {
	s := newSpace(t)
	if !s.k.own {
		t.Skip("taking the power from a node needs the cluster of `make cluster`")
	}
	s.apply(statefulSet("db", 1, writerContainer("data")))
	p := s.ready("db-0")
	s.resumes("db-0")
	s.until("some records", func() bool { return strings.Contains(s.logs("db-0", "writer"), "at ") })
	require.NoError(t, s.k.cluster(t.Context(), "node-kill", p.Spec.NodeName))
	down := time.Now()
	s.until("the node is missed", func() bool { return !condition(s.pod("db-0"), corev1.PodReady) })
	missed := time.Since(down)
	require.NoError(t, s.k.cluster(t.Context(), "node-up", p.Spec.NodeName))
	up := time.Now()
	var q *corev1.Pod
	s.until("the pod comes back", func() bool {
		q = s.pod("db-0")
		if q == nil || q.DeletionTimestamp != nil || !condition(q, corev1.PodReady) {
			return false
		}
		return q.UID != p.UID || containerID(q, "writer") != containerID(p, "writer")
	})
	require.Equal(t, p.Spec.NodeName, q.Spec.NodeName)
	s.until("the writer", func() bool { return s.resumed("db-0") > 0 })
	t.Logf("missed after %.1f s; ready %.1f s after the node's power came back", missed.Seconds(), time.Since(up).Seconds())
	s.until("hands", func() bool { pods, err := s.k.hands(t.Context()); return err == nil && len(pods) == 3 })
}

// TestWebhookDown: without a webhook, pods that do not mention Remora start, those that do are refused with a reason, and running ones
// go on; when it is back, so is everything.
func TestWebhookDown(t *testing.T) {
	s := newSpace(t)
	system := &space{t: t, k: s.k, name: "remora-system"}
	s.apply(statefulSet("db", 1, writerContainer("data")))
	s.ready("db-0")
	system.kubectl("scale", "deployment/remora-webhook", "--replicas=0")
	back := func() {
		system.kubectl("scale", "deployment/remora-webhook", "--replicas=2")
		system.kubectl("rollout", "status", "deployment/remora-webhook", "--timeout=120s")
	}
	defer back()
	system.until("no webhook", func() bool {
		out, err := system.try("get", "pods", "-l", "app.kubernetes.io/name=remora-webhook", "-o", "name")
		return err == nil && out == ""
	})
	s.apply(`{apiVersion: v1, kind: Pod, metadata: {name: plain}, spec: {` + podSecurity + `, containers: [` + writerContainer("data") + `], volumes: [{name: data, emptyDir: {}}]}}`)
	s.ready("plain")
	err := s.tryApply(barePod("wants", annotated("data"), "", writerContainer("data")))
	require.ErrorContains(t, err, "pods.remora.dev")
	s.killAndReturn("db-0")
	back()
	s.until("the pod is taken", func() bool {
		return s.tryApply(barePod("wants", annotated("data"), "", writerContainer("data"))) == nil
	})
	s.ready("wants")
	require.Zero(t, restarts(s.ready("db-0"), "writer"))
}

// TestDamaged: a replica whose superblocks are gone is not served, the application does not start, log and event say why; and the pod can be
// deleted.
func TestDamaged(t *testing.T) {
	s := newSpace(t)
	pod := barePod("p", annotated("data"), "", writerContainer("data"))
	s.apply(pod)
	node := s.ready("p").Spec.NodeName
	s.resumes("p")
	s.kubectl("delete", "pod", "p", "--timeout=90s")
	_, err := s.k.on(t.Context(), node, fmt.Sprintf("for f in /proc/1/root/var/lib/remora/%s/disk-0/replicas/*/superblock; do dd if=/dev/urandom of=$f bs=4096 count=2 conv=notrunc 2>/dev/null; done", s.name))
	require.NoError(t, err)
	s.apply(pod)
	s.until("an event", func() bool {
		out, err := s.try("get", "events", "--field-selector=involvedObject.name=p", "-o", "jsonpath={.items[*].reason}")
		return err == nil && strings.Contains(out, "FailedPostStartHook")
	})
	s.until("the sidecar's log", func() bool {
		now, _ := s.try("logs", "p", "-c", "remora")
		before, _ := s.try("logs", "p", "-c", "remora", "--previous")
		return strings.Contains(now+before, "volume is not mounted") && strings.Contains(now+before, "remora check")
	})
	p := s.pod("p")
	require.Zero(t, restarts(p, "writer"))
	require.Empty(t, containerID(p, "writer"))
	s.kubectl("delete", "pod", "p", "--timeout=90s")
}

// TestDeleteReplica: the directory of a volume goes by an order that names its replica; a pod that wants the volume waits with a reason until
// the Volume is deleted, and then has an empty one.
func TestDeleteReplica(t *testing.T) {
	s := newSpace(t)
	pod := barePod("p", annotated("data"), "", writerContainer("data"))
	s.apply(pod)
	node := s.ready("p").Spec.NodeName
	s.resumes("p")
	replica := s.kubectl("get", "volumes.remora.dev", "data-p", "-o", "jsonpath={.status.members[0].replica}")
	s.kubectl("label", "volumes.remora.dev", "data-p", "remora.dev/delete-replica="+replica)
	s.reason("data-p", "ReplicaNotDeleted") // its pod lives
	require.Zero(t, restarts(s.ready("p"), "writer"))
	s.kubectl("delete", "pod", "p", "--timeout=90s")
	s.reason("data-p", "ReplicaDeleted")
	out, err := s.k.on(t.Context(), node, fmt.Sprintf("ls /proc/1/root/var/lib/remora/%s", s.name))
	require.NoError(t, err)
	require.Empty(t, strings.TrimSpace(out))
	s.apply(pod)
	s.reason("p", "VolumeDeleted")
	s.kubectl("delete", "volumes.remora.dev", "data-p")
	s.ready("p")
	require.Zero(t, s.resumes("p"))
}
