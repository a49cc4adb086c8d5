package transport

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

type direction int

const (
	outbound direction = iota
	inbound
)

var directionNames = [2]string{"out", "in"}

// dropReason is why a frame that was to be sent was not.
type dropReason uint8

const (
	dropNone        dropReason = iota
	dropQueueFull              // too much waits for that peer
	dropUnreachable            // the peer could not be reached, a moment ago
	dropRefused                // whoever is at the address may not have it
	dropBroken                 // the connection broke while it was written: it may have arrived
	dropTooLong                // longer than MaxFrame, or of a kind that is the transport's own
	dropClosed                 // the transport was closed
	numDropReasons
)

var dropReasonNames = [numDropReasons]string{"", "queue_full", "unreachable", "refused", "broken", "too_long", "closed"}

type counters struct {
	frames, bytes, bulkBytes [2]atomic.Uint64
	connections              [2]atomic.Int64
	dropped                  [numDropReasons]atomic.Uint64
	refused, garbage, dials  byReason
	answers, asks            byReason
}

func (c *counters) dial(result string) { c.dials.add(result) }

func (c *counters) answered(err error) { c.answers.add(result(err)) }
func (c *counters) asked(err error)    { c.asks.add(result(err)) }

func result(err error) string {
	var remote *RemoteError
	switch {
	case err == nil, errors.Is(err, errComplete):
		return "ok"
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return "canceled"
	case errors.As(err, &remote):
		return "refused"
	}
	return "error"
}

// byReason counts by one of a few reasons, all of them constants of this package.
type byReason struct {
	mu sync.Mutex // guards n
	n  map[string]uint64
}

func (b *byReason) add(reason string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.n == nil {
		b.n = map[string]uint64{}
	}
	b.n[reason]++
}

func (b *byReason) collect(ch chan<- prometheus.Metric, d *prometheus.Desc) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for reason, n := range b.n {
		ch <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(n), reason)
	}
}

func describe(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc("remora_transport_"+name, help, labels, nil)
}

var (
	framesDesc  = describe("frames_total", "Frames sent to and received from peers.", "direction")
	bytesDesc   = describe("bytes_total", "Bytes of these frames, headers included, before encryption.", "direction")
	bulkDesc    = describe("bulk_bytes_total", "Bytes of bulk answers sent to and received from peers.", "direction")
	connsDesc   = describe("connections", "Open connections: out for frames to peers, in all that were accepted.", "direction")
	droppedDesc = describe("dropped_frames_total",
		"Frames not sent: queue_full, unreachable, refused (the wrong peer is there), broken, too_long, closed.", "reason")
	refusedDesc = describe("refused_total", "Connections refused: by certificate, or because the peer is not a member.", "reason")
	garbageDesc = describe("garbage_total", "Connections closed because what came is no frame.", "reason")
	dialsDesc   = describe("dials_total", "Connections to peers tried, by result.", "result")
	answersDesc = describe("bulk_answers_total", "Bulk requests answered, by result.", "result")
	asksDesc    = describe("bulk_requests_total", "Bulk requests to peers, by result.", "result")
	expiryDesc  = describe("certificate_expiry_timestamp_seconds", "When this process's certificate ends; 0: it has none that is good.")
)

// Describe sends every description.
func (t *Transport) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{framesDesc, bytesDesc, bulkDesc, connsDesc, droppedDesc, refusedDesc, garbageDesc, dialsDesc,
		answersDesc, asksDesc, expiryDesc} {
		ch <- d
	}
}

// Collect sends a snapshot of every metric; a Transport is a prometheus.Collector.
func (t *Transport) Collect(ch chan<- prometheus.Metric) {
	c := &t.count
	for i, name := range directionNames {
		counter := func(d *prometheus.Desc, n *atomic.Uint64) {
			ch <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(n.Load()), name)
		}
		counter(framesDesc, &c.frames[i])
		counter(bytesDesc, &c.bytes[i])
		counter(bulkDesc, &c.bulkBytes[i])
		ch <- prometheus.MustNewConstMetric(connsDesc, prometheus.GaugeValue, float64(c.connections[i].Load()), name)
	}
	for why := dropNone + 1; why < numDropReasons; why++ {
		ch <- prometheus.MustNewConstMetric(droppedDesc, prometheus.CounterValue, float64(c.dropped[why].Load()), dropReasonNames[why])
	}
	c.refused.collect(ch, refusedDesc)
	c.garbage.collect(ch, garbageDesc)
	c.dials.collect(ch, dialsDesc)
	c.answers.collect(ch, answersDesc)
	c.asks.collect(ch, asksDesc)
	expiry := 0.0
	if own, _, err := t.cfg.TLS(); err == nil && own.Leaf != nil {
		expiry = float64(own.Leaf.NotAfter.Unix())
	}
	ch <- prometheus.MustNewConstMetric(expiryDesc, prometheus.GaugeValue, expiry)
}

// lines are log lines of which each kind comes at most once in a while: whoever can reach the port must not fill the disk.
type lines struct {
	logger *slog.Logger
	every  time.Duration

	mu   sync.Mutex // guards what follows
	last map[string]line
}

type line struct {
	at      time.Time
	skipped int
}

func newLines(logger *slog.Logger, every time.Duration) *lines {
	return &lines{logger: logger, every: every, last: map[string]line{}}
}

// maxLines kinds are remembered; addresses of peers are among them, and peers come and go.
const maxLines = 256

func (l *lines) warn(kind, message string, args ...any) {
	l.mu.Lock()
	now := time.Now()
	seen, known := l.last[kind]
	if known && now.Sub(seen.at) < l.every {
		seen.skipped++
		l.last[kind] = seen
		l.mu.Unlock()
		return
	}
	if len(l.last) >= maxLines {
		clear(l.last)
	}
	l.last[kind] = line{at: now}
	l.mu.Unlock()
	if seen.skipped > 0 {
		args = append(args, "more", seen.skipped)
	}
	l.logger.Warn(message, args...)
}
