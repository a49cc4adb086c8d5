package telemetry

import (
	"context"
	"net/http"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// Recorder owns the ring, the exporter and the metrics of a process. Safe for concurrent use.
type Recorder struct {
	now      func() int64
	ids      *idSource
	pool     sync.Pool // of *IO
	ring     *ring     // nil without an endpoint
	batch    int       // a queue this long wakes the exporter
	exporter *exporter // nil without an endpoint
	count    spanCounts
	registry *prometheus.Registry

	notesMu sync.Mutex
	notes   map[uint64]*note // of calls that wait for export

	mu      sync.Mutex
	volumes []*VolumeRecorder // only grows; record.volume is an index
}

// New starts a recorder; with an endpoint it has one goroutine, which Close ends. An exporter that cannot be reached
// is no error here: it may come later. A file that cannot be opened is.
func New(cfg Config) (*Recorder, error) {
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	cfg = cfg.withDefaults()
	ids, err := newIDSource(cfg.Rand)
	if err != nil {
		return nil, err
	}
	r := &Recorder{now: Now, ids: ids, batch: cfg.BatchSize, registry: cfg.Registry, notes: map[uint64]*note{}}
	if cfg.Now != nil {
		r.now = cfg.Now
	}
	r.pool.New = func() any { return new(IO) }
	if r.registry == nil {
		r.registry = prometheus.NewRegistry()
		r.registry.MustRegister(collectors.NewGoCollector(),
			collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	}
	if err := r.registry.Register(collector{r}); err != nil {
		return nil, err
	}
	if cfg.Endpoint == "" {
		return r, nil
	}
	r.ring = newRing(cfg.RingSize)
	if r.exporter, err = startExporter(cfg, r); err != nil {
		return nil, err
	}
	return r, nil
}

// Close exports what is queued and ends the exporter. What cannot be exported before ctx is done, or after one more
// failed attempt, is counted as dropped, reason "shutdown". Requests may still end afterwards; their spans are dropped
// and counted too. A second Close does nothing.
func (r *Recorder) Close(ctx context.Context) error {
	if r == nil || r.exporter == nil {
		return nil
	}
	r.ring.close()
	return r.exporter.close(ctx)
}

// Registry is where other packages add their metrics.
func (r *Recorder) Registry() *prometheus.Registry { return r.registry }

// Handler serves the metrics in the form of Prometheus.
func (r *Recorder) Handler() http.Handler {
	return promhttp.HandlerFor(r.registry, promhttp.HandlerOpts{})
}

// volumeNames appends to names those of the volumes that it lacks, in the order of record.volume.
func (r *Recorder) volumeNames(names []string) []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, v := range r.volumes[len(names):] {
		names = append(names, v.name)
	}
	return names
}

// processStart anchors Now: its wall clock is read once, its monotonic clock ever after.
var (
	processStart     = time.Now()
	processStartUnix = processStart.UnixNano()
)

// Now is the clock of spans: nanoseconds since 1970, as the wall clock was when the process started, and monotonic
// since. It costs half of time.Now, and durations stay right when the wall clock is set; spans get the wall clock's
// present value when they are encoded.
func Now() int64 { return processStartUnix + int64(time.Since(processStart)) }
