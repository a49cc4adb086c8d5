package webhook

import (
	"fmt"
	"reflect"
	"slices"

	corev1 "k8s.io/api/core/v1"

	"github.com/remora-storage/remora/webhook/spec"
)

// Verify looks at a pod at the end of its admission, when no webhook can change it any more, and says what is not as the injector
// made it: other webhooks take restartPolicy away, change containers that are not theirs, or put theirs first. What the API server
// and a service mesh may add to a sidecar (environment, mounts, limits) is no problem.
func Verify(t corev1.PodTemplateSpec, s spec.Spec, m Mode, cfg Config) []spec.Problem {
	problems := Check(t, nil, s, m)
	v := verifier{checker: checker{pod: &t.Spec, spec: s, mode: m}}
	if len(s.Served()) > 0 {
		v.sidecar(sidecar(s, m, cfg, t.Spec.SecurityContext), cfg)
		v.order()
	}
	v.podVolumes(cfg)
	v.led()
	return append(problems, v.problems...)
}

type verifier struct{ checker }

const otherWebhook = "exclude the pod, or init containers called remora, from the other mutating webhook (kubectl get mutatingwebhookconfigurations lists them)"

func (v *verifier) changed(key, value, what, allowed string) {
	v.bad(key, value, what+" after the injection", allowed, otherWebhook)
}

// sidecar compares the container with the one that the injector makes.
func (v *verifier) sidecar(want corev1.Container, cfg Config) {
	const key = "spec.initContainers[" + ContainerName + "]"
	i := slices.IndexFunc(v.pod.InitContainers, func(c corev1.Container) bool { return c.Name == ContainerName })
	if i < 0 {
		v.bad("spec.initContainers", ContainerName, "is missing: the pod was not injected, or another webhook took the sidecar away", "the sidecar that the injector makes",
			"look whether the MutatingWebhookConfiguration of Remora is there, and at the other mutating webhooks")
		return
	}
	have := v.pod.InitContainers[i]
	if p := have.RestartPolicy; p == nil || *p != corev1.ContainerRestartPolicyAlways {
		v.changed(key+".restartPolicy", restartPolicy(have), "was taken away", string(corev1.ContainerRestartPolicyAlways))
	}
	if !cfg.Allows(have.Image) {
		v.changed(key+".image", have.Image, "was changed", want.Image)
	}
	if len(have.Command) > 0 || !slices.Equal(have.Args, want.Args) {
		v.changed(key+".args", fmt.Sprint(append(slices.Clone(have.Command), have.Args...)), "was changed", fmt.Sprint(want.Args))
	}
	if !reflect.DeepEqual(handler(have.StartupProbe), handler(want.StartupProbe)) {
		v.changed(key+".startupProbe", "", "was changed", "as the injector wrote it")
	}
	if !reflect.DeepEqual(postStart(have), postStart(want)) {
		v.changed(key+".lifecycle.postStart", "", "was changed", "as the injector wrote it")
	}
	for _, e := range want.Env {
		if !slices.ContainsFunc(have.Env, func(h corev1.EnvVar) bool { return h.Name == e.Name && sameSource(h, e) }) {
			v.changed(key+".env", e.Name, "was changed", "as the injector wrote it")
		}
	}
	for _, w := range want.VolumeMounts {
		if !slices.ContainsFunc(have.VolumeMounts, func(h corev1.VolumeMount) bool { return sameMount(h, w) }) {
			v.changed(key+".volumeMounts", w.Name, "was changed", w.MountPath)
		}
	}
	v.rights(key, have.SecurityContext, want.SecurityContext)
}

// postStart is the hook that holds the next container back.
func postStart(c corev1.Container) *corev1.LifecycleHandler {
	if c.Lifecycle == nil {
		return nil
	}
	return c.Lifecycle.PostStart
}

func restartPolicy(c corev1.Container) string {
	if c.RestartPolicy == nil {
		return ""
	}
	return string(*c.RestartPolicy)
}

// handler is what a probe asks, without the API server's defaults.
func handler(p *corev1.Probe) corev1.HTTPGetAction {
	if p == nil || p.HTTPGet == nil {
		return corev1.HTTPGetAction{}
	}
	return corev1.HTTPGetAction{Path: p.HTTPGet.Path, Port: p.HTTPGet.Port, Host: p.HTTPGet.Host}
}

// sameSource compares what a variable is set to; the API server adds the version of a field reference.
func sameSource(a, b corev1.EnvVar) bool {
	field := func(e corev1.EnvVar) string {
		if e.ValueFrom == nil || e.ValueFrom.FieldRef == nil {
			return ""
		}
		return e.ValueFrom.FieldRef.FieldPath
	}
	return a.Value == b.Value && field(a) == field(b)
}

func sameMount(have, want corev1.VolumeMount) bool {
	propagation := func(m corev1.VolumeMount) corev1.MountPropagationMode {
		if m.MountPropagation == nil {
			return corev1.MountPropagationNone
		}
		return *m.MountPropagation
	}
	return have.Name == want.Name && have.MountPath == want.MountPath && have.SubPath == want.SubPath && have.SubPathExpr == want.SubPathExpr &&
		have.ReadOnly == want.ReadOnly && propagation(have) == propagation(want)
}

