package telemetry_test

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/remora-storage/remora/telemetry"
)

// blackHole is a recorder whose file is /dev/null: spans are encoded, and go nowhere.
func blackHole(tb testing.TB) *telemetry.Recorder {
	r, err := telemetry.New(telemetry.Config{Service: "bench", Endpoint: "file:/dev/null"})
	require.NoError(tb, err)
	tb.Cleanup(func() { require.NoError(tb, r.Close(context.Background())) })
	return r
}

// write is the telemetry of one write request: everything that the I/O path does for it.
func write(v *telemetry.VolumeRecorder, seq uint64) {
	io := v.Begin(telemetry.OpWrite, seq, 42)
	io.SetRange(4096, 4096)
	t := telemetry.Now()
	io.Stage(telemetry.StageOverlay, t, t+1000)
	io.Stage(telemetry.StageJournal, t+1000, t+2000)
	io.Record(1, seq)
	io.End(0)
}

// TestNoAllocations also runs with the race detector, where sync.Pool forgets at random: AllocsPerRun rounds down.
func TestNoAllocations(t *testing.T) {
	for _, sampling := range []string{"every", "slow:1s", "off"} {
		s, err := telemetry.ParseSampling(sampling)
		require.NoError(t, err)
		r, err := telemetry.New(telemetry.Config{Service: "test", Endpoint: "file:/dev/null", BatchSize: 65536,
			FlushEvery: 1 << 40}) // the exporter sleeps: its allocations are not the path's
		require.NoError(t, err)
		v := r.Volume("data-db-0", s)
		require.Zero(t, testing.AllocsPerRun(1000, func() { write(v, 7) }), sampling)
		require.Zero(t, testing.AllocsPerRun(1000, func() { v.Commit(1, 2, 3, 4, 5, 6, nil) }), sampling)
		require.NoError(t, r.Close(context.Background()))
	}
}

func BenchmarkWrite(b *testing.B) {
	for _, sampling := range []string{"every", "slow:1s", "off"} {
		b.Run(sampling, func(b *testing.B) {
			s, err := telemetry.ParseSampling(sampling)
			require.NoError(b, err)
			v := blackHole(b).Volume("data-db-0", s)
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				write(v, uint64(i))
			}
		})
	}
}

// BenchmarkBeginEnd is the least that a request costs: no stages.
func BenchmarkBeginEnd(b *testing.B) {
	v := blackHole(b).Volume("data-db-0", telemetry.Sampling{})
	b.ReportAllocs()
	for b.Loop() {
		v.Begin(telemetry.OpGetattr, 1, 42).End(0)
	}
}

func BenchmarkNow(b *testing.B) {
	for b.Loop() {
		telemetry.Now()
	}
}

func BenchmarkWriteParallel(b *testing.B) {
	v := blackHole(b).Volume("data-db-0", telemetry.Sampling{})
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for i := uint64(0); pb.Next(); i++ {
			write(v, i)
		}
	})
}
