package admission

import (
	"crypto/tls"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/stretchr/testify/require"
	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	ctrladmission "sigs.k8s.io/controller-runtime/pkg/webhook/admission"
)

// vendor is a mutating webhook of somebody else, which does change to every pod of a namespace. "zz" in the name lets it come after
// ours; again says whether it is called again when others change the pod.
func vendor(t *testing.T, k *k8s, ns string, again admissionregistrationv1.ReinvocationPolicyType, change func(*corev1.Pod)) {
	cert, key, err := k.server.Certificate("127.0.0.1")
	require.NoError(t, err)
	pair, err := tls.X509KeyPair(cert, key)
	require.NoError(t, err)
	s := httptest.NewUnstartedServer(&ctrladmission.Webhook{Handler: ctrladmission.HandlerFunc(func(_ ctx, req ctrladmission.Request) ctrladmission.Response {
		pod := &corev1.Pod{}
		if err := json.Unmarshal(req.Object.Raw, pod); err != nil {
			return ctrladmission.Errored(http.StatusBadRequest, err)
		}
		change(pod)
		now, err := json.Marshal(pod)
		if err != nil {
			return ctrladmission.Errored(http.StatusBadRequest, err)
		}
		return ctrladmission.PatchResponseFromRaw(req.Object.Raw, now)
	})})
	s.TLS = &tls.Config{Certificates: []tls.Certificate{pair}}
	s.StartTLS()
	t.Cleanup(s.Close)
	url, fail, none, scope := s.URL, admissionregistrationv1.Fail, admissionregistrationv1.SideEffectClassNone, admissionregistrationv1.NamespacedScope
	seconds := int32(30)
	c := &admissionregistrationv1.MutatingWebhookConfiguration{}
	c.Name = "zz-vendor-" + ns
	c.Webhooks = []admissionregistrationv1.MutatingWebhook{{
		Name: "pods.vendor.example", AdmissionReviewVersions: []string{"v1"}, FailurePolicy: &fail, SideEffects: &none, TimeoutSeconds: &seconds, ReinvocationPolicy: &again,
		ClientConfig: admissionregistrationv1.WebhookClientConfig{URL: &url, CABundle: k.server.CA},
		Rules: []admissionregistrationv1.RuleWithOperations{{Operations: []admissionregistrationv1.OperationType{admissionregistrationv1.Create},
			Rule: admissionregistrationv1.Rule{APIGroups: []string{""}, APIVersions: []string{"v1"}, Resources: []string{"pods"}, Scope: &scope}}},
	}}
	c.Webhooks[0].NamespaceSelector = inNamespace(ns)
	require.NoError(t, k.client.Create(t.Context(), c))
	t.Cleanup(func() { _ = k.client.Delete(background(), c) })
	// It is called when a pod without any annotation is changed by it.
	eventually(t, func() error {
		probe := annotated(ns, "probe", map[string]string{"vendor": "probe"})
		probe.Spec.Volumes = []corev1.Volume{{Name: "data"}}
		if err := k.client.Create(t.Context(), probe, client.DryRunAll); err != nil {
			return err
		}
		if probe.Labels["vendor"] != "was-here" {
			return errNotCalled
		}
		return nil
	})
}

