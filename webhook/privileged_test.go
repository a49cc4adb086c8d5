package webhook

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/yaml"

	"github.com/remora-storage/remora/webhook/spec"
)

// TestPermit: a namespace must be allowed by its administrator, and must not enforce what would refuse the pod later.
func TestPermit(t *testing.T) {
	require.Empty(t, Permit(Node, "n", nil))
	require.Empty(t, Permit(Privileged, "n", map[string]string{LabelPrivileged: "allowed"}))
	require.Empty(t, Permit(Privileged, "n", map[string]string{LabelPrivileged: "allowed", podSecurity: "privileged"}))
	for _, labels := range []map[string]string{nil, {LabelPrivileged: "yes"}, {podSecurity: "privileged"}} {
		problems := Permit(Privileged, "n", labels)
		require.Len(t, problems, 1)
		require.Contains(t, problems[0].String(), "kubectl label namespace n remora.dev/privileged=allowed")
	}
	for _, level := range []string{"restricted", "baseline", "nonsense"} {
		problems := Permit(Privileged, "n", map[string]string{LabelPrivileged: "allowed", podSecurity: level})
		require.Len(t, problems, 1)
		require.Contains(t, problems[0].String(), `"`+level+`": is a Pod Security level that refuses privileged containers`)
	}
}

func TestCheckRoot(t *testing.T) {
	for _, good := range []string{"", "/mnt/nvme", DefaultRoot} {
		require.NoError(t, CheckRoot(good))
	}
	for _, bad := range []string{"/", "mnt", "/mnt/", "/mnt/../etc", "//mnt"} {
		require.ErrorContains(t, CheckRoot(bad), "allowed: an absolute path", bad)
	}
}

// TestVerifyPrivileged: what other webhooks may not do to a pod of privileged mode, and what nobody may do to a running one.
func TestVerifyPrivileged(t *testing.T) {
	data, err := os.ReadFile(filepath.Join("testdata", "subpaths", "privileged.yaml"))
	require.NoError(t, err)
	var pod corev1.Pod
	require.NoError(t, yaml.Unmarshal(data, &pod))
	made := corev1.PodTemplateSpec{ObjectMeta: pod.ObjectMeta, Spec: pod.Spec}
	s, problems := spec.Parse(pod.Annotations, spec.BuiltIn(), spec.DefaultClass)
	require.Empty(t, problems)
	require.Empty(t, Verify(made, s, Privileged, Config{}))
	for name, change := range map[string]func(*corev1.PodTemplateSpec){
		"subPathExpr": func(p *corev1.PodTemplateSpec) { p.Spec.Containers[0].VolumeMounts[0].SubPathExpr = "" },
		"data].subPath": func(p *corev1.PodTemplateSpec) {
			p.Spec.Containers[0].VolumeMounts[0].SubPathExpr = "$(REMORA_POD_UID)/data2"
		},
		"REMORA_POD_UID": func(p *corev1.PodTemplateSpec) {
			p.Spec.Containers[0].Env[1] = corev1.EnvVar{Name: uidVariable, Value: "other"}
		},
		"spec.volumes":     func(p *corev1.PodTemplateSpec) { p.Spec.Volumes[1].HostPath.Path = "/" },
		"startupProbe":     func(p *corev1.PodTemplateSpec) { p.Spec.InitContainers[0].StartupProbe = nil },
		"volumeMounts: \"": func(p *corev1.PodTemplateSpec) { p.Spec.InitContainers[0].VolumeMounts[0].MountPropagation = nil },
	} {
		changed := *made.DeepCopy()
		change(&changed)
		problems := Verify(changed, s, Privileged, Config{})
		require.NotEmpty(t, problems, name)
		require.Contains(t, problems[0].String(), name)
	}

	upgraded := *made.DeepCopy()
	upgraded.Spec.InitContainers[0].Image = "remora:2"
	problems = VerifyUpdate(made, upgraded, Config{AllowedImages: []string{"remora:2"}})
	require.Len(t, problems, 1)
	require.Contains(t, problems[0].String(), "would end the mounts of a running pod")
}
