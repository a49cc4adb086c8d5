package telemetry_test

import (
	"bufio"
	"bytes"
	"flag"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
	trace "go.opentelemetry.io/proto/otlp/trace/v1"

	"github.com/remora-storage/remora/telemetry"
)

var update = flag.Bool("update", false, "rewrite testdata")

// writeAndSync is what a 4 KiB write and its fsync record, each time a microsecond after the one before.
func writeAndSync(r *telemetry.Recorder, now func() int64) {
	v := r.Volume("data-db-0", telemetry.Sampling{})
	w := v.Begin(telemetry.OpWrite, 10, 42)
	w.SetRange(8192, 4096)
	t0, t1, t2 := now(), now(), now()
	w.Stage(telemetry.StageOverlay, t0, t1)
	w.Stage(telemetry.StageJournal, t1, t2)
	w.Record(3, 77)
	w.End(0)

	f := v.Begin(telemetry.OpFsync, 12, 42)
	waited := now()
	commit := v.Commit(now(), now(), 5, 20480, 73, 77, nil)
	f.Stage(telemetry.StageCommit, waited, now())
	f.Link(commit)
	f.End(0)
}

func TestTree(t *testing.T) {
	for _, protocol := range []string{"", telemetry.ProtocolHTTP} {
		rc := newReceiver(t)
		now := clock()
		r, err := telemetry.New(telemetry.Config{Service: "remora-sidecar", Endpoint: rc.URL, Protocol: protocol, Now: now})
		require.NoError(t, err)
		writeAndSync(r, now)
		closeNow(t, r)
		require.Equal(t, []string{"POST /v1/traces application/x-protobuf"}, rc.paths)
		requireTree(t, rc)
		require.EqualValues(t, 6, requireBooks(t, r)["remora_trace_spans_exported_total"])
	}
}

func requireTree(t *testing.T, rc *receiver) {
	t.Helper()
	write, fsync := rc.byName(t, "fuse.write"), rc.byName(t, "fuse.fsync")
	overlay, journal := rc.byName(t, "overlay"), rc.byName(t, "journal")
	waited, group := rc.byName(t, "commit"), rc.byName(t, "group_commit")

	for child, parent := range map[*trace.Span]*trace.Span{overlay: write, journal: write, waited: fsync} {
		require.Equal(t, hexID(parent.TraceId), hexID(child.TraceId), child.Name)
		require.Equal(t, hexID(parent.SpanId), hexID(child.ParentSpanId), child.Name)
		require.LessOrEqual(t, parent.StartTimeUnixNano, child.StartTimeUnixNano)
		require.LessOrEqual(t, child.EndTimeUnixNano, parent.EndTimeUnixNano)
	}
	ids := map[string]bool{}
	for _, s := range rc.spans {
		require.Len(t, s.TraceId, 16)
		require.Len(t, s.SpanId, 8)
		ids[hexID(s.SpanId)] = true
		require.Nil(t, s.Status)
	}
	require.Len(t, ids, 6, "span IDs differ")
	for _, root := range []*trace.Span{write, fsync, group} {
		require.Empty(t, root.ParentSpanId)
	}
	require.NotEqual(t, hexID(write.TraceId), hexID(fsync.TraceId))
	require.Empty(t, write.Links)
	require.Len(t, fsync.Links, 1)
	require.Equal(t, hexID(group.TraceId), hexID(fsync.Links[0].TraceId))
	require.Equal(t, hexID(group.SpanId), hexID(fsync.Links[0].SpanId))

	require.Equal(t, trace.Span_SPAN_KIND_SERVER, write.Kind)
	require.Equal(t, trace.Span_SPAN_KIND_INTERNAL, journal.Kind)
	require.EqualValues(t, 1000, journal.EndTimeUnixNano-journal.StartTimeUnixNano)
	require.Equal(t, map[string]any{
		"remora.volume": "data-db-0", "remora.op": "write", "remora.fuse.unique": int64(10), "file.inode": "42",
		"remora.io.offset": int64(8192), "remora.io.size": int64(4096), "disk.io.direction": "write",
		"remora.epoch": int64(3), "remora.seq": int64(77),
	}, attrs(write))
	require.Equal(t, map[string]any{
		"remora.volume": "data-db-0", "remora.commit.records": int64(5), "remora.commit.bytes": int64(20480),
		"remora.commit.first_seq": int64(73), "remora.commit.last_seq": int64(77),
	}, attrs(group))
}

func TestFileGolden(t *testing.T) {
	path, golden := filepath.Join(t.TempDir(), "spans.jsonl"), "testdata/write-fsync.jsonl"
	now := clock()
	r, err := telemetry.New(telemetry.Config{
		Service: "remora-sidecar", Endpoint: "file:" + path, Now: now, Rand: seed(),
		Resource: map[string]string{"k8s.pod.name": "db-0", "k8s.namespace.name": "default"},
	})
	require.NoError(t, err)
	writeAndSync(r, now)
	r.Volume("data-db-0", telemetry.Sampling{}).Begin(telemetry.OpWrite, 14, 42).End(int32(syscall.EIO))
	closeNow(t, r)
	got, err := os.ReadFile(path)
	require.NoError(t, err)
	if *update {
		require.NoError(t, os.WriteFile(golden, got, 0o644))
	}
	want, err := os.ReadFile(golden)
	require.NoError(t, err)
	require.Equal(t, string(want), string(got))
}

func TestFileRotates(t *testing.T) {
	path := filepath.Join(t.TempDir(), "spans.jsonl")
	r, err := telemetry.New(telemetry.Config{Service: "s", Endpoint: "file:" + path, FileSize: 4000, BatchSize: 1})
	require.NoError(t, err)
	v := r.Volume("v", telemetry.Sampling{})
	for range 50 {
		v.Begin(telemetry.OpStatfs, 1, 1).End(0)
	}
	closeNow(t, r)
	require.EqualValues(t, 50, requireBooks(t, r)["remora_trace_spans_exported_total"])
	for _, p := range []string{path, path + ".1"} {
		data, err := os.ReadFile(p)
		require.NoError(t, err)
		require.LessOrEqual(t, len(data), 4000)
		for lines := bufio.NewScanner(bytes.NewReader(data)); lines.Scan(); {
			require.True(t, bytes.HasPrefix(lines.Bytes(), []byte(`{"resourceSpans":[`)))
			require.True(t, bytes.HasSuffix(lines.Bytes(), []byte(`]}]}]}`)))
		}
	}
}
