package telemetry_test

import (
	"errors"
	"net/http/httptest"
	"syscall"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"

	"github.com/remora-storage/remora/telemetry"
)

// TestMetrics has no endpoint: the metrics count all the same.
func TestMetrics(t *testing.T) {
	now := int64(0)
	r, err := telemetry.New(telemetry.Config{Service: "s", Now: func() int64 { now += 3000; return now },
		Registry: prometheus.NewPedanticRegistry()})
	require.NoError(t, err)
	v := r.Volume("data-db-0", telemetry.Sampling{})
	require.Same(t, v, r.Volume("data-db-0", telemetry.Sampling{Mode: telemetry.SampleOff}))
	for _, errno := range []syscall.Errno{0, 0, syscall.ENOSPC} {
		w := v.Begin(telemetry.OpWrite, 1, 2)
		w.SetRange(0, 4096)
		w.End(int32(errno))
	}
	v.Begin(telemetry.OpLookup, 1, 1).End(int32(syscall.ENOENT))
	v.Begin(telemetry.Op(200), 1, 1).End(-7)
	v.Commit(0, 1500, 3, 12288, 1, 3, nil)
	v.Commit(0, 9_000_000, 1, 0, 4, 4, errors.New("disk gone"))

	page := httptest.NewRecorder()
	r.Handler().ServeHTTP(page, httptest.NewRequest("GET", "/metrics", nil))
	for _, line := range []string{
		`remora_fuse_request_bytes_total{op="write",volume="data-db-0"} 8192`,
		`remora_fuse_request_errors_total{errno="ENOENT",op="lookup",volume="data-db-0"} 1`,
		`remora_fuse_request_errors_total{errno="ENOSPC",op="write",volume="data-db-0"} 1`,
		`remora_fuse_request_errors_total{errno="_OTHER",op="other",volume="data-db-0"} 1`,
		`remora_commit_bytes_total{volume="data-db-0"} 12288`,
		`remora_commit_errors_total{volume="data-db-0"} 1`,
		`remora_trace_spans_created_total 7`,
		`remora_trace_spans_sampled_out_total 7`,
		`remora_fuse_request_duration_seconds_bucket{op="write",volume="data-db-0",le="2e-06"} 0`,
		`remora_fuse_request_duration_seconds_bucket{op="write",volume="data-db-0",le="4e-06"} 3`,
		`remora_fuse_request_duration_seconds_sum{op="write",volume="data-db-0"} 9e-06`,
		`remora_fuse_request_duration_seconds_count{op="write",volume="data-db-0"} 3`,
		`remora_commit_duration_seconds_count{volume="data-db-0"} 2`,
		`remora_commit_records_bucket{volume="data-db-0",le="4"} 2`,
		`remora_commit_records_sum{volume="data-db-0"} 4`,
		`remora_trace_spans_dropped_total{reason="queue_full"} 0`,
	} {
		require.Contains(t, page.Body.String(), line+"\n")
	}
	require.NotContains(t, page.Body.String(), `op="mkdir"`, "operations that never came have no series")
	closeNow(t, r)
	requireBooks(t, r)
}

func TestNilRecordsNothing(t *testing.T) {
	var r *telemetry.Recorder
	v := r.Volume("v", telemetry.Sampling{})
	require.Nil(t, v)
	v.SetSampling(telemetry.Sampling{})
	require.True(t, v.Commit(1, 2, 3, 4, 5, 6, nil).IsZero())
	io := v.Begin(telemetry.OpRead, 1, 2)
	require.Nil(t, io)
	io.SetRange(1, 2)
	io.SetInode(1)
	io.Stage(telemetry.StageFetch, 1, 2)
	io.Link(telemetry.SpanRef{})
	io.Record(1, 2)
	require.True(t, io.Ref().IsZero())
	io.End(5)
	closeNow(t, r)
}
