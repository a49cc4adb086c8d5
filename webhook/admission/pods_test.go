package admission

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/remora-storage/remora/webhook"
)

// TestPodAsInjectedByHand says that a pod which the webhook injected is the one that `remora inject` writes, after all that the API
// server does to both; that Pod Security "restricted" takes it; and that an event says what happened.
func TestPodAsInjectedByHand(t *testing.T) {
	k := realCluster(t)
	ns, other := k.namespace(t), k.namespace(t, "remora.dev/injection", "disabled")
	pod := annotated(ns, "db-0", nil)
	text, err := json.Marshal(annotated(other, "db-0", nil))
	require.NoError(t, err)
	require.NoError(t, k.client.Create(t.Context(), pod))
	text = bytes.Replace(text, []byte("{"), []byte(`{"apiVersion":"v1","kind":"Pod",`), 1)
	out, err := webhook.Inject([]webhook.File{{Name: "pod", Data: text}}, webhook.Options{Mode: webhook.Node, Config: webhook.Config{Image: image}})
	require.NoError(t, err)
	byHand := &corev1.Pod{}
	require.NoError(t, json.Unmarshal(out.Files[0].Data, byHand))
	require.NoError(t, k.client.Create(t.Context(), byHand))
	require.Equal(t, byHand.Spec, pod.Spec)
	require.Equal(t, byHand.Annotations, pod.Annotations)
	require.Equal(t, "remora", pod.Spec.InitContainers[0].Name)
	require.Equal(t, "injected with data (class default, 1073741824 bytes)", k.event(t, pod, "Injected"))

	again := &corev1.Pod{}
	again.Namespace, again.Name, again.Annotations, again.Spec = ns, "db-1", pod.Annotations, *pod.Spec.DeepCopy()
	require.NoError(t, k.client.Create(t.Context(), again), "a pod that is injected already")
	require.Equal(t, pod.Spec, again.Spec)
}

// TestLimits: what a LimitRange gives every container the sidecar gets too, and a second injection does not take it away; a namespace
// whose quota wants limits takes the pod.
func TestLimits(t *testing.T) {
	k := realCluster(t)
	ns := k.namespace(t)
	limits := &corev1.LimitRange{Spec: corev1.LimitRangeSpec{Limits: []corev1.LimitRangeItem{{Type: corev1.LimitTypeContainer,
		Default: corev1.ResourceList{"memory": resource.MustParse("512Mi"), "cpu": resource.MustParse("1")}}}}}
	limits.Namespace, limits.Name = ns, "limits"
	require.NoError(t, k.client.Create(t.Context(), limits))
	eventually(t, func() error { // the API server hears of it after a while
		pod := annotated(ns, "p", nil)
		if err := k.client.Create(t.Context(), pod, client.DryRunAll); err != nil {
			return err
		}
		sidecar := pod.Spec.InitContainers[0].Resources
		if app := pod.Spec.Containers[0].Resources.Limits.Memory().String(); app != "512Mi" {
			return fmt.Errorf("no limit range yet: the app has %s", app)
		}
		require.Equal(t, "512Mi", sidecar.Limits.Memory().String())
		require.Equal(t, "1", sidecar.Limits.Cpu().String())
		require.Equal(t, "64Mi", sidecar.Requests.Memory().String())
		return nil
	})
}

// TestCanary: a second webhook takes what carries its revision's label, pod or namespace, and the first leaves that alone.
func TestCanary(t *testing.T) {
	k := realCluster(t)
	canary := k.second(t, func(c *Config) { c.Inject.Revision, c.Inject.Image = "canary", "remora:canary" })
	k.configureCanary(t, canary)
	stable, whole := k.namespace(t), k.namespace(t, "remora.dev/revision", "canary")
	for _, c := range []struct {
		ns, label, image, injector string
	}{{stable, "", image, ""}, {stable, "canary", "remora:canary", "canary"}, {whole, "", "remora:canary", "canary"}} {
		eventually(t, func() error {
			pod := annotated(c.ns, "p", nil)
			if c.label != "" {
				pod.Labels = map[string]string{"remora.dev/revision": c.label}
			}
			if err := k.client.Create(t.Context(), pod, client.DryRunAll); err != nil {
				return err
			}
			if len(pod.Spec.InitContainers) != 1 || pod.Spec.InitContainers[0].Image != c.image {
				return fmt.Errorf("%+v: %v", c, pod.Spec.InitContainers)
			}
			require.Equal(t, c.injector != "", strings.Contains(pod.Annotations["remora.dev/status"], `"injector":"canary"`))
			return nil
		})
	}
}

