package telemetry_test

import (
	"testing"

	"github.com/stretchr/testify/require"
	trace "go.opentelemetry.io/proto/otlp/trace/v1"

	"github.com/remora-storage/remora/telemetry"
)

// TestCall says that a call is a span below its caller's, follows its decision to sample, and is in the books.
func TestCall(t *testing.T) {
	rc := newReceiver(t)
	r, err := telemetry.New(telemetry.Config{Service: "remora-webhook", Endpoint: rc.URL, Now: clock()})
	require.NoError(t, err)
	const trace1, parent = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
	c := r.Call("admission.mutate", "00-"+trace1+"-"+parent+"-01")
	c.Set("k8s.namespace.name", "shop")
	c.End(true)
	r.Call("unsampled", "00-"+trace1+"-"+parent+"-00").End(false)
	for _, bad := range []string{"", "x", "00-" + trace1 + "-0000000000000000-01", "00-" + trace1 + "-" + parent + "-01-more", "00-zzf7651916cd43dd8448eb211c80319c-" + parent + "-01"} {
		r.Call("root", bad).End(false)
	}
	closeNow(t, r)
	span := rc.byName(t, "admission.mutate")
	require.Equal(t, trace1, hexID(span.TraceId))
	require.Equal(t, parent, hexID(span.ParentSpanId))
	require.Equal(t, trace.Span_SPAN_KIND_SERVER, span.Kind)
	require.Equal(t, trace.Status_STATUS_CODE_ERROR, span.Status.Code)
	require.Equal(t, "k8s.namespace.name", span.Attributes[0].Key)
	require.Equal(t, "shop", span.Attributes[0].Value.GetStringValue())
	roots := 0
	for _, s := range rc.spans {
		require.NotEqual(t, "unsampled", s.Name)
		if s.Name == "root" {
			require.Empty(t, s.ParentSpanId)
			roots++
		}
	}
	require.Equal(t, 5, roots)
	books := requireBooks(t, r)
	require.EqualValues(t, 6, books["remora_trace_spans_exported_total"])
	require.EqualValues(t, 1, books["remora_trace_spans_sampled_out_total"])
	r.Call("late", "").End(false)
	requireBooks(t, r)
	(*telemetry.Recorder)(nil).Call("none", "").End(false)
}
