package telemetry

import (
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

// spanCounts keeps the books: created = exported + sampledOut + the sum of dropped + what is in the ring.
type spanCounts struct {
	created, sampledOut, exported atomic.Uint64
	dropped                       [numDropReasons]atomic.Uint64
}

func (c *spanCounts) drop(why dropReason, spans uint64) { c.dropped[why].Add(spans) }

type opMetrics struct{}

func (m *opMetrics) observe(rec *record) {}

type commitMetrics struct{}

func (m *commitMetrics) observe(rec *record) {}

type collector struct{ r *Recorder }

func (c collector) Describe(ch chan<- *prometheus.Desc) {}
func (c collector) Collect(ch chan<- prometheus.Metric) {}