// configureCanary sends the pods of revision canary to the webhook at url, until the test is over.
func (k *k8s) configureCanary(t *testing.T, url string) {
	revision := func(expressions ...metav1.LabelSelectorRequirement) *metav1.LabelSelector {
		return &metav1.LabelSelector{MatchExpressions: expressions}
	}
	enabled := metav1.LabelSelectorRequirement{Key: "remora.dev/injection", Operator: metav1.LabelSelectorOpIn, Values: []string{"enabled"}}
	is := metav1.LabelSelectorRequirement{Key: "remora.dev/revision", Operator: metav1.LabelSelectorOpIn, Values: []string{"canary"}}
	isNot := metav1.LabelSelectorRequirement{Key: "remora.dev/revision", Operator: metav1.LabelSelectorOpDoesNotExist}
	require.NoError(t, k.apply(t.Context(), "injector/webhooks.yaml", func(u *unstructured.Unstructured) error {
		u.SetName("remora-canary")
		t.Cleanup(func() { _ = k.client.Delete(background(), u) })
		was := k.url
		k.url = url
		defer func() { k.url = was }()
		if err := k.local(u); err != nil {
			return err
		}
		hooks, _, err := unstructured.NestedSlice(u.Object, "webhooks")
		require.NoError(t, err)
		var both []any
		for _, h := range hooks {
			for i, s := range [][2]*metav1.LabelSelector{{revision(enabled, is), revision(isNot)}, {revision(enabled), revision(is)}} {
				hook := runtime.DeepCopyJSON(h.(map[string]any))
				hook["name"] = fmt.Sprint("r", i, ".", hook["name"])
				for j, key := range []string{"namespaceSelector", "objectSelector"} {
					data, err := runtime.DefaultUnstructuredConverter.ToUnstructured(s[j])
					require.NoError(t, err)
					hook[key] = data
				}
				both = append(both, hook)
			}
		}
		return unstructured.SetNestedSlice(u.Object, both, "webhooks")
	}))
}

// TestPrivilegedMode: a privileged sidecar is the administrator's to allow, for a namespace; what the webhook writes then is what `remora inject`
// writes; and the API server and Pod Security take it.
func TestPrivilegedMode(t *testing.T) {
	k := realCluster(t)
	k.configureCanary(t, k.second(t, func(c *Config) {
		c.Mode, c.Inject.Revision, c.Inject.Root = webhook.Privileged, "canary", "/mnt/nvme"
	}))
	no := k.namespace(t, "remora.dev/revision", "canary")
	eventually(t, func() error {
		return wantError(k.client.Create(t.Context(), annotated(no, "p", nil), client.DryRunAll), "kubectl label namespace "+no+" remora.dev/privileged=allowed")
	})
	strict := k.namespace(t, "remora.dev/revision", "canary", "remora.dev/privileged", "allowed")
	require.ErrorContains(t, k.client.Create(t.Context(), annotated(strict, "p", nil)), "is a Pod Security level that refuses privileged containers")
	for _, key := range []string{"remora.dev/mode", "remora.dev/privileged"} {
		require.ErrorContains(t, k.client.Create(t.Context(), annotated(k.namespace(t), "p", map[string]string{key: "privileged"})), key, "a pod that asks")
	}

	ns := k.namespace(t, "remora.dev/revision", "canary", "remora.dev/privileged", "allowed", "pod-security.kubernetes.io/enforce", "privileged")
	pod, plain := annotated(ns, "p", nil), annotated(ns, "p", nil)
	pod.Spec.ServiceAccountName, plain.Spec.ServiceAccountName = "default", "default" // as every pod has it in a cluster
	text, err := json.Marshal(plain)
	require.NoError(t, err)
	require.NoError(t, k.client.Create(t.Context(), pod))
	text = bytes.Replace(text, []byte("{"), []byte(`{"apiVersion":"v1","kind":"Pod",`), 1)
	out, err := webhook.Inject([]webhook.File{{Name: "pod", Data: text}}, webhook.Options{Mode: webhook.Privileged, Config: webhook.Config{Image: image, Revision: "canary", Root: "/mnt/nvme"}})
	require.NoError(t, err)
	byHand := &corev1.Pod{}
	require.NoError(t, json.Unmarshal(out.Files[0].Data, byHand))
	byHand.Name = "by-hand"
	require.NoError(t, k.client.Create(t.Context(), byHand), "injected already")
	require.Equal(t, byHand.Spec, pod.Spec)
	require.Equal(t, byHand.Annotations, pod.Annotations)
	require.Equal(t, "/mnt/nvme/.mounts/pods", pod.Spec.Volumes[len(pod.Spec.Volumes)-1].HostPath.Path)
	require.True(t, *pod.Spec.InitContainers[0].SecurityContext.Privileged)

	other := pod.DeepCopy()
	other.Spec.InitContainers[0].Image = image + "-next"
	require.ErrorContains(t, k.client.Update(t.Context(), other), "would end the mounts of a running pod")
}

