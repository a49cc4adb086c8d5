package telemetry

import (
	"slices"
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"
)

type dropReason uint8

const (
	dropStages    dropReason = iota // a request had more than maxStages stages
	dropQueueFull                   // the exporter fell behind
	dropRejected                    // the receiver refused the spans
	dropShutdown                    // Close could not wait longer, or the request ended after it
	numDropReasons
)

var dropReasonNames = [numDropReasons]string{"stages", "queue_full", "rejected", "shutdown"}

// spanCounts keeps the books: created = exported + sampledOut + the sum of dropped + what is in the ring.
type spanCounts struct {
	created, sampledOut, exported atomic.Uint64
	dropped                       [numDropReasons]atomic.Uint64
}

func (c *spanCounts) drop(why dropReason, spans uint64) { c.dropped[why].Add(spans) }

// opMetrics counts the requests of one operation on one volume.
type opMetrics struct {
	duration log2Histogram
	bytes    atomic.Uint64
	errors   atomic.Pointer[[maxErrno]atomic.Uint64] // by errno, made with the first error; [0] is an unknown one
}

func (m *opMetrics) observe(rec *record) {
	m.duration.observeNanos(rec.end - rec.start)
	switch {
	case rec.errno != 0:
		m.countError(rec.errno)
	case rec.op.moves() && rec.length > 0:
		m.bytes.Add(uint64(rec.length))
	}
}

func (m *opMetrics) countError(errno int32) {
	errs := m.errors.Load()
	if errs == nil {
		m.errors.CompareAndSwap(nil, new([maxErrno]atomic.Uint64))
		errs = m.errors.Load()
	}
	if errno < 0 || errno >= maxErrno {
		errno = 0
	}
	errs[errno].Add(1)
}

type commitMetrics struct {
	duration, records log2Histogram
	bytes, errors     atomic.Uint64
}

func (m *commitMetrics) observe(rec *record) {
	m.duration.observeNanos(rec.end - rec.start)
	n := uint64(max(rec.length, 0))
	m.records.observe(n, n)
	m.bytes.Add(uint64(max(rec.offset, 0)))
	if rec.errno != 0 {
		m.errors.Add(1)
	}
}

func describe(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc(name, help, labels, nil)
}

var (
	requestDuration = describe("remora_fuse_request_duration_seconds",
		"Time from reading a FUSE request to answering it.", "volume", "op")
	requestBytes = describe("remora_fuse_request_bytes_total",
		"Bytes that successful read, write and copy_file_range requests transferred.", "volume", "op")
	requestErrors = describe("remora_fuse_request_errors_total",
		"FUSE requests answered with an errno, ordinary ones such as ENOENT of lookup included.", "volume", "op", "errno")
	commitDuration = describe("remora_commit_duration_seconds", "Time of a group commit.", "volume")
	commitRecords  = describe("remora_commit_records", "Log records that shared one group commit.", "volume")
	commitBytes    = describe("remora_commit_bytes_total", "Bytes made durable by group commits.", "volume")
	commitErrors   = describe("remora_commit_errors_total", "Group commits that failed.", "volume")

	spansCreated = describe("remora_trace_spans_created_total",
		"Spans begun, children included: exported + sampled out + dropped + those in the queue.")
	spansExported   = describe("remora_trace_spans_exported_total", "Spans that the receiver accepted.")
	spansSampledOut = describe("remora_trace_spans_sampled_out_total",
		"Spans not kept because of the volume's sampling, or because there is no endpoint.")
	spansDropped = describe("remora_trace_spans_dropped_total",
		"Spans lost: queue_full, rejected by the receiver, shutdown, more than 8 stages in a request.", "reason")
	queuedRequests = describe("remora_trace_queue_requests", "Requests and commits that wait for export.")
)

// collector turns the atomics of a Recorder into Prometheus metrics when they are asked for. Operations that were never
// requested have no series.
type collector struct{ r *Recorder }

// Describe sends every description.
func (c collector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{requestDuration, requestBytes, requestErrors, commitDuration, commitRecords,
		commitBytes, commitErrors, spansCreated, spansExported, spansSampledOut, spansDropped, queuedRequests} {
		ch <- d
	}
}

// Collect sends a snapshot of every metric.
func (c collector) Collect(ch chan<- prometheus.Metric) {
	c.r.mu.Lock()
	volumes := slices.Clone(c.r.volumes)
	c.r.mu.Unlock()
	for _, v := range volumes {
		v.collect(ch)
	}
	count := &c.r.count
	sendCounter(ch, spansExported, &count.exported)
	sendCounter(ch, spansSampledOut, &count.sampledOut)
	for why := range count.dropped {
		sendCounter(ch, spansDropped, &count.dropped[why], dropReasonNames[why])
	}
	sendCounter(ch, spansCreated, &count.created)
	queued := 0
	if c.r.ring != nil {
		queued = c.r.ring.len()
	}
	ch <- prometheus.MustNewConstMetric(queuedRequests, prometheus.GaugeValue, float64(queued))
}

func (v *VolumeRecorder) collect(ch chan<- prometheus.Metric) {
	for i := range v.ops {
		m, op := &v.ops[i], opNames[i]
		duration := m.duration.metric(requestDuration, 1e-6, 1e-9, v.name, op)
		if duration == nil {
			continue
		}
		ch <- duration
		if Op(i).moves() {
			sendCounter(ch, requestBytes, &m.bytes, v.name, op)
		}
		if errs := m.errors.Load(); errs != nil {
			for errno := range errs {
				if errs[errno].Load() > 0 {
					sendCounter(ch, requestErrors, &errs[errno], v.name, op, errnoNames[errno])
				}
			}
		}
	}
	if duration := v.commits.duration.metric(commitDuration, 1e-6, 1e-9, v.name); duration != nil {
		ch <- duration
		if records := v.commits.records.metric(commitRecords, 1, 1, v.name); records != nil {
			ch <- records
		}
		sendCounter(ch, commitBytes, &v.commits.bytes, v.name)
		sendCounter(ch, commitErrors, &v.commits.errors, v.name)
	}
}

func sendCounter(ch chan<- prometheus.Metric, d *prometheus.Desc, n *atomic.Uint64, labels ...string) {
	ch <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(n.Load()), labels...)
}
