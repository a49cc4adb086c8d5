package spec

import (
	"testing"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func TestSlotOf(t *testing.T) {
	pod := func(name, apiVersion, kind, owner string, more ...func(*corev1.Pod)) *corev1.Pod {
		p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name}}
		if kind != "" {
			yes := true
			p.OwnerReferences = []metav1.OwnerReference{{Kind: "Node", Name: "not-the-controller"}, {APIVersion: apiVersion, Kind: kind, Name: owner, Controller: &yes}}
		}
		for _, m := range more {
			m(p)
		}
		return p
	}
	hash := func(p *corev1.Pod) { p.Labels = map[string]string{"pod-template-hash": "5d4f"} }
	index := func(p *corev1.Pod) {
		p.Annotations = map[string]string{"batch.kubernetes.io/job-completion-index": "3"}
	}
	node := func(p *corev1.Pod) { p.Spec.NodeName = "n1" }
	for _, c := range []struct {
		pod     *corev1.Pod
		cronJob string
		want    Slot
	}{
		{pod("p", "", "", ""), "", Slot{"p", "p"}},
		{pod("", "", "", ""), "", Slot{}},
		{pod("db-0", "apps/v1", "StatefulSet", "db"), "", Slot{"db", "db-0"}},
		{pod("", "apps/v1", "ReplicaSet", "web-5d4f", hash), "", Slot{Workload: "web"}},
		{pod("", "apps/v1", "ReplicaSet", "web-other", hash), "", Slot{Workload: "web-other"}},
		{pod("", "apps/v1", "ReplicaSet", "web-5d4f"), "", Slot{Workload: "web-5d4f"}},
		{pod("", "batch/v1", "Job", "load"), "", Slot{Workload: "load"}},
		{pod("", "batch/v1", "Job", "load-123"), "load", Slot{Workload: "load"}},
		{pod("", "batch/v1", "Job", "load", index), "", Slot{"load", "load-3"}},
		{pod("", "apps/v1", "DaemonSet", "agent"), "", Slot{}},
		{pod("", "apps/v1", "DaemonSet", "agent", node), "", Slot{"agent", "agent-n1"}},
		{pod("x-1", "example.com/v1", "StatefulSet", "x"), "", Slot{"x-1", "x-1"}},
	} {
		require.Equal(t, c.want, SlotOf(c.pod, c.cronJob), c.pod)
	}
}

func TestSlotIndex(t *testing.T) {
	s := Slot{Workload: "web"}
	require.Equal(t, "data-web-0", s.Volume("data", "web-0"))
	for object, want := range map[string]int{"data-web-0": 0, "data-web-12": 12, "data-web-01": -1, "data-web-": -1, "data-web-x": -1, "data-web-+1": -1, "data-webs-1": -1, "logs-web-1": -1, "data-web-99999999999999999999": -1} {
		n, ok := s.Index("data", object)
		require.Equal(t, want >= 0, ok, object)
		if ok {
			require.Equal(t, want, n, object)
		}
	}
}
