package holder_test

import (
	"context"
	"log/slog"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/remora-storage/remora/sidecar/session/holder"
	"github.com/remora-storage/remora/sidecar/session/holder/holdertest"
)

// successor is a holder that adopts the fixture's mount, as a node plugin does after its restart; the first one is gone.
func successor(t *testing.T, f *fixture) (*holder.Mount, chan holder.Event) {
	t.Helper()
	f.mount.Release()
	m, err := holder.Adopt(f.mount.Target(), holder.MountOptions{Volume: "data-db-0", AllowOther: true})
	require.NoError(t, err)
	require.True(t, m.Orphan())
	t.Cleanup(func() { require.NoError(t, m.Close()) })
	events := make(chan holder.Event, 100)
	s := holder.NewServer(holder.Config{Log: slog.New(slog.DiscardHandler), Notify: func(e holder.Event) { events <- e }, Grace: 200 * time.Millisecond})
	s.Add("data", m)
	l, err := holder.Listen(f.socket)
	require.NoError(t, err)
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx, l) }()
	t.Cleanup(func() {
		stop()
		require.NoError(t, <-done)
	})
	return m, events
}

// TestOffer: a sidecar that serves on brings its descriptor to the next holder, which gives it to the next sidecar.
func TestOffer(t *testing.T) {
	f := newFixture(t)
	c, err := holder.Attach(t.Context(), f.socket, "data")
	require.NoError(t, err)
	require.NoError(t, holdertest.Start(c))
	served := make(chan error, 1)
	go func() { served <- holdertest.Serve(c) }()
	require.NoError(t, f.stat())
	session := c.SessionID
	f.stop()
	<-c.Done()
	m, events := successor(t, f)
	require.NoError(t, f.stat(), "it is served all the time")
	require.NoError(t, c.Offer(t.Context(), f.socket))
	require.Equal(t, holder.Attached, (<-events).Kind)
	require.Equal(t, holder.Serving, (<-events).Kind)
	require.False(t, m.Orphan())
	require.Equal(t, session, m.SessionID())
	select {
	case <-c.Done():
		require.Fail(t, "Done is of the old holder")
	default:
	}

	_, err = holder.Attach(t.Context(), f.socket, "data")
	require.ErrorContains(t, err, "is being served", "two servers on one mount")
	require.NoError(t, m.Abort())
	require.NoError(t, <-served)
}

// TestOfferComesTooLate: another sidecar has attached meanwhile, and got a new mount.
func TestOfferComesTooLate(t *testing.T) {
	f := newFixture(t)
	c, err := holder.Attach(t.Context(), f.socket, "data")
	require.NoError(t, err)
	require.NoError(t, holdertest.Start(c))
	f.stop()
	m, events := successor(t, f)
	next, err := holder.Attach(t.Context(), f.socket, "data")
	require.NoError(t, err)
	require.Equal(t, holder.Fresh, next.State)
	require.Equal(t, holder.Remade, (<-events).Kind)
	require.NoError(t, next.Close())
	require.Equal(t, holder.Attached, (<-events).Kind)
	require.Equal(t, holder.Gone, (<-events).Kind)
	err = c.Offer(t.Context(), f.socket)
	var refused *holder.RefusedError
	require.ErrorAs(t, err, &refused)
	require.ErrorContains(t, err, "another connection by now")
	require.NotEqual(t, c.SessionID, m.SessionID())
	require.NoError(t, c.Close())
}

func TestAdoptWhatIsNotThere(t *testing.T) {
	needFUSE(t)
	_, err := holder.Adopt(t.TempDir(), holder.MountOptions{})
	require.ErrorIs(t, err, holder.ErrNotMounted)
}

// TestOther: what is not the holder's to answer goes to its owner.
func TestOther(t *testing.T) {
	socket := t.TempDir() + "/s"
	l, err := holder.Listen(socket)
	require.NoError(t, err)
	s := holder.NewServer(holder.Config{Log: slog.New(slog.DiscardHandler), Conns: 2,
		Other: func(_ context.Context, op string, line []byte) (any, error) {
			if op == "bad" {
				return nil, context.DeadlineExceeded
			}
			return map[string]string{"op": op, "line": string(line)}, nil
		}})
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx, l) }()
	var a struct{ Op, Line string }
	require.NoError(t, holder.Call(ctx, socket, map[string]string{"op": "hello"}, &a))
	require.Equal(t, "hello", a.Op)
	require.Equal(t, `{"op":"hello"}`, a.Line)
	var refused *holder.RefusedError
	require.ErrorAs(t, holder.Call(ctx, socket, map[string]string{"op": "bad"}, &a), &refused)

	for range 2 { // they stay open
		c, err := holder.Dial(ctx, socket)
		require.NoError(t, err)
		defer c.Close()
	}
	deadline, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	for err := error(nil); err == nil; { // until the server has seen both
		require.NoError(t, deadline.Err())
		err = holder.Call(deadline, socket, map[string]string{"op": "hello"}, &a)
	}
	stop()
	require.NoError(t, <-done)
}
