package node

import (
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
)

// metrics of the plugin. Names follow Prometheus' conventions.
type metrics struct {
	registry      *prometheus.Registry
	calls         *prometheus.HistogramVec
	pause         prometheus.Histogram
	desk          *prometheus.CounterVec
	aborted       prometheus.Counter
	remade        prometheus.Counter
	noQuota       prometheus.Counter
	eventsDropped prometheus.Counter
}

func newMetrics(n *node) *metrics {
	counter := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Name: "remora_node_" + name, Help: help})
	}
	m := &metrics{
		registry: prometheus.NewRegistry(),
		calls: prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "remora_node_csi_call_duration_seconds",
			Help: "Time of the kubelet's calls.", Buckets: prometheus.ExponentialBuckets(0.001, 2, 15)}, []string{"method", "code"}),
		pause: prometheus.NewHistogram(prometheus.HistogramOpts{Name: "remora_node_unserved_seconds",
			Help: "How long mounts were unserved, from the death of a sidecar to its successor.", Buckets: prometheus.ExponentialBuckets(0.01, 2, 17)}),
		desk: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "remora_node_sidecar_requests_total",
			Help: "Questions of sidecars on their pods' sockets."}, []string{"op"}),
		aborted:       counter("aborted_mounts_total", "Mounts that were aborted because nobody served them for longer than the budget."),
		remade:        counter("remade_mounts_total", "Mounts made anew because their connection had ended: containers must be restarted."),
		noQuota:       counter("unlimited_directories_total", "Disk directories given out without a project quota."),
		eventsDropped: counter("events_dropped_total", "Events that could not be written."),
	}
	gauge := func(name, help string, count func(*serving) bool) prometheus.GaugeFunc {
		return prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "remora_node_" + name, Help: help}, func() float64 { return float64(n.count(count)) })
	}
	m.registry.MustRegister(m.calls, m.pause, m.desk, m.aborted, m.remade, m.noQuota, m.eventsDropped,
		gauge("mounts", "FUSE mounts of pods on this node.", func(*serving) bool { return true }),
		gauge("unserved_mounts", "Mounts that were served and are not now: calls of programs wait.", func(s *serving) bool { return s.served && !s.now && !s.aborted }),
		gauge("mounts_without_descriptor", "Mounts whose sidecar has not brought its descriptor since the plugin was started.",
			func(s *serving) bool { return s.mount.Orphan() }),
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return m
}

func (n *node) count(match func(*serving) bool) int {
	count := 0
	for _, p := range n.allPods() {
		p.live.Lock()
		for _, s := range p.serving {
			if match(s) {
				count++
			}
		}
		p.live.Unlock()
	}
	return count
}
