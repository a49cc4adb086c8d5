package telemetry_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/hex"
	"io"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
	common "go.opentelemetry.io/proto/otlp/common/v1"
	trace "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/proto"

	"github.com/remora-storage/remora/telemetry"
)

// receiver is an OTLP receiver: what ExportTraceServiceRequest is on the wire, TracesData is too.
type receiver struct {
	*httptest.Server
	got chan struct{} // one token a request, accepted or not

	mu     sync.Mutex
	status int    // answered instead of 200
	body   []byte // answered with 200
	spans  []*trace.Span
	paths  []string
}

func newReceiver(tb testing.TB) *receiver {
	rc := &receiver{got: make(chan struct{}, 1<<16)}
	rc.Server = httptest.NewServer(http.HandlerFunc(rc.export))
	tb.Cleanup(rc.Close)
	return rc
}

func (rc *receiver) answer(status int) {
	rc.mu.Lock()
	defer rc.mu.Unlock()
	rc.status = status
}

func (rc *receiver) export(w http.ResponseWriter, q *http.Request) {
	defer func() { rc.got <- struct{}{} }()
	payload, err := io.ReadAll(q.Body)
	if err != nil {
		return
	}
	rc.mu.Lock()
	defer rc.mu.Unlock()
	rc.paths = append(rc.paths, q.Method+" "+q.URL.Path+" "+q.Header.Get("Content-Type"))
	if rc.status != 0 {
		w.WriteHeader(rc.status)
		return
	}
	rc.add(payload)
	_, _ = w.Write(rc.body)
}

func (rc *receiver) add(payload []byte) {
	var data trace.TracesData
	if err := proto.Unmarshal(payload, &data); err != nil {
		panic(err) // httptest prints it, and the test misses its spans
	}
	for _, resource := range data.ResourceSpans {
		for _, scope := range resource.ScopeSpans {
			rc.spans = append(rc.spans, scope.Spans...)
		}
	}
}

// byName returns the only span of that name.
func (rc *receiver) byName(tb testing.TB, name string) *trace.Span {
	tb.Helper()
	rc.mu.Lock()
	defer rc.mu.Unlock()
	var found *trace.Span
	for _, s := range rc.spans {
		if s.Name == name {
			require.Nil(tb, found, "two spans named %s", name)
			found = s
		}
	}
	require.NotNil(tb, found, "no span named %s", name)
	return found
}

// attrs are a span's attributes: text as string, numbers as int64.
func attrs(s *trace.Span) map[string]any {
	m := map[string]any{}
	for _, a := range s.Attributes {
		switch v := a.Value.Value.(type) {
		case *common.AnyValue_StringValue:
			m[a.Key] = v.StringValue
		case *common.AnyValue_IntValue:
			m[a.Key] = v.IntValue
		}
	}
	return m
}

// seed makes every span ID of a test the same in each run.
func seed() io.Reader {
	var b []byte
	for i := range uint64(3) {
		b = binary.LittleEndian.AppendUint64(b, i)
	}
	return bytes.NewReader(b)
}

// clock is a Config.Now that moves by a microsecond a call.
func clock() func() int64 {
	var mu sync.Mutex
	now := int64(1_700_000_000_000_000_000)
	return func() int64 {
		mu.Lock()
		defer mu.Unlock()
		now += 1000
		return now
	}
}

func hexID(id []byte) string { return hex.EncodeToString(id) }

func closeNow(tb testing.TB, r *telemetry.Recorder) {
	tb.Helper()
	require.NoError(tb, r.Close(context.Background()))
}

// counters are the sums of the counters and gauges in the registry, by name; dropped spans also by reason.
func counters(tb testing.TB, r *telemetry.Recorder) map[string]uint64 {
	tb.Helper()
	families, err := r.Registry().Gather()
	require.NoError(tb, err)
	sums := map[string]uint64{}
	for _, f := range families {
		for _, m := range f.Metric {
			v := uint64(m.GetCounter().GetValue() + m.GetGauge().GetValue())
			sums[f.GetName()] += v
			for _, l := range m.Label {
				if l.GetName() == "reason" {
					sums[l.GetValue()] += v
				}
			}
		}
	}
	return sums
}

// requireBooks checks that a closed recorder accounts for every span.
func requireBooks(tb testing.TB, r *telemetry.Recorder) map[string]uint64 {
	tb.Helper()
	c := counters(tb, r)
	require.Equal(tb, c["remora_trace_spans_created_total"], c["remora_trace_spans_exported_total"]+
		c["remora_trace_spans_sampled_out_total"]+c["remora_trace_spans_dropped_total"], "%v", c)
	require.Zero(tb, c["remora_trace_queue_requests"])
	return c
}
