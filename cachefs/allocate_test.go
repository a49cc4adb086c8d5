package cachefs

import (
	"context"
	"log/slog"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/remora-storage/remora/cachefs/meta"
	"github.com/remora-storage/remora/cachefs/record"
	"github.com/remora-storage/remora/telemetry"
)

// keptLog keeps records and applies none, so that all state is overlay.
type keptLog struct {
	State // empty
	kept  []*record.Record
}

func (l *keptLog) Append(r *record.Record, _ telemetry.SpanRef) error {
	l.kept = append(l.kept, r)
	return nil
}
func (l *keptLog) OnApplied(func([]*record.Record))                  {}
func (l *keptLog) Admit() error                                      { return nil }
func (l *keptLog) Room(int64) error                                  { return nil }
func (l *keptLog) Get([]byte) ([]byte, bool, error)                  { return nil, false, nil }
func (l *keptLog) Scan(_, _ []byte, _ func(k, v []byte) error) error { return nil }
func (l *keptLog) Wait(context.Context, record.Seq) (telemetry.SpanRef, error) {
	return telemetry.SpanRef{}, nil
}

// uniques are the requests that name the records from the n-th on.
func (l *keptLog) uniques(n int) []uint64 {
	var all []uint64
	for _, r := range l.kept[n:] {
		all = append(all, r.Unique)
	}
	return all
}

// A request of several records counts as done only with the last of them: before that, a successor must not answer it from the table.
func TestFallocateIsDoneWithItsLastRecord(t *testing.T) {
	log := &keptLog{}
	fs, err := Open(t.Context(), Config{Log: log, State: log, Epoch: 1, Incarnation: 1, Session: 7, NewSession: true, Size: 1 << 40,
		Now: time.Now, Logger: slog.New(slog.DiscardHandler)}, true)
	require.NoError(t, err)
	defer fs.Close()
	a, err := fs.Create(&Caller{Unique: 2}, meta.Root, "file", Node{Mode: syscall.S_IFREG | 0o644})
	require.NoError(t, err)
	size := uint64(600 * record.ChunkSize) // more than one record's chunks
	_, err = fs.SetAttr(&Caller{Unique: 4}, a.Ino, SetAttr{Size: &size})
	require.NoError(t, err)
	for _, c := range []struct {
		name   string
		mode   uint32
		off, n uint64
		want   []uint64
	}{
		{"a hole in one record", FallocPunchHole | FallocKeepSize, 0, 4096, []uint64{6}},
		{"a hole in two records", FallocPunchHole | FallocKeepSize, 0, size, []uint64{0, 6}},
		{"zeros in two records", FallocZeroRange | FallocKeepSize, 0, 2 * size, []uint64{0, 6}},
		{"zeros in two records, and a new size", FallocZeroRange, 0, size + 1, []uint64{0, 0, 6}},
		{"a new size", 0, 0, size + 2, []uint64{6}},
	} {
		n := len(log.kept)
		require.NoError(t, fs.Fallocate(&Caller{Unique: 6}, a.Ino, c.mode, c.off, c.n), c.name)
		require.Equal(t, c.want, log.uniques(n), c.name)
	}
}
