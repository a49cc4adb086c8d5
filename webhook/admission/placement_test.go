package admission

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"
	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/remora-storage/remora/api/v1alpha1"
)

// volume makes a Volume object with a replica on the node; owner may be nil.
func (k *k8s) volume(t testing.TB, ns, name, node string, owner *corev1.Pod) *v1alpha1.VolumeObject {
	v := &v1alpha1.VolumeObject{Spec: v1alpha1.VolumeObjectSpec{Class: "default", Size: 1 << 30}}
	v.Namespace, v.Name = ns, name
	v.Status = v1alpha1.VolumeObjectStatus{Generation: 3, Phase: v1alpha1.VolumeReady, AssignedNode: node, Members: []v1alpha1.Member{{Replica: "0123456789abcdef", Node: node, Disk: "disk-0", Role: "voter"}}}
	if owner != nil {
		v.Status.OwnerPod, v.Status.OwnerUID = owner.Name, string(owner.UID)
	}
	require.NoError(t, k.client.Create(t.Context(), v))
	return v
}

// owned makes an object of a controller the owner of what it makes.
func owned(by client.Object, apiVersion, kind string) []metav1.OwnerReference {
	return []metav1.OwnerReference{{APIVersion: apiVersion, Kind: kind, Name: by.GetName(), UID: by.GetUID(), Controller: new(true)}}
}

// nodes returns to which nodes a pod was pinned.
func nodes(p *corev1.Pod) (names []string) {
	a := p.Spec.Affinity
	if a == nil || a.NodeAffinity == nil || a.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution == nil {
		return nil
	}
	for _, term := range a.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution.NodeSelectorTerms {
		for _, f := range term.MatchFields {
			names = append(names, f.Values...)
		}
	}
	return names
}

// pinned creates a pod, dry, until it is pinned to these nodes: the webhook hears of Volumes by a watch.
func (k *k8s) pinned(t *testing.T, make func() *corev1.Pod, want ...string) {
	t.Helper()
	eventually(t, func() error {
		p := make()
		if err := k.client.Create(t.Context(), p, client.DryRunAll); err != nil {
			return err
		}
		if have := nodes(p); fmt.Sprint(have) != fmt.Sprint(want) {
			return fmt.Errorf("pinned to %v, not to %v", have, want)
		}
		return nil
	})
}

// TestPodsOfExistingVolumes: a pod that has a Volume already can run only where the replica is.
func TestPodsOfExistingVolumes(t *testing.T) {
	k := realCluster(t)
	ns := k.namespace(t)
	set := &appsv1.StatefulSet{Spec: appsv1.StatefulSetSpec{Selector: selector(), Template: template()}}
	set.Namespace, set.Name = ns, "db"
	require.NoError(t, k.client.Create(t.Context(), set))
	pod := func(name string) func() *corev1.Pod {
		return func() *corev1.Pod {
			p := annotated(ns, name, nil)
			p.OwnerReferences = owned(set, "apps/v1", "StatefulSet")
			return p
		}
	}
	k.volume(t, ns, "data-db-0", "n2", nil)
	k.volume(t, k.namespace(t), "data-db-1", "n3", nil) // of another tenant
	k.pinned(t, pod("db-0"), "n2")
	k.pinned(t, pod("db-1"))

	// A volume that was never served may still be made elsewhere.
	fresh := k.volume(t, ns, "data-db-2", "n1", nil)
	fresh.Status.Members = nil
	require.NoError(t, k.client.Update(t.Context(), fresh))
	k.pinned(t, pod("db-2"))

	// Bare pods, beside what their author asks for, and not at all where the author names the node.
	k.volume(t, ns, "data-bare", "n1", nil)
	k.pinned(t, func() *corev1.Pod {
		p := annotated(ns, "bare", nil)
		p.Spec.Affinity = &corev1.Affinity{NodeAffinity: &corev1.NodeAffinity{RequiredDuringSchedulingIgnoredDuringExecution: &corev1.NodeSelector{NodeSelectorTerms: []corev1.NodeSelectorTerm{
			{MatchExpressions: []corev1.NodeSelectorRequirement{{Key: "zone", Operator: corev1.NodeSelectorOpIn, Values: []string{"a"}}}},
			{MatchExpressions: []corev1.NodeSelectorRequirement{{Key: "zone", Operator: corev1.NodeSelectorOpIn, Values: []string{"b"}}}}}}}}
		return p
	}, "n1", "n1")
	k.pinned(t, func() *corev1.Pod { p := annotated(ns, "bare", nil); p.Spec.NodeName = "n3"; return p })

	// Two volumes that no node has both of.
	k.volume(t, ns, "a-two", "n1", nil)
	k.volume(t, ns, "b-two", "n2", nil)
	eventually(t, func() error {
		p := annotated(ns, "two", map[string]string{"remora.dev/volumes": "a,b", "a.remora.dev/size": "1Gi", "b.remora.dev/size": "1Gi"})
		p.Spec.Containers[0].VolumeMounts = []corev1.VolumeMount{{Name: "a", MountPath: "/a"}, {Name: "b", MountPath: "/b"}}
		return wantError(k.client.Create(t.Context(), p, client.DryRunAll), `remora.dev/volumes: "b": is on node n2, and a is on node n1: no node has both`)
	})
}

