package journal

import (
	"fmt"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/stretchr/testify/require"
)

func benchJournal(b testing.TB) *Journal {
	o := testOptions(vfs.Default)
	o.Dir = b.TempDir()
	o.SegmentBytes = 16 << 20
	j, err := Open(o, func(Frame) error { return nil })
	require.NoError(b, err)
	return j
}

// BenchmarkAppendPayload appends records, releases segments every 8 MiB, and with sync= syncs every so many records:
// go test -bench . -run ^$ ./sidecar/replication/journal
func BenchmarkAppendPayload(b *testing.B) {
	for _, c := range []struct{ size, sync int }{{4 << 10, 0}, {4 << 10, 1}, {4 << 10, 16}, {64 << 10, 0}, {1 << 20, 0}, {1 << 20, 1}} {
		b.Run(fmt.Sprintf("%dKiB/sync=%d", c.size>>10, c.sync), func(b *testing.B) {
			j := benchJournal(b)
			p := Payload{Epoch: 1, Record: make([]byte, c.size)}
			b.SetBytes(int64(c.size))
			b.ReportAllocs()
			bytes := 0
			for b.Loop() {
				p.Seq++
				_, err := j.AppendPayload(1, 2, p)
				require.NoError(b, err)
				if c.sync > 0 && int(p.Seq)%c.sync == 0 {
					_, err := j.Sync()
					require.NoError(b, err)
				}
				if bytes += c.size; bytes >= 8<<20 {
					bytes = 0
					b.StopTimer()
					_, err := j.Sync()
					require.NoError(b, err)
					require.NoError(b, j.Release(j.End()))
					require.NoError(b, j.Prepare())
					b.StartTimer()
				}
			}
			b.StopTimer()
			require.NoError(b, j.Close())
		})
	}
}

func TestAppendPayloadAllocatesNothing(t *testing.T) {
	j := benchJournal(t)
	p := Payload{Epoch: 1, Record: make([]byte, 4<<10)}
	require.Zero(t, testing.AllocsPerRun(1000, func() {
		p.Seq++
		_, err := j.AppendPayload(1, 2, p)
		require.NoError(t, err)
	}))
	require.NoError(t, j.Close())
}