// TestDryRun says that a dry run shows the injection and leaves nothing behind.
func TestDryRun(t *testing.T) {
	k := realCluster(t)
	ns := k.namespace(t)
	pod := annotated(ns, "dry", nil)
	require.NoError(t, k.client.Create(t.Context(), pod, client.DryRunAll))
	require.Equal(t, "remora", pod.Spec.InitContainers[0].Name)
	real := annotated(ns, "real", nil)
	require.NoError(t, k.client.Create(t.Context(), real))
	k.event(t, real, "Injected") // events go out in their order
	list := &eventsv1.EventList{}
	require.NoError(t, k.client.List(t.Context(), list, client.InNamespace(ns)))
	for _, e := range list.Items {
		require.NotEqual(t, "dry", e.Regarding.Name)
	}
}

// TestLeftAlone: who did not ask, or said no, is left as it is.
func TestLeftAlone(t *testing.T) {
	k := realCluster(t)
	ns := k.namespace(t)
	plain := annotated(ns, "plain", map[string]string{"example.com/a": "b"})
	plain.Spec.Containers[0].VolumeMounts = nil
	require.NoError(t, k.client.Create(t.Context(), plain))
	require.Empty(t, plain.Spec.InitContainers)

	for name, change := range map[string]func(*corev1.Pod){
		"label":      func(p *corev1.Pod) { p.Labels = map[string]string{"remora.dev/inject": "false"} },
		"annotation": func(p *corev1.Pod) { p.Annotations["remora.dev/inject"] = "false" },
	} {
		pod := annotated(ns, name, nil)
		pod.Spec.Volumes = []corev1.Volume{{Name: "data", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}}}
		change(pod)
		require.NoError(t, k.client.Create(t.Context(), pod))
		require.Empty(t, pod.Spec.InitContainers, name)
		require.NotNil(t, pod.Spec.Volumes[0].EmptyDir)
		if name == "annotation" {
			require.Equal(t, `not injected because its annotation remora.dev/inject is "false"`, k.event(t, pod, "Skipped"))
		}
	}
}

// TestNotOptedIn: in a namespace without the label nothing happens, and who applies annotations there is told.
func TestNotOptedIn(t *testing.T) {
	k := realCluster(t)
	ns := k.namespace(t, "remora.dev/injection", "disabled")
	eventually(t, func() error { // the API server knows its policies after a while
		k.warned.take()
		pod := annotated(ns, "p", nil)
		pod.Spec.Volumes = []corev1.Volume{{Name: "data"}}
		require.NoError(t, k.client.Create(t.Context(), pod, client.DryRunAll))
		require.Empty(t, pod.Spec.InitContainers)
		if told := k.warned.take(); !strings.Contains(told, "remora.dev/volumes does nothing here: the namespace did not opt in") {
			return fmt.Errorf("warned of %q", told)
		}
		return nil
	})
}

// TestSystemNamespaces: whatever somebody labels, pods of Kubernetes and of Remora itself do not wait for Remora.
func TestSystemNamespaces(t *testing.T) {
	k := realCluster(t)
	for _, name := range []string{"kube-system", "kube-public", "kube-node-lease", "remora-system"} {
		ns := &corev1.Namespace{}
		ns.Name = name
		require.NoError(t, client.IgnoreAlreadyExists(k.client.Create(t.Context(), ns)))
		label := func(ctx context.Context, value string) {
			require.NoError(t, k.client.Patch(ctx, ns, client.RawPatch(types.MergePatchType, []byte(`{"metadata":{"labels":{"remora.dev/injection":`+value+`}}}`))))
		}
		label(t.Context(), `"enabled"`)
		t.Cleanup(func() { label(background(), "null") })
		pod := annotated(name, "p", nil)
		pod.Spec.Volumes = []corev1.Volume{{Name: "data"}}
		require.NoError(t, k.client.Create(t.Context(), pod, client.DryRunAll))
		require.Empty(t, pod.Spec.InitContainers, name)
	}
	eventually(t, func() error { // by now the API server would know of a label
		pod := annotated(k.namespace(t), "p", nil)
		if err := k.client.Create(t.Context(), pod, client.DryRunAll); err != nil || len(pod.Spec.InitContainers) == 0 {
			return fmt.Errorf("not injected: %w", err)
		}
		return nil
	})
	pod := annotated("kube-system", "p", nil)
	pod.Spec.Volumes = []corev1.Volume{{Name: "data"}}
	require.NoError(t, k.client.Create(t.Context(), pod, client.DryRunAll))
	require.Empty(t, pod.Spec.InitContainers)
}