// TestPodsOfADeployment: a new pod goes where the volume of a pod that is gone is, or anywhere while the Deployment has more slots
// than volumes.
func TestPodsOfADeployment(t *testing.T) {
	k := realCluster(t)
	ns := k.namespace(t)
	d := deployment(ns, "web")
	d.Spec.Replicas = new(int32(2))
	require.NoError(t, k.client.Create(t.Context(), d))
	labels := map[string]string{"app": "x", "pod-template-hash": "5d4f"}
	rs := &appsv1.ReplicaSet{Spec: appsv1.ReplicaSetSpec{Replicas: new(int32(1)), Selector: &metav1.LabelSelector{MatchLabels: labels}, Template: template()}}
	rs.Namespace, rs.Name, rs.OwnerReferences = ns, "web-5d4f", owned(d, "apps/v1", "Deployment")
	rs.Spec.Template.Labels = labels
	rs.Spec.Template.Spec.Volumes = []corev1.Volume{{Name: "data"}}
	require.NoError(t, k.client.Create(t.Context(), rs))
	pod := func() *corev1.Pod {
		p := annotated(ns, "", nil)
		p.GenerateName, p.Labels, p.OwnerReferences = "web-5d4f-", labels, owned(rs, "apps/v1", "ReplicaSet")
		return p
	}
	first := pod()
	require.NoError(t, k.client.Create(t.Context(), first))
	require.Empty(t, nodes(first))
	v0 := k.volume(t, ns, "data-web-0", "n1", first)
	v9 := k.volume(t, ns, "data-web-9", "n3", nil) // from when there were ten
	_ = v9
	k.pinned(t, pod) // web-1 may be made anywhere
	second := pod()
	require.NoError(t, k.client.Create(t.Context(), second))
	k.volume(t, ns, "data-web-1", "n2", second)
	k.pinned(t, pod, "n1", "n2") // whichever goes first
	v0.Status.OwnerUID = "somebody-before"
	require.NoError(t, k.client.Update(t.Context(), v0))
	k.pinned(t, pod, "n1")
	require.NoError(t, k.client.Delete(t.Context(), second, client.GracePeriodSeconds(0)))
	k.pinned(t, pod, "n1", "n2")

	// A Job of a CronJob takes the slots of the CronJob.
	cron := &batchv1.CronJob{Spec: batchv1.CronJobSpec{Schedule: "* * * * *", JobTemplate: batchv1.JobTemplateSpec{Spec: batchv1.JobSpec{Template: template()}}}}
	cron.Namespace, cron.Name = ns, "nightly"
	cron.Spec.JobTemplate.Spec.Template.Spec.RestartPolicy = corev1.RestartPolicyNever
	require.NoError(t, k.client.Create(t.Context(), cron))
	job := &batchv1.Job{Spec: batchv1.JobSpec{Template: template()}}
	job.Namespace, job.Name, job.OwnerReferences = ns, "nightly-29000000", owned(cron, "batch/v1", "CronJob")
	job.Spec.Template.Spec.RestartPolicy = corev1.RestartPolicyNever
	require.NoError(t, k.client.Create(t.Context(), job))
	k.volume(t, ns, "data-nightly-0", "n3", nil)
	k.pinned(t, func() *corev1.Pod {
		p := annotated(ns, "", nil)
		p.GenerateName, p.OwnerReferences = "nightly-29000000-", owned(job, "batch/v1", "Job")
		return p
	}, "n3")
}
