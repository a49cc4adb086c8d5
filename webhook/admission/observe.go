package admission

import (
	"context"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"sigs.k8s.io/controller-runtime/pkg/webhook/admission"

	"github.com/remora-storage/remora/telemetry"
)

// outcome is how a request ended; it is the label "outcome" of the metrics.
type outcome string

const (
	injected  outcome = "injected"  // a pod has its sidecar: it was added, or is verified to be there
	accepted  outcome = "accepted"  // the template of a workload that asks for volumes is right
	completed outcome = "completed" // the template of a workload got volumes that its containers mount
	unchanged outcome = "unchanged" // nothing was to be done
	refused   outcome = "refused"   // a person has to change something
	failed    outcome = "failed"    // we could not tell
)

// handle is a handler that says how it ended.
type handle func(context.Context, admission.Request) (admission.Response, outcome)

// observer counts, times and traces admissions.
type observer struct {
	spans    *telemetry.Recorder
	duration *prometheus.HistogramVec
}

func newObserver(r *telemetry.Recorder) *observer {
	o := &observer{spans: r, duration: prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name: "remora_admission_duration_seconds", Help: "Time of an admission in the webhook, by path and outcome.",
		Buckets: []float64{.0002, .0005, .001, .002, .005, .01, .02, .05, .1, .5, 1, 5},
	}, []string{"path", "outcome"})}
	r.Registry().MustRegister(o.duration)
	return o
}

type traceparentKey struct{}

// webhook makes an HTTP handler of h. The span is named after the path; the pod's name is on it, its content is not.
func (o *observer) webhook(name, path string, h handle) http.Handler {
	return &admission.Webhook{
		Handler: admission.HandlerFunc(func(ctx context.Context, req admission.Request) admission.Response {
			parent, _ := ctx.Value(traceparentKey{}).(string)
			span := o.spans.Call(name, parent)
			start := time.Now()
			how := failed
			defer func() { // also when h panics, which the library answers
				o.duration.WithLabelValues(path, string(how)).Observe(time.Since(start).Seconds())
				span.Set("remora.admission.outcome", string(how))
				span.Set("k8s.namespace.name", req.Namespace)
				span.Set("remora.admission.kind", req.Kind.Kind)
				span.Set("remora.admission.name", req.Name)
				span.Set("remora.admission.uid", string(req.UID))
				span.End(how == failed)
			}()
			response, ended := h(ctx, req)
			how = ended
			return response
		}),
		WithContextFunc: func(ctx context.Context, r *http.Request) context.Context {
			return context.WithValue(ctx, traceparentKey{}, r.Header.Get("traceparent"))
		},
	}
}
