package admission

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"
)

// template is that of annotated, with the labels of a workload.
func template() corev1.PodTemplateSpec {
	pod := annotated("", "", nil)
	return corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"app": "x"}, Annotations: pod.Annotations}, Spec: pod.Spec}
}

func selector() *metav1.LabelSelector {
	return &metav1.LabelSelector{MatchLabels: map[string]string{"app": "x"}}
}

func deployment(ns, name string) *appsv1.Deployment {
	d := &appsv1.Deployment{Spec: appsv1.DeploymentSpec{Selector: selector(), Template: template(), Strategy: appsv1.DeploymentStrategy{Type: appsv1.RecreateDeploymentStrategyType}}}
	d.Namespace, d.Name = ns, name
	return d
}

// TestWorkloads: who applies a workload hears at once what is wrong, and needs no volumes section.
func TestWorkloads(t *testing.T) {
	k := realCluster(t)
	ns := k.namespace(t)
	data, err := os.ReadFile("../../examples/statefulset.yaml")
	require.NoError(t, err)
	set := &appsv1.StatefulSet{}
	require.NoError(t, yaml.Unmarshal(data, set))
	set.Namespace = ns
	require.NoError(t, k.client.Create(t.Context(), set), "the example, as it is")
	require.Equal(t, "data", set.Spec.Template.Spec.Volumes[0].Name)
	require.NotNil(t, set.Spec.Template.Spec.Volumes[0].EmptyDir)

	d := deployment(ns, "recreate")
	require.NoError(t, k.client.Create(t.Context(), d))
	surge := deployment(ns, "surge")
	surge.Spec.Strategy = appsv1.DeploymentStrategy{}
	require.ErrorContains(t, k.client.Create(t.Context(), surge), `spec.strategy.rollingUpdate.maxSurge: "25%": lets a new pod start before the old one has gone, and a volume has one owner; allowed: 0; fix: write maxSurge: 0`)
	wrong := deployment(ns, "wrong")
	wrong.Annotations = map[string]string{"remora.dev/volumes": "data"}
	wrong.Spec.Template.Annotations["data.remora.dev/size"] = "20GiB"
	err = k.client.Create(t.Context(), wrong)
	require.ErrorContains(t, err, `2 problems`)
	require.ErrorContains(t, err, `is at the workload, where it does nothing`)
	require.ErrorContains(t, err, `data.remora.dev/size: "20GiB"`)
	claim := &appsv1.StatefulSet{Spec: appsv1.StatefulSetSpec{Selector: selector(), Template: template(), VolumeClaimTemplates: []corev1.PersistentVolumeClaim{{ObjectMeta: metav1.ObjectMeta{Name: "data"},
		Spec: corev1.PersistentVolumeClaimSpec{AccessModes: []corev1.PersistentVolumeAccessMode{"ReadWriteOnce"}, Resources: corev1.VolumeResourceRequirements{Requests: corev1.ResourceList{"storage": resource.MustParse("1Gi")}}}}}}}
	claim.Namespace, claim.Name = ns, "claim"
	require.ErrorContains(t, k.client.Create(t.Context(), claim), "is a Remora volume, and a volumeClaimTemplate has its name")

	job := &batchv1.Job{Spec: batchv1.JobSpec{Template: template()}}
	job.Namespace, job.Name = ns, "job"
	job.Spec.Template.Spec.RestartPolicy = corev1.RestartPolicyNever
	require.NoError(t, k.client.Create(t.Context(), job))
	cron := &batchv1.CronJob{Spec: batchv1.CronJobSpec{Schedule: "* * * * *", JobTemplate: batchv1.JobTemplateSpec{Spec: *job.Spec.DeepCopy()}}}
	cron.Spec.JobTemplate.Spec.Selector, cron.Spec.JobTemplate.Spec.Template = nil, template()
	cron.Spec.JobTemplate.Spec.Template.Spec.RestartPolicy = corev1.RestartPolicyNever
	cron.Namespace, cron.Name = ns, "cron"
	require.NoError(t, k.client.Create(t.Context(), cron))
	require.Equal(t, "data", cron.Spec.JobTemplate.Spec.Template.Spec.Volumes[0].Name)
	none := cron.DeepCopy()
	none.ObjectMeta = metav1.ObjectMeta{Namespace: ns, Name: "none"}
	none.Spec.JobTemplate.Spec.Template.Annotations["data.remora.dev/class"] = "none"
	require.ErrorContains(t, k.client.Create(t.Context(), none), `"none": is not a known class`)
}