// TestMistypedLabel: a namespace whose label opts in to nothing is told so when the label is written. Its pods could not be told: the API server
// refuses a pod that mounts a volume it does not declare before any policy sees it.
func TestMistypedLabel(t *testing.T) {
	k := realCluster(t)
	for i, c := range []struct{ key, value, want string }{
		{"remora.dev/injection", "true", "remora.dev/injection=enabled"},
		{"remora.dev/inject", "enabled", "remora.dev/injection=enabled"},
		{"remora.dev/privileged", "true", "remora.dev/privileged=allowed"},
		{"remora.dev/injection", "enabled", ""},
		{"remora.dev/injection", "disabled", ""},
	} {
		eventually(t, func() error { // the API server knows its policies after a while
			k.warned.take()
			ns := &corev1.Namespace{}
			ns.Name, ns.Labels = fmt.Sprintf("mistyped-%d", i), map[string]string{c.key: c.value}
			require.NoError(t, k.client.Create(t.Context(), ns, client.DryRunAll))
			if told := k.warned.take(); !strings.Contains(told, c.want) || c.want == "" && told != "" {
				return fmt.Errorf("%s=%s: warned of %q", c.key, c.value, told)
			}
			return nil
		})
	}
}

// TestRefused: wrong annotations, and what a pod must not bring itself, are refused with every reason.
func TestRefused(t *testing.T) {
	k := realCluster(t)
	ns := k.namespace(t)
	ours := func(kind string) corev1.Volume {
		return corev1.Volume{Name: "theirs", VolumeSource: corev1.VolumeSource{CSI: &corev1.CSIVolumeSource{Driver: "remora.dev", VolumeAttributes: map[string]string{"kind": kind}}}}
	}
	sidecar := corev1.Container{Name: "remora", Image: image, RestartPolicy: new(corev1.ContainerRestartPolicyAlways), SecurityContext: restricted().Containers[0].SecurityContext}
	for name, c := range map[string]struct {
		change func(*corev1.Pod)
		want   []string
	}{
		"annotations": {func(p *corev1.Pod) {
			p.Annotations["remora.dev/image"], p.Annotations["data.remora.dev/size"], p.Annotations["data.remora.dev/hostPath"] = "evil", "20GiB", "/etc"
		}, []string{"3 problems", `remora.dev/image: "evil": is for the administrator`, `data.remora.dev/size: "20GiB"`, `data.remora.dev/hostPath: "/etc": is for the administrator`}},
		"another case":         {func(p *corev1.Pod) { p.Annotations = map[string]string{"Remora.dev/volumes": "data"} }, []string{"fix: write remora.dev/volumes"}},
		"class":                {func(p *corev1.Pod) { p.Annotations["data.remora.dev/class"] = "gold" }, []string{`"gold": is not a known class; allowed: default, `}},
		"volume of the driver": {func(p *corev1.Pod) { p.Spec.Volumes = append(p.Spec.Volumes, ours("disks")) }, []string{"is the driver of volumes that the injector makes"}},
		"the same without annotations": {func(p *corev1.Pod) {
			p.Annotations, p.Spec.Volumes = nil, []corev1.Volume{ours("disks"), {Name: "data"}}
		},
			[]string{"is the driver of volumes that the injector makes"}},
		"the same with a no": {func(p *corev1.Pod) {
			p.Annotations["remora.dev/inject"], p.Labels = "false", map[string]string{"remora.dev/inject": "false"}
			p.Spec.Volumes, p.Spec.InitContainers = []corev1.Volume{ours("mount"), {Name: "data"}}, []corev1.Container{sidecar}
		}, []string{"is the driver of volumes that the injector makes", "is the injector's container"}},
		"sidecar of one's own": {func(p *corev1.Pod) { p.Spec.InitContainers = []corev1.Container{sidecar} }, []string{"is a container name reserved for the injector"}},
		"the sidecar's volume": {func(p *corev1.Pod) {
			p.Spec.Containers[0].VolumeMounts = append(p.Spec.Containers[0].VolumeMounts, corev1.VolumeMount{Name: "remora-disks", MountPath: "/disks"})
		}, []string{"is a volume reserved for the sidecar"}},
	} {
		t.Run(name, func(t *testing.T) {
			pod := annotated(ns, "p", nil)
			c.change(pod)
			err := k.client.Create(t.Context(), pod)
			require.Error(t, err)
			require.Contains(t, err.Error(), "denied the request: remora: ")
			for _, w := range c.want {
				require.Contains(t, err.Error(), w)
			}
		})
	}
}

