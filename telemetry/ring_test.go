package telemetry

import (
	"context"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// TestRingIsAQueue compares with a slice that is cut at the bound.
func TestRingIsAQueue(t *testing.T) {
	const size, seed = 100, 1
	rnd := rand.New(rand.NewPCG(seed, seed))
	q := newRing(size)
	var model []uint64
	next, highest := uint64(0), 0
	for range 20000 {
		if rnd.IntN(2) == 0 {
			for range rnd.IntN(40) {
				next++
				result, n := q.put(&record{unique: next})
				if len(model) == size {
					require.Equal(t, putFull, result)
					continue
				}
				model = append(model, next)
				highest = max(highest, len(model))
				require.Equal(t, putDone, result)
				require.Equal(t, len(model), n)
			}
		} else {
			want := rnd.IntN(40)
			got := q.take(nil, want)
			require.Len(t, got, min(want, len(model)))
			for i := range got {
				require.Equal(t, model[i], got[i].unique)
			}
			model = model[len(got):]
		}
		require.Equal(t, len(model), q.len())
		require.Equal(t, highest, q.fresh, "slots ever touched: the longest queue that ever was")
	}
	q.close()
	result, _ := q.put(&record{})
	require.Equal(t, putClosed, result)
	require.Len(t, q.take(nil, size), len(model))
}

func TestIDsDiffer(t *testing.T) {
	ids := &idSource{}
	seen := map[uint64]bool{}
	for range 10000 {
		ref := ids.next()
		for i := range maxStages {
			seen[ref.child(i)] = true
		}
		seen[ref.span] = true
	}
	require.Len(t, seen, 10000*(maxStages+1))
}

func TestHistogramBuckets(t *testing.T) {
	for _, c := range []struct {
		nanos  int64
		bucket int
	}{{-5, 0}, {0, 0}, {1000, 0}, {1001, 1}, {2000, 1}, {2001, 2}, {4000, 2}, {4001, 3}, {1 << 60, numBuckets},
		{1000 << 24, 24}, {1000<<24 + 1, 25}} {
		var h log2Histogram
		h.observeNanos(c.nanos)
		for i := range h.bucket {
			require.Equal(t, i == c.bucket, h.bucket[i].Load() == 1, "%d ns, bucket %d", c.nanos, i)
		}
	}
}

// BenchmarkQueued is a write with two stages whose record always finds room: what sampling "every" costs the I/O path
// while the exporter keeps up. The exporter itself is BenchmarkEncode.
func BenchmarkQueued(b *testing.B) {
	const size = 1 << 14
	r, err := New(Config{Service: "bench", Endpoint: "file:/dev/null", RingSize: size, FlushEvery: time.Hour})
	require.NoError(b, err)
	defer func() { require.NoError(b, r.Close(context.Background())) }()
	v := r.Volume("data-db-0", Sampling{})
	r.batch = size + 1 // never wakes the exporter
	var sink []record
	b.ReportAllocs()
	for i := uint64(1); b.Loop(); i++ {
		io := v.Begin(OpWrite, i, 42)
		io.SetRange(4096, 4096)
		t := Now()
		io.Stage(StageOverlay, t, t+1000)
		io.Stage(StageJournal, t+1000, t+2000)
		io.Record(1, i)
		io.End(0)
		if i%size == 0 {
			b.StopTimer()
			sink = r.ring.take(sink[:0], size)
			b.StartTimer()
		}
	}
	require.Zero(b, r.count.dropped[dropQueueFull].Load())
}
