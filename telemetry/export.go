package telemetry

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"slices"
	"sync"
	"time"
)

// sink is where encoded batches go. Used by one goroutine.
type sink interface {
	encode(dst []byte, b *batch) []byte
	// send delivers a payload that encode made. rejected spans were refused for good by a receiver that took the rest.
	// A *refusedError says that the same payload will never be taken; any other error that a later attempt may succeed.
	send(ctx context.Context, payload []byte) (rejected uint64, err error)
	close() error
}

// refusedError is an answer of the receiver that a retry cannot change.
type refusedError struct{ reason string }

func (e *refusedError) Error() string { return e.reason }

// retryError is a failure whose receiver said when to come back.
type retryError struct {
	reason string
	after  time.Duration
}

func (e *retryError) Error() string { return e.reason }

// exporter takes records from the ring, in batches, to the sink. One goroutine, one export at a time: while an export
// fails it is retried and the ring fills; what does not fit is dropped and counted there.
type exporter struct {
	r       *Recorder
	cfg     Config
	sink    sink
	log     *slog.Logger
	wakeup  chan struct{} // capacity 1
	stop    chan struct{} // closed by close: export what is there, then end
	done    chan struct{} // closed when the goroutine has ended
	abandon context.CancelFunc

	stopOnce sync.Once

	batch    batch
	payload  []byte
	downAt   time.Time // zero while exports work
	gaveUp   bool      // closing, and the receiver does not answer
	closeErr error     // valid after done
}

func startExporter(cfg Config, r *Recorder) (*exporter, error) {
	s, err := openSink(cfg)
	if err != nil {
		return nil, err
	}
	// The life of this context is from here to close, which bounds it by the caller's.
	ctx, cancel := context.WithCancel(context.Background())
	e := &exporter{
		r: r, cfg: cfg, sink: s, log: cfg.Logger.With("endpoint", endpointForLog(cfg.Endpoint)),
		wakeup: make(chan struct{}, 1), stop: make(chan struct{}), done: make(chan struct{}), abandon: cancel,
		batch: batch{service: cfg.Service, resource: resourceAttrs(cfg)},
	}
	go e.run(ctx)
	return e, nil
}

func resourceAttrs(cfg Config) []attr {
	attrs := make([]attr, 0, len(cfg.Resource)+1)
	for key, text := range cfg.Resource {
		attrs = append(attrs, attr{key: key, text: text})
	}
	slices.SortFunc(attrs, func(a, b attr) int { return cmp.Compare(a.key, b.key) })
	return slices.Insert(attrs, 0, attr{key: "service.name", text: cfg.Service})
}

// wake asks for an export. It never blocks.
func (e *exporter) wake() {
	select {
	case e.wakeup <- struct{}{}:
	default:
	}
}

// close ends the goroutine and waits for it. When ctx is done it ends the export under way.
func (e *exporter) close(ctx context.Context) error {
	e.stopOnce.Do(func() { close(e.stop) })
	select {
	case <-e.done:
	case <-ctx.Done():
	}
	e.abandon()
	<-e.done
	return e.closeErr
}

func (e *exporter) stopping() bool {
	select {
	case <-e.stop:
		return true
	default:
		return false
	}
}

func (e *exporter) run(ctx context.Context) {
	defer close(e.done)
	tick := time.NewTicker(e.cfg.FlushEvery)
	defer tick.Stop()
	for !e.stopping() {
		select {
		case <-e.wakeup:
		case <-tick.C:
		case <-e.stop:
		}
		e.exportOne(ctx) // what is there now, and then only whole batches: small ones cost the most
		for e.r.ring.len() >= e.cfg.BatchSize && !e.stopping() {
			e.exportOne(ctx)
		}
	}
	for !e.gaveUp && e.exportOne(ctx) {
	}
	e.dropRest()
	e.closeErr = e.sink.close()
}

// exportOne exports one batch and reports whether there was one. When it returns, the batch's spans are counted as
// exported or dropped.
func (e *exporter) exportOne(ctx context.Context) bool {
	b := &e.batch
	b.records = e.r.ring.take(b.records[:0], e.cfg.BatchSize)
	if len(b.records) == 0 {
		return false
	}
	b.volumes = e.r.volumeNames(b.volumes)
	b.notes = e.r.takeNotes(b.records)
	b.skew = e.skew()
	b.spans = 0
	for i := range b.records {
		b.spans += b.records[i].spans()
	}
	e.payload = e.sink.encode(e.payload[:0], b)
	rejected, err := e.deliver(ctx)
	count := &e.r.count
	switch refused, isRefusal := errors.AsType[*refusedError](err); {
	case err == nil:
		rejected = min(rejected, b.spans)
		count.exported.Add(b.spans - rejected)
		count.drop(dropRejected, rejected)
		e.up()
	case isRefusal:
		count.drop(dropRejected, b.spans)
		e.down(refused)
	default:
		e.gaveUp = true
		count.drop(dropShutdown, b.spans)
	}
	return true
}

// deliver sends the payload until it is taken or refused, or until the recorder closes: then it tries once more.
func (e *exporter) deliver(ctx context.Context) (rejected uint64, err error) {
	for pause := e.cfg.RetryAfter; ; pause = min(2*pause, 50*e.cfg.RetryAfter) {
		last := e.stopping()
		attempt, cancel := context.WithTimeout(ctx, e.cfg.Timeout)
		rejected, err = e.sink.send(attempt, e.payload)
		cancel()
		if _, refused := errors.AsType[*refusedError](err); err == nil || refused {
			return rejected, err
		}
		e.down(err)
		if last || ctx.Err() != nil {
			return 0, err
		}
		wait := pause/2 + rand.N(pause/2+1)
		if asked, ok := errors.AsType[*retryError](err); ok && asked.after > 0 {
			wait = min(asked.after, time.Minute)
		}
		select {
		case <-time.After(wait):
		case <-e.stop:
		}
	}
}

// down and up write one line an outage and one when it is over.
func (e *exporter) down(err error) {
	if !e.downAt.IsZero() {
		return
	}
	e.downAt = time.Now()
	e.log.Warn("span export fails; spans wait, and are dropped and counted when the queue is full", "err", err)
}

func (e *exporter) up() {
	if e.downAt.IsZero() {
		return
	}
	count := &e.r.count
	e.log.Info("span export works again", "after", time.Since(e.downAt).Round(time.Millisecond),
		"dropped_total", count.dropped[dropQueueFull].Load()+count.dropped[dropRejected].Load())
	e.downAt = time.Time{}
}

// dropRest counts what is still queued as dropped.
func (e *exporter) dropRest() {
	for {
		b := &e.batch
		b.records = e.r.ring.take(b.records[:0], e.cfg.BatchSize)
		if len(b.records) == 0 {
			return
		}
		for i := range b.records {
			e.r.count.drop(dropShutdown, b.records[i].spans())
		}
	}
}

// skew is what the wall clock has moved against Now since the process started, if that is worth a correction.
func (e *exporter) skew() int64 {
	if e.cfg.Now != nil {
		return 0
	}
	skew := time.Now().UnixNano() - Now()
	if time.Duration(skew).Abs() < time.Millisecond {
		return 0
	}
	return skew
}