// TestOtherWebhooks: what other webhooks do to an injected pod is repaired where they come once, and refused where they insist.
func TestOtherWebhooks(t *testing.T) {
	k := realCluster(t)
	here := func(p *corev1.Pod) {
		if p.Labels == nil {
			p.Labels = map[string]string{}
		}
		p.Labels["vendor"] = "was-here"
	}
	sidecar := func(p *corev1.Pod) *corev1.Container {
		for i := range p.Spec.InitContainers {
			if p.Spec.InitContainers[i].Name == "remora" {
				return &p.Spec.InitContainers[i]
			}
		}
		return &corev1.Container{}
	}
	first := func(c corev1.Container) func(*corev1.Pod) {
		return func(p *corev1.Pod) {
			for _, have := range p.Spec.InitContainers {
				if have.Name == c.Name {
					return
				}
			}
			c.Image, c.SecurityContext = "vendor", restricted().Containers[0].SecurityContext
			p.Spec.InitContainers = append([]corev1.Container{c}, p.Spec.InitContainers...)
		}
	}
	const once, insists = admissionregistrationv1.NeverReinvocationPolicy, admissionregistrationv1.IfNeededReinvocationPolicy
	for name, c := range map[string]struct {
		change  func(*corev1.Pod)
		again   admissionregistrationv1.ReinvocationPolicyType
		refusal string
	}{
		"takes restartPolicy away": {func(p *corev1.Pod) { sidecar(p).RestartPolicy = nil }, once, ""},
		"takes it away again":      {func(p *corev1.Pod) { sidecar(p).RestartPolicy = nil }, insists, "restartPolicy"},
		"another image":            {func(p *corev1.Pod) { sidecar(p).Image = "mirror.example/" + image }, insists, `.image: "mirror.example/remora:test": was changed after the injection`},
		"more rights": {func(p *corev1.Pod) {
			if sc := sidecar(p).SecurityContext; sc != nil {
				sc.RunAsUser = new(int64(1000))
			}
		}, insists, `securityContext: "runAsUser": was changed after the injection`},
		"removes it": {func(p *corev1.Pod) {
			if len(p.Spec.InitContainers) > 0 {
				p.Spec.InitContainers = nil
			}
		}, insists, "sidecar"},
		"comes first": {first(corev1.Container{Name: "mesh", RestartPolicy: new(corev1.ContainerRestartPolicyAlways)}), insists, ""},
		"comes first, and waits": {func(p *corev1.Pod) {
			if p.Annotations["remora.dev/status"] != "" {
				first(corev1.Container{Name: "seed", VolumeMounts: []corev1.VolumeMount{{Name: "data", MountPath: "/data"}}})(p)
			}
			for i, c := range p.Spec.InitContainers { // and moves itself to the front again
				if c.Name == "seed" {
					p.Spec.InitContainers[0], p.Spec.InitContainers[i] = p.Spec.InitContainers[i], p.Spec.InitContainers[0]
				}
			}
		}, insists, `spec.initContainers[seed]: "data": is mounted by an init container that stands before the sidecar`},
		"mounts the sidecar's volume": {func(p *corev1.Pod) {
			if p.Annotations["remora.dev/status"] == "" || len(p.Spec.Containers[0].VolumeMounts) > 1 {
				return
			}
			p.Spec.Containers[0].VolumeMounts = append(p.Spec.Containers[0].VolumeMounts, corev1.VolumeMount{Name: "remora-disks", MountPath: "/steal"})
		}, insists, `"remora-disks": is a volume reserved for the sidecar`},
		"adds environment": {func(p *corev1.Pod) {
			if c := sidecar(p); len(c.Env) == 4 {
				c.Env = append(c.Env, corev1.EnvVar{Name: "VENDOR", Value: "x"})
			}
		}, once, ""},
	} {
		t.Run(name, func(t *testing.T) {
			ns := k.namespace(t)
			vendor(t, k, ns, c.again, func(p *corev1.Pod) { here(p); c.change(p) })
			pod := annotated(ns, "p", nil)
			err := k.client.Create(t.Context(), pod)
			if c.refusal != "" {
				require.ErrorContains(t, err, c.refusal)
				return
			}
			require.NoError(t, err)
			require.Equal(t, "was-here", pod.Labels["vendor"])
			require.Equal(t, corev1.ContainerRestartPolicyAlways, *sidecar(pod).RestartPolicy)
			require.Equal(t, image, sidecar(pod).Image)
		})
	}
}

// TestWithoutWebhook: while nobody answers, a pod that asks for volumes is refused, and no other is; without the configuration the
// API server's own policy refuses it.
func TestWithoutWebhook(t *testing.T) {
	k := realCluster(t)
	ns := k.namespace(t)
	require.NoError(t, k.stop())
	t.Cleanup(func() { k.run(t); require.NoError(t, k.answering(background())) })

	c := &admissionregistrationv1.MutatingWebhookConfiguration{}
	require.NoError(t, k.client.Get(t.Context(), client.ObjectKey{Name: "remora"}, c))
	before := c.DeepCopy()
	t.Cleanup(func() {
		now := &admissionregistrationv1.MutatingWebhookConfiguration{}
		require.NoError(t, k.client.Get(background(), client.ObjectKey{Name: "remora"}, now))
		now.Webhooks = before.Webhooks
		require.NoError(t, k.client.Update(background(), now))
	})
	require.ErrorContains(t, k.client.Create(t.Context(), annotated(ns, "p", nil)), "failed calling webhook")
	no := annotated(ns, "no", nil)
	no.Labels = map[string]string{"remora.dev/inject": "false"}
	no.Spec.Volumes = []corev1.Volume{{Name: "data"}}
	require.NoError(t, k.client.Create(t.Context(), no), "who says no does not wait for the webhook")
	byAnnotation := annotated(ns, "no-too", nil)
	byAnnotation.Annotations["remora.dev/inject"] = "false"
	byAnnotation.Spec.Volumes = []corev1.Volume{{Name: "data"}}
	require.NoError(t, k.client.Create(t.Context(), byAnnotation))
	plain := annotated(ns, "plain", map[string]string{"a": "b"})
	plain.Spec.Volumes = []corev1.Volume{{Name: "data"}}
	require.NoError(t, k.client.Create(t.Context(), plain))

	// No webhook takes the pod any more, as if somebody had deleted the configuration.
	require.NoError(t, k.client.Get(t.Context(), client.ObjectKey{Name: "remora"}, c))
	c.Webhooks[0].NamespaceSelector = inNamespace("nowhere")
	require.NoError(t, k.client.Update(t.Context(), c))
	v := &admissionregistrationv1.ValidatingWebhookConfiguration{}
	require.NoError(t, k.client.Get(t.Context(), client.ObjectKey{Name: "remora"}, v))
	hooks := v.DeepCopy().Webhooks
	for i := range v.Webhooks {
		v.Webhooks[i].NamespaceSelector = inNamespace("nowhere")
	}
	require.NoError(t, k.client.Update(t.Context(), v))
	t.Cleanup(func() {
		now := &admissionregistrationv1.ValidatingWebhookConfiguration{}
		require.NoError(t, k.client.Get(background(), client.ObjectKey{Name: "remora"}, now))
		now.Webhooks = hooks
		require.NoError(t, k.client.Update(background(), now))
	})
	eventually(t, func() error {
		pod := annotated(ns, "q", nil)
		pod.Spec.Volumes = []corev1.Volume{{Name: "data"}}
		return wantError(k.client.Create(t.Context(), pod, client.DryRunAll), "the pod asks for Remora volumes and was not injected")
	})
}
