//go:build kube

package kube

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
)

// TestStatefulSet: a writer and SQLite in one pod, under Pod Security "restricted"; the sidecar is killed again and again, and neither
// sees an error. Then the pod is deleted, and its successor finds everything.
func TestStatefulSet(t *testing.T) {
	s := newSpace(t)
	s.apply(statefulSet("db", 1, writerContainer("data"), shell("sqlite", "data", sqliteScript)))
	s.ready("db-0")
	for i := range *kills {
		s.killAndReturn("db-0")
		p := s.ready("db-0")
		require.Zero(t, restarts(p, "writer"), "kill %d: the writer saw an error", i)
		require.Zero(t, restarts(p, "sqlite"), "kill %d: SQLite saw an error", i)
	}
	s.killContainerAndReturn("db-0") // once, at which kubelet does not hesitate yet
	t.Logf("%d kills; the writer: %s", *kills, tail(s.logs("db-0", "writer"), 1))

	uid := s.pod("db-0").UID
	s.kubectl("delete", "pod", "db-0")
	s.until("the next pod", func() bool { p := s.pod("db-0"); return p != nil && p.UID != uid })
	s.ready("db-0")
	s.until("the next writer", func() bool { return len(s.logs("db-0", "writer")) > 0 })
	require.NotContains(t, s.logs("db-0", "writer"), "resumed at 0,")
	require.Contains(t, s.logs("db-0", "sqlite"), "check: ok")
}

// TestReadiness: a pod whose volume nobody serves for half a minute is not ready, and its events say so; when it is served again, the pod is
// ready, and its program saw no error.
func TestReadiness(t *testing.T) {
	s := newSpace(t)
	s.apply(barePod("p", annotated("data"), "", writerContainer("data")))
	p := s.ready("p")
	all := s.processes(p, "remora")
	pid, _, _ := strings.Cut(all[len(all)-1], " ")
	_, err := s.k.on(t.Context(), p.Spec.NodeName, "kill -STOP "+pid)
	require.NoError(t, err)
	s.until("the pod is not ready", func() bool { p := s.pod("p"); return p != nil && !condition(p, corev1.PodReady) })
	s.until("the event", func() bool {
		out, err := s.try("get", "events", "--field-selector=involvedObject.name=p,reason=Unhealthy", "-o", "jsonpath={.items[*].message}")
		return err == nil && strings.Contains(out, "Readiness probe failed")
	})
	_, err = s.k.on(t.Context(), p.Spec.NodeName, "kill -CONT "+pid)
	require.NoError(t, err)
	require.Zero(t, restarts(s.ready("p"), "writer"), "the writer saw an error")
}
