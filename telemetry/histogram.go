package telemetry

import (
	"math/bits"
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"
)

// numBuckets bounds, each twice the one before: from 1 to 2^24 units, and one bucket above. With a unit of a microsecond
// that is up to 16.8 s.
const numBuckets = 25

// log2Histogram counts values in buckets whose bounds are powers of two. It costs two atomic additions a value;
// client_golang's Observe searches its bounds and costs several times that.
type log2Histogram struct {
	sum    atomic.Uint64
	bucket [numBuckets + 1]atomic.Uint64
}

// observe counts a value of so many units; sum is the same value in a finer unit, if there is one.
func (h *log2Histogram) observe(units, sum uint64) {
	i := 0
	if units > 1 {
		i = min(bits.Len64(units-1), numBuckets) // 2 -> 1, 3 and 4 -> 2: bounds are inclusive, as Prometheus has them
	}
	h.bucket[i].Add(1)
	h.sum.Add(sum)
}

// metric is a snapshot, with bounds and sum multiplied into the metric's unit; nil while nothing was counted.
func (h *log2Histogram) metric(d *prometheus.Desc, unit, sumUnit float64, labels ...string) prometheus.Metric {
	var count uint64
	bounds := make(map[float64]uint64, numBuckets)
	for i := range h.bucket {
		count += h.bucket[i].Load()
		if i < numBuckets {
			bounds[float64(uint64(1)<<i)*unit] = count
		}
	}
	if count == 0 {
		return nil
	}
	return prometheus.MustNewConstHistogram(d, count, float64(h.sum.Load())*sumUnit, bounds, labels...)
}

// observeNanos counts a duration in microseconds, rounded up. A clock that went back counts as zero.
func (h *log2Histogram) observeNanos(d int64) {
	n := uint64(max(d, 0))
	h.observe((n+999)/1000, n)
}
