package replication_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/remora-storage/remora/cachefs/record"
	"github.com/remora-storage/remora/sidecar/replication"
	"github.com/remora-storage/remora/telemetry"
)

// TestIdleOwnerIsFenced: an owner that has nothing unaccepted is fenced, too, before it can write another record. It would put content into
// blocks of the arena that it takes for fresh, and that the next owner has written meanwhile.
func TestIdleOwnerIsFenced(t *testing.T) {
	c := newTrio(t, 1, 2, 3)
	old, next := c.nodes[1], c.nodes[2]
	old.own(true)
	name := record.Name{Epoch: c.epoch, Incarnation: record.Incarnation(c.epoch)}
	old.file("a", 300_000)
	require.Eventually(t, func() bool { return next.group.Status().Applied == old.group.Status().Committed }, time.Minute, time.Millisecond)
	name.Seq = old.group.Status().Acceptance.Last + 1
	next.own(false)
	next.file("b", 300_000)
	c.agree()
	require.ErrorIs(t, old.group.Append(&record.Record{Header: record.Header{Kind: record.Change, Name: name}}, telemetry.SpanRef{}), replication.ErrFenced)
	require.ErrorIs(t, old.group.Admit(), replication.ErrFenced)
}