// TestExamples applies the examples as they are.
func TestExamples(t *testing.T) {
	k := realCluster(t)
	ns := k.namespace(t, "pod-security.kubernetes.io/enforce", "baseline")
	files, err := filepath.Glob("../../examples/*.yaml")
	require.NoError(t, err)
	require.GreaterOrEqual(t, len(files), 4)
	for _, file := range files {
		for _, o := range objectsOf(t, file) {
			u := &unstructured.Unstructured{Object: o}
			if u.GetKind() != "VolumeClass" {
				u.SetNamespace(ns)
			}
			err := k.client.Create(t.Context(), u)
			if copies := map[string]string{"replicated.yaml": "3", "witnessed.yaml": "2"}[filepath.Base(file)]; copies != "" && err != nil { // for remora dev, as they say
				require.ErrorContains(t, err, "keeps "+copies+" copies, which mode node cannot do in this release")
				continue
			}
			require.NoError(t, err, "%s: %s %s", file, u.GetKind(), u.GetName())
			t.Cleanup(func() { _ = k.client.Delete(background(), u) })
		}
	}
}

// TestOldWorkload: one that is wrong and was there before its namespace opted in is not in the way of controllers that write its
// metadata; who changes its pods hears.
func TestOldWorkload(t *testing.T) {
	k := realCluster(t)
	ns := k.namespace(t, "remora.dev/injection", "disabled")
	d := deployment(ns, "old")
	d.Spec.Strategy = appsv1.DeploymentStrategy{}
	d.Spec.Template.Spec.Volumes = []corev1.Volume{{Name: "data"}}
	require.NoError(t, k.client.Create(t.Context(), d))
	opt := client.RawPatch("application/merge-patch+json", []byte(`{"metadata":{"labels":{"remora.dev/injection":"enabled"}}}`))
	require.NoError(t, k.client.Patch(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: ns}}, opt))
	merge := func(text string) error {
		return k.client.Patch(t.Context(), d.DeepCopy(), client.RawPatch("application/merge-patch+json", []byte(text)))
	}
	// The API server may not have heard of the label yet, so first until it has.
	seconds := 0
	eventually(t, func() error {
		seconds++
		return wantError(merge(fmt.Sprintf(`{"spec":{"minReadySeconds":%d}}`, seconds)), "maxSurge")
	})
	require.NoError(t, merge(`{"metadata":{"annotations":{"deployment.kubernetes.io/revision":"2"},"finalizers":["example.com/f"]}}`))
	require.ErrorContains(t, merge(`{"metadata":{"annotations":{"remora.dev/volumes":"x"}}}`), "is at the workload")
	require.NoError(t, k.client.Delete(t.Context(), d.DeepCopy()))
	require.NoError(t, merge(`{"metadata":{"finalizers":null}}`))
}

// TestClasses: a class counts from the moment that it is there, and one that cannot be used says why.
func TestClasses(t *testing.T) {
	k := realCluster(t)
	ns := k.namespace(t)
	class := func(name string, s map[string]any) {
		u := newClass()
		u.SetName(name)
		u.Object["spec"] = s
		require.NoError(t, k.client.Create(t.Context(), u))
		t.Cleanup(func() { _ = k.client.Delete(background(), u) })
	}
	pod := func(class string) *corev1.Pod {
		return annotated(ns, class, map[string]string{"remora.dev/volumes": "data", "data.remora.dev/class": class})
	}
	class("tiny", map[string]any{"defaultSize": "64Mi", "sidecar": map[string]any{"resources": map[string]any{"limits": map[string]any{"memory": "96Mi", "cpu": int64(1)}}}})
	p := pod("tiny")
	require.NoError(t, k.client.Create(t.Context(), p), "at once, whether the webhook has heard of it or not")
	require.Contains(t, p.Spec.InitContainers[0].Args, "--volume=name=data,size=67108864,class=tiny,replicas=1,sealing=on,trace=every")
	require.Equal(t, "96Mi", p.Spec.InitContainers[0].Resources.Limits.Memory().String())
	class("broken", map[string]any{"minSize": "2Gi", "maxSize": "1Gi"})
	require.ErrorContains(t, k.client.Create(t.Context(), pod("broken")), `"broken": is a class that cannot be used: VolumeClass/broken: spec.minSize: "2Gi": is above spec.maxSize "1Gi"`)
	class("witnessing", map[string]any{"replicas": int64(2), "witness": true, "defaultSize": "1Gi"})
	require.ErrorContains(t, k.client.Create(t.Context(), pod("witnessing")), "keeps 2 copies, which mode node cannot do", "the API server keeps the field; copies need dev mode so far")
	class("scratch", map[string]any{"engine": "local", "defaultSize": "1Gi"})
	local := pod("scratch")
	require.NoError(t, k.client.Create(t.Context(), local))
	require.Empty(t, local.Spec.InitContainers)
	require.Equal(t, "local", local.Spec.Volumes[0].CSI.VolumeAttributes["kind"])
}
