package telemetry_test

import (
	"bytes"
	"context"
	"net/http"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/remora-storage/remora/telemetry"
)

// TestBooksUnderOverload floods a small ring from several goroutines, with every kind of sampling, and closes in the
// middle of it.
func TestBooksUnderOverload(t *testing.T) {
	rc := newReceiver(t)
	r, err := telemetry.New(telemetry.Config{Service: "s", Endpoint: rc.URL, RingSize: 256, BatchSize: 64})
	require.NoError(t, err)
	rc.mu.Lock() // the receiver answers nothing at first
	var workers sync.WaitGroup
	half := make(chan struct{}, 4)
	for _, sampling := range []string{"every", "slow:1us", "ratio:0.5", "off"} {
		s, err := telemetry.ParseSampling(sampling)
		require.NoError(t, err)
		workers.Go(func() {
			v := r.Volume(sampling, s)
			for i := range uint64(20000) {
				write(v, i)
				v.Commit(0, 1, 1, 1, i, i, syscall.EIO)
				if i == 10000 {
					half <- struct{}{}
				}
			}
		})
	}
	for range 4 {
		<-half
	}
	rc.mu.Unlock()
	closeNow(t, r)
	workers.Wait()
	write(r.Volume("every", telemetry.Sampling{}), 1)
	c := requireBooks(t, r)
	require.EqualValues(t, 4*20000*(3+1)+3, c["remora_trace_spans_created_total"])
	require.Len(t, rc.spans, int(c["remora_trace_spans_exported_total"]), "exported is what the receiver got")
	require.NotZero(t, c["queue_full"])
	require.NotZero(t, c["shutdown"])
	require.NotZero(t, c["remora_trace_spans_sampled_out_total"])
}

func TestOutage(t *testing.T) {
	rc := newReceiver(t)
	rc.answer(http.StatusServiceUnavailable)
	var log lockedBuffer
	r, err := telemetry.New(telemetry.Config{
		Service: "s", Endpoint: rc.URL, RingSize: 10, BatchSize: 5, FlushEvery: time.Hour,
		RetryAfter: time.Millisecond,
		Logger:     telemetry.Logger(&log, telemetry.LogText, nil),
	})
	require.NoError(t, err)
	v := r.Volume("v", telemetry.Sampling{})
	for range 5 {
		v.Begin(telemetry.OpRead, 1, 1).End(0)
	}
	for range 4 { // the first batch is out of the ring and tried again and again
		<-rc.got
	}
	for range 30 {
		v.Begin(telemetry.OpRead, 1, 1).End(0)
	}
	require.EqualValues(t, 20, counters(t, r)["queue_full"], "30 for a ring of 10")
	require.Equal(t, 1, strings.Count(log.String(), "span export fails"), "one line an outage")

	rc.answer(0)
	closeNow(t, r)
	require.EqualValues(t, 15, requireBooks(t, r)["remora_trace_spans_exported_total"])
	require.Equal(t, 1, strings.Count(log.String(), "span export works again"), log.String())
	require.Equal(t, 1, strings.Count(log.String(), "span export fails"))
}

func TestCloseDoesNotWaitForADeadReceiver(t *testing.T) {
	rc := newReceiver(t)
	rc.answer(http.StatusTooManyRequests)
	r, err := telemetry.New(telemetry.Config{Service: "s", Endpoint: rc.URL, BatchSize: 1, RetryAfter: time.Hour})
	require.NoError(t, err)
	v := r.Volume("v", telemetry.Sampling{})
	v.Begin(telemetry.OpRead, 1, 1).End(0)
	<-rc.got
	v.Begin(telemetry.OpRead, 1, 1).End(0)
	closeNow(t, r)
	require.EqualValues(t, 2, requireBooks(t, r)["shutdown"])
	closeNow(t, r)
}

func TestCloseEndsAHangingExport(t *testing.T) {
	entered, release := make(chan struct{}), make(chan struct{})
	rc := newReceiver(t)
	rc.Config.Handler = http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
		close(entered)
		<-release
	})
	defer close(release)
	r, err := telemetry.New(telemetry.Config{Service: "s", Endpoint: rc.URL, BatchSize: 1})
	require.NoError(t, err)
	r.Volume("v", telemetry.Sampling{}).Begin(telemetry.OpRead, 1, 1).End(0)
	<-entered
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	require.NoError(t, r.Close(ctx))
	require.EqualValues(t, 1, requireBooks(t, r)["shutdown"])
}

func TestRefusedAndPartlyRefused(t *testing.T) {
	rc := newReceiver(t)
	rc.answer(http.StatusBadRequest)
	var log lockedBuffer
	r, err := telemetry.New(telemetry.Config{Service: "s", Endpoint: rc.URL, BatchSize: 3, FlushEvery: time.Hour,
		Logger: telemetry.Logger(&log, telemetry.LogText, nil)})
	require.NoError(t, err)
	v := r.Volume("v", telemetry.Sampling{})
	three := func() {
		for range 3 {
			v.Begin(telemetry.OpRead, 1, 1).End(0)
		}
		<-rc.got
	}
	three()
	rc.answer(0)
	rc.mu.Lock()
	rc.body = []byte{0x0a, 0x02, 0x08, 0x02} // partial_success{rejected_spans: 2}
	rc.mu.Unlock()
	three()
	closeNow(t, r)
	c := requireBooks(t, r)
	require.EqualValues(t, 5, c["rejected"])
	require.EqualValues(t, 1, c["remora_trace_spans_exported_total"])
	require.Contains(t, log.String(), "400 Bad Request")
}

func TestTooManyStagesAndLinks(t *testing.T) {
	rc := newReceiver(t)
	r, err := telemetry.New(telemetry.Config{Service: "s", Endpoint: rc.URL})
	require.NoError(t, err)
	v := r.Volume("v", telemetry.Sampling{})
	commit := v.Commit(1, 2, 1, 1, 1, 1, nil)
	io := v.Begin(telemetry.OpRead, 1, 1)
	for range 10 {
		io.Stage(telemetry.StageFetch, 1, 2)
		io.Link(commit)
	}
	io.End(0)
	closeNow(t, r)
	c := requireBooks(t, r)
	require.EqualValues(t, 2, c["stages"])
	require.EqualValues(t, 1+1+8, c["remora_trace_spans_exported_total"])
	require.Len(t, rc.byName(t, "fuse.read").Links, 2)
	require.EqualValues(t, 8, rc.byName(t, "fuse.read").DroppedLinksCount)
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}
