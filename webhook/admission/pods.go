package admission

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"

	admissionv1 "k8s.io/api/admission/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/events"
	"sigs.k8s.io/controller-runtime/pkg/webhook/admission"

	"github.com/remora-storage/remora/webhook"
	"github.com/remora-storage/remora/webhook/spec"
)

// pods handles the admission of pods.
type pods struct {
	mode    webhook.Mode
	config  webhook.Config
	classes *classes
	places  placement
	permits permits
	events  events.EventRecorder
}

// mutate injects a new pod.
func (h *pods) mutate(ctx context.Context, req admission.Request) (admission.Response, outcome) {
	if req.Operation != admissionv1.Create || req.SubResource != "" {
		return admission.Allowed(""), unchanged
	}
	var object struct {
		Metadata metav1.ObjectMeta `json:"metadata"`
	}
	if err := json.Unmarshal(req.Object.Raw, &object); err != nil {
		return admission.Errored(http.StatusBadRequest, err), failed
	}
	var lookup error
	place := func(w webhook.Workload) (nodes []string, problems []spec.Problem) {
		pod := &corev1.Pod{ObjectMeta: object.Metadata, Spec: w.Template.Spec}
		pod.Namespace = req.Namespace
		nodes, problems, lookup = h.places.nodes(ctx, pod, w.Spec)
		return nodes, problems
	}
	now, result, problems, err := h.classes.inject(ctx, req.Object.Raw, webhook.Options{Mode: h.mode, Config: h.config, Place: place})
	if err == nil && len(problems)+len(result.Workloads) > 0 {
		var more []spec.Problem
		more, err = h.permits.problems(ctx, req.Namespace)
		problems = append(more, problems...)
	}
	switch {
	case err != nil || lookup != nil:
		return admission.Errored(http.StatusInternalServerError, fmt.Errorf("remora: look up what the pod asks for: %w", either(err, lookup))), failed
	case len(problems) > 0:
		return refuse(problems), refused
	case string(now) == string(req.Object.Raw):
		return admission.Allowed(""), unchanged
	}
	return admission.PatchResponseFromRaw(req.Object.Raw, now), injected
}

func either(a, b error) error {
	if a != nil {
		return a
	}
	return b
}

// refuse answers with all the problems.
func refuse(problems []spec.Problem) admission.Response {
	lines := make([]string, len(problems))
	for i, p := range problems {
		lines[i] = p.String()
	}
	text := "remora: " + lines[0]
	if len(lines) > 1 {
		text = fmt.Sprintf("remora: %d problems:\n- %s", len(lines), strings.Join(lines, "\n- "))
	}
	return admission.Denied(text)
}

// validate looks at a pod that no webhook will change any more.
func (h *pods) validate(ctx context.Context, req admission.Request) (admission.Response, outcome) {
	pod := &corev1.Pod{}
	if err := json.Unmarshal(req.Object.Raw, pod); err != nil {
		return admission.Errored(http.StatusBadRequest, err), failed
	}
	now := corev1.PodTemplateSpec{ObjectMeta: pod.ObjectMeta, Spec: pod.Spec}
	if req.Operation == admissionv1.Update {
		old := &corev1.Pod{}
		if err := json.Unmarshal(req.OldObject.Raw, old); err != nil {
			return admission.Errored(http.StatusBadRequest, err), failed
		}
		if problems := webhook.VerifyUpdate(corev1.PodTemplateSpec{ObjectMeta: old.ObjectMeta, Spec: old.Spec}, now, h.config); len(problems) > 0 {
			return refuse(problems), refused
		}
		return admission.Allowed("").WithWarnings(idle(old.Annotations, pod.Annotations)...), unchanged
	}
	if req.Operation != admissionv1.Create || req.SubResource != "" {
		return admission.Allowed(""), unchanged
	}
	good, bad, err := h.classes.all(ctx)
	if err != nil {
		return admission.Errored(http.StatusInternalServerError, fmt.Errorf("remora: look up classes: %w", err)), failed
	}
	return h.verify(ctx, req, pod, now, good, bad)
}

// idle warns of annotations of ours that were changed in a running pod, where nobody reads them any more.
func idle(old, now map[string]string) (warnings []string) {
	for _, key := range slices.Sorted(maps.Keys(now)) {
		if was, there := old[key]; spec.Ours(key) && key != spec.KeyStatus && (!there || was != now[key]) {
			warnings = append(warnings, key+": does nothing in a pod that is there already; fix: change the workload's template, or make the pod anew")
		}
	}
	return warnings
}

// verify compares a new pod with what its annotations ask for.
func (h *pods) verify(ctx context.Context, req admission.Request, pod *corev1.Pod, t corev1.PodTemplateSpec, good spec.Classes, bad map[string][]spec.Problem) (admission.Response, outcome) {
	if !spec.Wanted(pod.Annotations) || pod.Labels[spec.KeyInject] == "false" {
		if problems := webhook.VerifyPlain(t, h.mode); len(problems) > 0 {
			return refuse(problems), refused
		}
		if why := skipped(pod); why != "" {
			h.event(req, pod, "Skipped", "Skip", "not injected because %s", why)
		}
		return admission.Allowed(""), unchanged
	}
	known := spec.BuiltIn()
	for name, c := range good {
		known[name] = c
	}
	s, problems := spec.Parse(pod.Annotations, known, spec.DefaultClass)
	if found, err := h.classes.unknown(ctx, problems, known, bad); err != nil {
		return admission.Errored(http.StatusInternalServerError, fmt.Errorf("remora: look up classes: %w", err)), failed
	} else if found {
		s, problems = spec.Parse(pod.Annotations, known, spec.DefaultClass)
	}
	if len(problems) > 0 {
		return refuse(explain(problems, bad)), refused
	}
	problems, err := h.permits.problems(ctx, req.Namespace)
	if err != nil {
		return admission.Errored(http.StatusInternalServerError, fmt.Errorf("remora: %w", err)), failed
	}
	if problems = append(problems, webhook.Verify(t, s, h.mode, h.config)...); len(problems) > 0 {
		return refuse(problems), refused
	}
	h.event(req, pod, "Injected", "Inject", "%s", told(s))
	return admission.Allowed(""), injected
}

// skipped says why a pod that mentions Remora is left alone; empty for one that does not.
func skipped(pod *corev1.Pod) string {
	switch {
	case pod.Labels[spec.KeyInject] == "false":
		return "its label " + spec.KeyInject + ` is "false"`
	case pod.Annotations[spec.KeyInject] == "false":
		return "its annotation " + spec.KeyInject + ` is "false"`
	}
	return ""
}

// told is what the event of an injection says.
func told(s spec.Spec) string {
	volumes := make([]string, len(s.Volumes))
	for i, v := range s.Volumes {
		volumes[i] = fmt.Sprintf("%s (class %s, %d bytes)", v.Name, v.Class, v.Size)
	}
	return fmt.Sprintf("injected with %s", strings.Join(volumes, ", "))
}

// event tells of a pod, but not on a dry run. The pod has its UID by now: the API server gives it before it validates.
func (h *pods) event(req admission.Request, pod *corev1.Pod, reason, action, format string, args ...any) {
	if h.events == nil || req.DryRun != nil && *req.DryRun {
		return
	}
	const longest = 1000
	text := fmt.Sprintf(format, args...)
	if len(text) > longest {
		text = text[:longest]
	}
	about := &corev1.ObjectReference{APIVersion: "v1", Kind: "Pod", Namespace: req.Namespace, Name: pod.Name, UID: pod.UID}
	h.events.Eventf(about, nil, corev1.EventTypeNormal, reason, action, "%s", text)
}
