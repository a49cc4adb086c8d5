package e2e

import (
	"bufio"
	"context"
	"encoding/json"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// span is what the test reads of a span in OTLP's JSON.
type span struct {
	TraceID      string
	SpanID       string
	ParentSpanID string
	Name         string
	Start        string `json:"startTimeUnixNano"`
	End          string `json:"endTimeUnixNano"`
	Attributes   []struct {
		Key   string
		Value struct{ StringValue, IntValue string }
	}
	Links []struct{ TraceID, SpanID string }
}

func (s span) attribute(key string) string {
	for _, a := range s.Attributes {
		if a.Key == key {
			return a.Value.StringValue + a.Value.IntValue
		}
	}
	return ""
}

func (s span) number(t *testing.T, key string) int {
	t.Helper()
	n, err := strconv.Atoi(s.attribute(key))
	require.NoError(t, err, "%s of %s", key, s.Name)
	return n
}

func (s span) nanoseconds(t *testing.T, which string) int64 {
	t.Helper()
	text := s.Start
	if which == "end" {
		text = s.End
	}
	n, err := strconv.ParseInt(text, 10, 64)
	require.NoError(t, err)
	return n
}

// TestSpansOfOneWrite writes 4 KiB and calls fsync, and finds both, with their children, in the traces.
func TestSpansOfOneWrite(t *testing.T) {
	t.Parallel()
	i := startOne(t)
	inode := strings.TrimSpace(i.worker("", "writesync", filepath.Join(i.mount("db-0"), "file")).run(time.Minute))
	var spans []span
	require.Eventually(t, func() bool {
		spans = readSpans(t, filepath.Join(i.dir, "traces", "db-0.jsonl"))
		return find(spans, func(s span) bool { return s.Name == "fuse.fsync" && s.attribute("file.inode") == inode }) != nil
	}, time.Minute, 100*time.Millisecond)

	child := func(parent *span, name string) *span {
		return find(spans, func(s span) bool {
			return s.Name == name && s.ParentSpanID == parent.SpanID && s.TraceID == parent.TraceID
		})
	}
	write := find(spans, func(s span) bool { return s.Name == "fuse.write" && s.attribute("file.inode") == inode })
	require.NotNil(t, write)
	require.Empty(t, write.ParentSpanID)
	require.Equal(t, "data-db-0", write.attribute("remora.volume"))
	require.Equal(t, 8192, write.number(t, "remora.io.offset"))
	require.Equal(t, 4096, write.number(t, "remora.io.size"))
	require.NotNil(t, child(write, "overlay"), "fuse.write has no child overlay")
	require.NotNil(t, child(write, "journal"), "fuse.write has no child journal")

	fsync := find(spans, func(s span) bool { return s.Name == "fuse.fsync" && s.attribute("file.inode") == inode })
	require.NotNil(t, child(fsync, "commit"), "fuse.fsync has no child commit")
	require.Len(t, fsync.Links, 1)
	commit := find(spans, func(s span) bool { return s.TraceID == fsync.Links[0].TraceID && s.SpanID == fsync.Links[0].SpanID })
	require.NotNil(t, commit, "the link of fuse.fsync leads nowhere")
	require.Equal(t, "group_commit", commit.Name)
	require.GreaterOrEqual(t, commit.number(t, "remora.commit.last_seq"), write.number(t, "remora.seq"))

	balance(t, i)
}

// TestSpansOfReplicas finds, below the group commit of a write to a volume with three copies, the sync here, and each other replica with what
// it did with its time.
func TestSpansOfReplicas(t *testing.T) {
	t.Parallel()
	i := threeCopies(t)
	// The last of the three answers when the commit is over: it needs two, of which one is here. So both others are not in one commit for sure.
	peers := map[string]bool{}
	for attempt := 0; len(peers) < 2 && attempt < 100; attempt++ {
		i.worker("", "writesync", filepath.Join(i.mount("db-0"), "file"+strconv.Itoa(attempt))).run(time.Minute)
		time.Sleep(100 * time.Millisecond)
		spans := readSpans(t, filepath.Join(i.dir, "traces", "db-0.jsonl"))
		for n := range spans {
			s := &spans[n]
			if s.Name != "replicate" {
				continue
			}
			commit := find(spans, func(o span) bool { return o.SpanID == s.ParentSpanID && o.TraceID == s.TraceID })
			require.NotNil(t, commit, "a span of a replica has no parent")
			require.Equal(t, "group_commit", commit.Name)
			for _, stage := range []string{"queue", "journal"} {
				child := find(spans, func(o span) bool { return o.Name == stage && o.ParentSpanID == s.SpanID && o.TraceID == s.TraceID })
				require.NotNil(t, child, "replicate has no child %s", stage)
				require.GreaterOrEqual(t, child.nanoseconds(t, "start"), s.nanoseconds(t, "start"))
				require.LessOrEqual(t, child.nanoseconds(t, "end"), s.nanoseconds(t, "end"))
			}
			peers[s.attribute("remora.peer")] = true
		}
	}
	require.Len(t, peers, 2)
	balance(t, i)
}

// readSpans reads the complete lines of a file of OTLP JSON.
func readSpans(t *testing.T, file string) []span {
	t.Helper()
	b, err := os.ReadFile(file)
	if os.IsNotExist(err) {
		return nil
	}
	require.NoError(t, err)
	var spans []span
	for line := range strings.Lines(string(b)) {
		if !strings.HasSuffix(line, "\n") {
			break
		}
		var request struct {
			ResourceSpans []struct {
				ScopeSpans []struct{ Spans []span }
			}
		}
		require.NoError(t, json.Unmarshal([]byte(line), &request))
		for _, r := range request.ResourceSpans {
			for _, s := range r.ScopeSpans {
				spans = append(spans, s.Spans...)
			}
		}
	}
	return spans
}

func find(spans []span, ok func(span) bool) *span {
	for n := range spans {
		if ok(spans[n]) {
			return &spans[n]
		}
	}
	return nil
}

// balance waits until the queue is empty: then created = exported + sampled out + dropped, and the file has what was exported.
func balance(t *testing.T, i *instance) {
	t.Helper()
	const prefix = "remora_trace_spans_"
	var m map[string]float64
	require.Eventually(t, func() bool {
		m = metrics(t, filepath.Join(i.dir, "run", "db-0", "sidecar.sock"))
		return m["remora_trace_queue_requests"] == 0 && m[prefix+"created_total"] > 0 &&
			m[prefix+"created_total"] == m[prefix+"exported_total"]+m[prefix+"sampled_out_total"]+m[prefix+"dropped_total"]
	}, 30*time.Second, 100*time.Millisecond, "created is not exported + sampled out + dropped")
	require.Zero(t, m[prefix+"dropped_total"])
	require.Len(t, readSpans(t, filepath.Join(i.dir, "traces", "db-0.jsonl")), int(m[prefix+"exported_total"]))
}

// metrics reads Prometheus' text from a unix socket and adds up the series of each name.
func metrics(t *testing.T, socket string) map[string]float64 {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", socket)
	}}}
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://sidecar/metrics", nil)
	require.NoError(t, err)
	answer, err := client.Do(r)
	require.NoError(t, err)
	defer func() { _ = answer.Body.Close() }()
	sums := map[string]float64{}
	for s := bufio.NewScanner(answer.Body); s.Scan(); {
		if strings.HasPrefix(s.Text(), "#") {
			continue
		}
		name, value, _ := strings.Cut(s.Text(), " ")
		name, _, _ = strings.Cut(name, "{")
		if x, err := strconv.ParseFloat(value[strings.LastIndex(value, " ")+1:], 64); err == nil {
			sums[name] += x
		}
	}
	return sums
}

// writeAndSync writes 4 KiB at 8 KiB, calls fsync, and prints the inode.
func writeAndSync(args []string) error {
	f, err := os.Create(args[0])
	if err != nil {
		return err
	}
	if _, err := f.WriteAt(make([]byte, 4096), 8192); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	if err := printInode(f); err != nil {
		return err
	}
	return f.Close()
}
