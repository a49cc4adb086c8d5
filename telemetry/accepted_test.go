package telemetry

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// TestAcceptedIsAChildOfTheWrite: the write was answered long before it was durable, and its trace tells both.
func TestAcceptedIsAChildOfTheWrite(t *testing.T) {
	b := &batch{volumes: []string{"v"}}
	parent := SpanRef{1, 2, 3}
	commit := SpanRef{4, 5, 6}
	r, err := New(Config{Service: "test", Endpoint: "file:" + t.TempDir() + "/spans", FlushEvery: time.Hour})
	require.NoError(t, err)
	v := r.Volume("v", Sampling{})
	v.Accepted(SpanRef{}, 10, 20, 1, 2, commit) // the owner's own record: no request asked for it
	v.Accepted(parent, 10, 20, 1, 2, commit)
	b.records = r.ring.take(nil, 10)
	require.Len(t, b.records, 1)
	n := 0
	b.each(func(s *span) {
		n++
		require.Equal(t, "commit", s.name)
		require.Equal(t, parent.span, s.parent)
		require.Equal(t, parent.traceLo, s.ref.traceLo)
		require.NotEqual(t, parent.span, s.ref.span)
		require.Equal(t, []SpanRef{commit}, s.links)
		require.EqualValues(t, 10, s.end-s.start)
	})
	require.Equal(t, 1, n)
	require.NoError(t, r.Close(t.Context()))
}
