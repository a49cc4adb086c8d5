package transport

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"
)

// split cuts a body into parts, as records are: some are long, some empty.
func split(r *rand.Rand, body []byte) (parts [][]byte) {
	for range r.IntN(5) {
		n := r.IntN(len(body) + 1)
		parts, body = append(parts, body[:n:n]), body[n:]
	}
	return append(parts, body)
}

func bodyOf(f queued) int { return int(binary.LittleEndian.Uint32(f.b[12:])) }

// TestBuffersAreUsedAgain sends frames that are longer than a buffer, again and again: they go into the same memory, once nobody reads it.
func TestBuffersAreUsedAgain(t *testing.T) {
	q := newQueue(64<<20, time.Now())
	push := func(round byte, n int) {
		parts := make([][]byte, n)
		for i := range parts {
			parts[i] = bytes.Repeat([]byte{round}, lentBytes-1)
		}
		require.Equal(t, dropNone, q.push(time.Now(), Header{Kind: 1}, true, parts...))
	}
	var taken []queued
	seen := map[*byte]bool{}
	for round := byte(1); round < 20; round++ {
		push(round, 2) // each in a buffer of its own
		push(round, 5)
		for _, f := range taken {
			require.Equal(t, bytes.Repeat([]byte{round - 1}, len(f.b)-headerBytes), f.b[headerBytes:], "what is being sent")
		}
		taken = q.take(taken)
		require.Len(t, taken, 2)
		for _, f := range taken {
			seen[&f.b[0]] = true
		}
	}
	require.LessOrEqual(t, len(seen), 4, "buffers for frames of two lengths, of which one each is being sent")
	q.forget()
	require.Empty(t, q.spare)
	push(0, 100) // more than is kept
	q.take(q.take(taken))
	for _, b := range q.spare {
		require.LessOrEqual(t, cap(b), keptBytes)
	}
}

// TestQueue pushes and takes at random, and compares with a list.
func TestQueue(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	q := newQueue(1<<20, time.Now())
	var want, got []byte
	var used []queued
	take := func() {
		used = q.take(used)
		for _, f := range used {
			got = append(got, f.b...)
			for _, b := range f.more {
				got = append(got, b...)
			}
			require.Equal(t, headerBytes+bodyOf(f), f.size())
		}
	}
	for i := range 20000 {
		h := Header{1, uint64(i), 1, 2, nil}
		body := make([]byte, r.IntN(200))
		if r.IntN(100) == 0 {
			body = make([]byte, r.IntN(200<<10))
		}
		before := q.bytes
		switch why := q.push(time.Now(), h, true, split(r, body)...); why {
		case dropNone:
			want = appendFrame(want, h, body)
		case dropQueueFull:
			require.Greater(t, before+len(body)+headerBytes, 1<<20)
		default:
			t.Fatal(why)
		}
		require.LessOrEqual(t, q.bytes, 1<<20)
		if r.IntN(200) == 0 {
			take()
		}
	}
	take()
	require.True(t, bytes.Equal(want, got))
	require.Zero(t, q.bytes)

	require.Equal(t, dropNone, q.push(time.Now(), Header{Kind: 1}, true, make([]byte, 5<<20)), "one that is longer than the limit, alone")
	require.Equal(t, dropQueueFull, q.push(time.Now(), Header{Kind: 1}, true))
	require.Equal(t, 1, q.drop(time.Now().Add(time.Hour)))
	require.Equal(t, dropUnreachable, q.push(time.Now(), Header{Kind: 1}, true))
	require.Equal(t, dropNone, q.push(time.Now().Add(2*time.Hour), Header{Kind: 1}, true))
}

func TestLines(t *testing.T) {
	var b strings.Builder
	l := newLines(slog.New(slog.NewTextHandler(&b, nil)), time.Hour)
	for i := range 1000 {
		l.warn("same", "said", "i", i)
	}
	require.Equal(t, 1, strings.Count(b.String(), "\n"))
	l.every = 0
	l.warn("same", "said")
	require.Contains(t, b.String(), "more=999")
	l.every = time.Hour
	for i := range 10 * maxLines {
		l.warn(fmt.Sprint("peer ", i), "said")
	}
	require.LessOrEqual(t, len(l.last), maxLines)
}

func TestMetrics(t *testing.T) {
	w := newWorld(t)
	a, b := w.peer("db-0"), w.peer("db-1")
	require.True(t, a.Send(b.Addr(), Header{1, 7, 1, 2, nil}, make([]byte, 1000)))
	b.frames(t, 1)
	_, _ = rogue(t, b.Addr(), clientConfig(nil, protoFrames))
	eventually(t, "refused", func() bool { return b.count.refused.get("handshake") == 1 })
	registry := prometheus.NewRegistry()
	require.NoError(t, registry.Register(b))
	require.Error(t, registry.Register(b), "once")
	families, err := registry.Gather()
	require.NoError(t, err)
	got := map[string]float64{}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			name := f.GetName()
			for _, l := range m.GetLabel() {
				name += " " + l.GetValue()
			}
			got[name] = m.GetCounter().GetValue() + m.GetGauge().GetValue()
		}
	}
	require.Equal(t, 1.0, got["remora_transport_frames_total in"])
	require.Equal(t, 1048.0, got["remora_transport_bytes_total in"])
	require.Equal(t, 1.0, got["remora_transport_refused_total handshake"])
	require.Contains(t, got, "remora_transport_dropped_frames_total queue_full")
	require.Greater(t, got["remora_transport_certificate_expiry_timestamp_seconds"], float64(time.Now().Unix()))
}