// TestRunningPod: of a running pod the sidecar's image may change to what the administrator allows, and ephemeral containers get no
// more than other containers.
func TestRunningPod(t *testing.T) {
	k := realCluster(t)
	pod := annotated(k.namespace(t), "p", nil)
	require.NoError(t, k.client.Create(t.Context(), pod))
	setImage := func(image string) error {
		return k.client.Patch(t.Context(), pod.DeepCopy(), client.RawPatch("application/strategic-merge-patch+json",
			fmt.Appendf(nil, `{"spec":{"initContainers":[{"name":"remora","image":%q}]}}`, image)))
	}
	require.ErrorContains(t, setImage("evil:1"), `"evil:1": is not an image that this cluster's sidecars may have; allowed: remora:test; fix: ask the administrator`)
	require.NoError(t, setImage("remora:v2"))
	require.NoError(t, setImage(image))
	label := client.RawPatch("application/merge-patch+json", []byte(`{"metadata":{"labels":{"a":"b"}}}`))
	require.NoError(t, k.client.Patch(t.Context(), pod.DeepCopy(), label))
	k.warned.take()
	size := client.RawPatch("application/merge-patch+json", []byte(`{"metadata":{"annotations":{"data.remora.dev/size":"9Gi","a":"b"}}}`))
	require.NoError(t, k.client.Patch(t.Context(), pod.DeepCopy(), size))
	require.Equal(t, "data.remora.dev/size: does nothing in a pod that is there already; fix: change the workload's template, or make the pod anew", strings.TrimSpace(k.warned.take()))
	require.NoError(t, k.client.Patch(t.Context(), pod.DeepCopy(), label))
	require.Empty(t, k.warned.take(), "said once")
	status := client.RawPatch("application/merge-patch+json", []byte(`{"metadata":{"annotations":{"remora.dev/status":null}}}`))
	require.ErrorContains(t, k.client.Patch(t.Context(), pod.DeepCopy(), status), "a running pod's does not change")

	debug := func(volume string) error {
		now := &corev1.Pod{}
		require.NoError(t, k.client.Get(t.Context(), client.ObjectKeyFromObject(pod), now))
		now.Spec.EphemeralContainers = []corev1.EphemeralContainer{{EphemeralContainerCommon: corev1.EphemeralContainerCommon{Name: "debug", Image: "sh", TerminationMessagePolicy: "File",
			ImagePullPolicy: "Always", SecurityContext: restricted().Containers[0].SecurityContext, VolumeMounts: []corev1.VolumeMount{{Name: volume, MountPath: "/x"}}}}}
		return k.client.SubResource("ephemeralcontainers").Update(t.Context(), now)
	}
	require.ErrorContains(t, debug("remora-disks"), "spec.ephemeralContainers[debug].volumeMounts: \"remora-disks\": is a volume reserved for the sidecar")
	require.NoError(t, debug("data"))
}

// TestLargeRequest: two objects of the largest size pass, more is refused and not read.
func TestLargeRequest(t *testing.T) {
	h := newGoldenServer(t, webhook.Node, nil)
	pod := annotated("default", "p", nil)
	pod.Annotations["example.com/large"] = strings.Repeat("x", 3<<20)
	text, err := json.Marshal(pod)
	require.NoError(t, err)
	text = bytes.Replace(text, []byte("{"), []byte(`{"apiVersion":"v1","kind":"Pod",`), 1)
	r := h.ask(t, PathMutatePods, "Pod", text)
	require.True(t, r.Allowed)
	require.NotEmpty(t, r.Patch)
	require.Less(t, len(r.Patch), 10_000, "the patch holds what is new, not the whole pod")
	text = bytes.Replace(text, []byte("xxxx"), bytes.Repeat([]byte("x"), 5<<20), 1)
	r = h.ask(t, PathMutatePods, "Pod", text)
	require.False(t, r.Allowed)
	require.EqualValues(t, 413, r.Result.Code)
}
