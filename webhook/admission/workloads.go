package admission

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"

	admissionv1 "k8s.io/api/admission/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/webhook/admission"

	"github.com/remora-storage/remora/webhook"
	"github.com/remora-storage/remora/webhook/spec"
)

// workloads handles the admission of what makes pods: it is checked as `remora inject` would.
type workloads struct {
	mode    webhook.Mode
	config  webhook.Config
	classes *classes
	permits permits
}

// mutate gives templates the volumes that the API server misses in them.
func (h *workloads) mutate(_ context.Context, req admission.Request) (admission.Response, outcome) {
	if req.SubResource != "" || req.Operation != admissionv1.Create && req.Operation != admissionv1.Update {
		return admission.Allowed(""), unchanged
	}
	now, err := webhook.Complete(req.Object.Raw)
	switch {
	case err != nil:
		return admission.Errored(http.StatusBadRequest, err), failed
	case bytes.Equal(now, req.Object.Raw):
		return admission.Allowed(""), unchanged
	}
	return admission.PatchResponseFromRaw(req.Object.Raw, now), completed
}

func (h *workloads) validate(ctx context.Context, req admission.Request) (admission.Response, outcome) {
	if req.SubResource != "" || req.Operation != admissionv1.Create && req.Operation != admissionv1.Update {
		return admission.Allowed(""), unchanged
	}
	if req.Operation == admissionv1.Update {
		same, err := nothingOurs(req.OldObject.Raw, req.Object.Raw)
		if err != nil {
			return admission.Errored(http.StatusBadRequest, err), failed
		}
		if same {
			return admission.Allowed(""), unchanged
		}
	}
	_, result, problems, err := h.classes.inject(ctx, req.Object.Raw, webhook.Options{Mode: h.mode, Config: h.config})
	if err == nil && len(problems)+len(result.Workloads) > 0 {
		var more []spec.Problem
		more, err = h.permits.problems(ctx, req.Namespace)
		problems = append(more, problems...)
	}
	switch {
	case err != nil:
		return admission.Errored(http.StatusInternalServerError, fmt.Errorf("remora: look up what the workload asks for: %w", err)), failed
	case len(problems) > 0:
		return refuse(problems), refused
	case len(result.Workloads) > 0:
		return admission.Allowed(""), accepted
	}
	return admission.Allowed(""), unchanged
}

// nothingOurs says whether an update concerns no pods: the spec is the same, and so are our annotations. Controllers update
// workloads all the time (revision annotations, finalizers), also such as were there before their namespace opted in, and must
// not be stopped.
func nothingOurs(old, now []byte) (bool, error) {
	type object struct {
		Metadata metav1.ObjectMeta `json:"metadata"`
		Spec     json.RawMessage   `json:"spec"`
	}
	var o, n object
	if err := json.Unmarshal(old, &o); err != nil {
		return false, err
	}
	if err := json.Unmarshal(now, &n); err != nil {
		return false, err
	}
	ours := func(all map[string]string) map[string]string {
		all = maps.Clone(all)
		maps.DeleteFunc(all, func(key, _ string) bool { return !spec.Ours(key) })
		return all
	}
	if n.Metadata.DeletionTimestamp != nil {
		return true, nil
	}
	return bytes.Equal(o.Spec, n.Spec) && maps.Equal(ours(o.Metadata.Annotations), ours(n.Metadata.Annotations)), nil
}