// rights compares what the sidecar may do. Fields of which the injector says nothing are free, but for capabilities.
func (v *verifier) rights(key string, have, want *corev1.SecurityContext) {
	if have == nil || want == nil {
		if have != nil || want != nil {
			v.changed(key+".securityContext", "", "was changed", "as the injector wrote it")
		}
		return
	}
	differs := func(h, w any) bool { return !reflect.ValueOf(w).IsNil() && !reflect.DeepEqual(h, w) }
	added := have.Capabilities != nil && len(have.Capabilities.Add) > 0
	for name, bad := range map[string]bool{
		"privileged":               differs(have.Privileged, want.Privileged),
		"runAsUser":                differs(have.RunAsUser, want.RunAsUser),
		"runAsGroup":               differs(have.RunAsGroup, want.RunAsGroup),
		"runAsNonRoot":             differs(have.RunAsNonRoot, want.RunAsNonRoot),
		"readOnlyRootFilesystem":   differs(have.ReadOnlyRootFilesystem, want.ReadOnlyRootFilesystem),
		"allowPrivilegeEscalation": differs(have.AllowPrivilegeEscalation, want.AllowPrivilegeEscalation),
		"capabilities":             added || differs(have.Capabilities, want.Capabilities),
		"seccompProfile":           differs(have.SeccompProfile, want.SeccompProfile),
	} {
		if bad {
			v.changed(key+".securityContext", name, "was changed", "as the injector wrote it")
		}
	}
}

// order refuses an init container that would wait for a volume before the sidecar serves it.
func (v *verifier) order() {
	for _, c := range v.pod.InitContainers {
		if c.Name == ContainerName {
			return
		}
		for _, m := range c.VolumeMounts {
			if _, ours := v.spec.Find(m.Name); ours {
				v.bad("spec.initContainers["+c.Name+"]", m.Name, "is mounted by an init container that stands before the sidecar, and would wait for it for ever", "remora before the containers that use its volumes", otherWebhook)
			}
		}
	}
}

// podVolumes compares the pod's volumes with those of the injection.
func (v *verifier) podVolumes(cfg Config) {
	var want []corev1.Volume
	if len(v.spec.Served()) > 0 {
		want = ownVolumes(v.mode, cfg)
	}
	for _, volume := range v.spec.Volumes {
		want = append(want, podVolume(v.mode, cfg, volume))
	}
	for _, w := range want {
		i := indexVolume(v.pod.Volumes, w.Name)
		switch {
		case i < 0:
			v.changed("spec.volumes", w.Name, "was taken away", "as the injector wrote it")
		case w.EmptyDir != nil && isEmptyDir(v.pod.Volumes[i]):
		case !reflect.DeepEqual(v.pod.Volumes[i], w):
			v.changed("spec.volumes", w.Name, "was changed", "as the injector wrote it")
		}
	}
}

// VerifyPlain looks at a pod that asks Remora for nothing, or opted out: it may not have what only the injector gives.
func VerifyPlain(t corev1.PodTemplateSpec, m Mode) []spec.Problem {
	c := checker{pod: &t.Spec, mode: m}
	for _, v := range t.Spec.Volumes {
		if isInline(v) {
			c.inline(v)
		}
	}
	for _, k := range t.Spec.InitContainers {
		if k.Name == ContainerName {
			c.bad("spec.initContainers", k.Name, "is the injector's container, and the pod asks for no volume", "containers of other names", "rename the container, or opt in")
		}
	}
	if text, ok := t.Annotations[spec.KeyStatus]; ok {
		c.bad(spec.KeyStatus, text, "is there, and the pod asks for no volume", "what the injector wrote", "remove the annotation")
	}
	return c.problems
}

// VerifyUpdate looks at a change of a running pod: its sidecar's image may become one that the administrator allows, and ephemeral
// containers may use the pod's volumes, but not the sidecar's own.
func VerifyUpdate(old, now corev1.PodTemplateSpec, cfg Config) []spec.Problem {
	c := checker{pod: &now.Spec}
	image := func(p corev1.PodSpec) string {
		i := slices.IndexFunc(p.InitContainers, func(c corev1.Container) bool { return c.Name == ContainerName })
		if i < 0 {
			return ""
		}
		return p.InitContainers[i].Image
	}
	before := image(old.Spec)
	if before == "" && !slices.ContainsFunc(now.Spec.Volumes, isInline) {
		return nil
	}
	if after := image(now.Spec); after != before && readStatus(now.Annotations).Mode == Privileged {
		c.bad("spec.initContainers["+ContainerName+"].image", after, "would end the mounts of a running pod: in privileged mode they do not outlive their container", before, "change it in the webhook (--image), and restart the workload")
	} else if after != before && !cfg.Allows(after) {
		c.bad("spec.initContainers["+ContainerName+"].image", after, "is not an image that this cluster's sidecars may have", cfg.image(), "ask the administrator, who allows images with --allow-image")
	}
	if was, is := old.Annotations[spec.KeyStatus], now.Annotations[spec.KeyStatus]; was != is {
		c.bad(spec.KeyStatus, is, "is the injector's, and a running pod's does not change", was, "leave it as it is")
	}
	for _, e := range now.Spec.EphemeralContainers {
		for _, m := range e.VolumeMounts {
			if spec.Reserved(m.Name) {
				c.bad("spec.ephemeralContainers["+e.Name+"].volumeMounts", m.Name, "is a volume reserved for the sidecar", "volumes of the pod's own", "remove the mount")
			}
		}
	}
	return c.problems
}
