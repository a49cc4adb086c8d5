package heap

import (
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestPercent(t *testing.T) {
	for _, row := range []struct {
		live uint64
		want int
	}{{0, 400}, {1 << 20, 400}, {4 << 20, 400}, {8 << 20, 200}, {32 << 20, 50}, {1 << 30, 50}} {
		require.Equal(t, row.want, percent(row.live), "%d bytes", row.live)
	}
}

var sink []byte

// collections counts those of a process that allocates and keeps nothing.
func collections(bytes int) uint32 {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	for n := 0; n < bytes; n += 32 << 10 {
		sink = make([]byte, 32<<10)
	}
	runtime.ReadMemStats(&after)
	return after.NumGC - before.NumGC
}

func percentNow() int {
	sample := []metrics.Sample{{Name: "/gc/gogc:percent"}}
	metrics.Read(sample)
	return int(sample[0].Value.Uint64())
}

// TestKeep: who is busy collects less often, and who has rested is as before.
func TestKeep(t *testing.T) {
	before := debug.SetGCPercent(Rest)
	defer debug.SetGCPercent(before)
	often := collections(512 << 20)
	stop := Keep()
	defer stop()
	require.Eventually(t, func() bool { // as soon as it has seen two collections, one soon after the other
		collections(64 << 20)
		return percentNow() > Rest
	}, time.Minute, time.Millisecond)
	seldom := collections(512 << 20)
	require.Less(t, seldom, often/2, "collections of 512 MiB that nobody keeps; %d at rest", often)
	require.Eventually(t, func() bool { return percentNow() == Rest }, time.Minute, 50*time.Millisecond, "at rest again")
	stop()
	require.Equal(t, Rest, percentNow())
}
