package transport

import (
	"encoding/binary"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// direct is a handler that lets Flush write, and counts.
type direct struct {
	Handler
	refuse  atomic.Bool
	asked   atomic.Int64
	drained chan int // how many frames a Drained was for
	frames  atomic.Int64
}

func directly(d *direct) func(*Config) {
	d.drained = make(chan int, 1<<16)
	return func(c *Config) { d.Handler, c.Handler = c.Handler, d }
}

func (d *direct) Allows(Identity, uint64, uint64, uint64) bool {
	d.asked.Add(1)
	return !d.refuse.Load()
}

func (d *direct) Receive(who Identity, f Frame) {
	d.frames.Add(1)
	d.Handler.Receive(who, f)
}

func (d *direct) Drained() {
	d.drained <- int(d.frames.Swap(0))
}

// connected sends a frame, and answers the link when it is known to be up.
func connected(t *testing.T, a, b *peer) *link {
	require.True(t, a.Send(b.Addr(), Header{Kind: 1, Group: 7, From: 1, To: 2}))
	b.frames(t, 1)
	l := a.links[b.Addr()]
	require.Eventually(t, func() bool {
		l.mu.Lock()
		defer l.mu.Unlock()
		n, _ := l.q.waiting(nil)
		return l.c != nil && n == 0 && len(l.q.wake) == 0
	}, patience, time.Millisecond)
	return l
}

func numbered(n uint64, size int) []byte {
	return binary.LittleEndian.AppendUint64(make([]byte, 0, size), n)[:size]
}

// TestFlushWritesHere: what is queued stays until Flush, wakes nobody, and is written by who calls it, in order.
func TestFlushWritesHere(t *testing.T) {
	w, mine, theirs := newWorld(t), &direct{}, &direct{}
	quiet := func(c *Config) { c.DeadAfter = time.Hour } // a ping has the link look at its queue
	a, b := w.peer("db-0", directly(mine), quiet), w.peer("db-1", directly(theirs), quiet)
	l := connected(t, a, b)
	sent := a.count.frames[outbound].Load()
	for round := range 100 {
		for k := range 3 {
			require.True(t, a.Queue(b.Addr(), Header{Kind: 1, Group: 7, From: 1, To: 2}, numbered(uint64(3*round+k), 4096)))
		}
		require.Empty(t, l.q.wake)
		require.Equal(t, sent+uint64(3*round), a.count.frames[outbound].Load())
		a.Flush(b.Addr())
		require.Empty(t, l.q.wake, "the link's goroutine is not needed")
		require.Equal(t, sent+uint64(3*round+3), a.count.frames[outbound].Load(), "written when Flush returns")
	}
	for i, f := range b.frames(t, 301)[1:] {
		require.Equal(t, numbered(uint64(i), 4096), f.Body)
	}
	require.Positive(t, mine.asked.Load())
	a.Flush("127.0.0.1:1") // nobody
}

// TestDrained: after the frames that came together, and each frame is followed by one.
func TestDrained(t *testing.T) {
	w, theirs := newWorld(t), &direct{}
	a, b := w.peer("db-0", directly(&direct{})), w.peer("db-1", directly(theirs))
	connected(t, a, b)
	total, calls := 0, 0
	const frames = 400
	for range frames {
		require.True(t, a.Queue(b.Addr(), Header{Kind: 1, Group: 7, From: 1, To: 2}, numbered(1, 100)))
	}
	a.Flush(b.Addr())
	deadline := time.After(patience)
	for total < frames+1 { // one of connected
		select {
		case n := <-theirs.drained:
			require.Positive(t, n)
			total, calls = total+n, calls+1
		case <-deadline:
			t.Fatalf("%d of %d frames were followed by Drained", total, frames+1)
		}
	}
	require.Equal(t, frames+1, total)
	require.Less(t, calls, frames/4, "not one by one")
}

// TestFlushNeverBlocks: what the socket does not take goes out when it does, nothing of it is lost or out of order, and nobody waits.
func TestFlushNeverBlocks(t *testing.T) {
	w := newWorld(t)
	a, b := w.peer("db-0", directly(&direct{}), func(c *Config) { c.QueueBytes = 64 << 20 }), w.peer("db-1")
	l := connected(t, a, b)
	release := b.holds(t)
	const size, frames = 60 << 10, 400 // more than the buffers of both sockets
	behind := false
	for i := range uint64(frames) {
		require.True(t, a.Queue(b.Addr(), Header{Kind: 1, Group: 7, From: 1, To: 2}, numbered(i, size)))
		a.Flush(b.Addr())
		if l.mu.TryLock() {
			behind = behind || l.c.sock.behind()
			l.mu.Unlock()
		} else {
			behind = true // the link's goroutine waits in a write
		}
	}
	require.True(t, behind, "the sockets took everything: the test proves nothing")
	release()
	for i, f := range b.frames(t, frames+1)[1:] {
		require.Equal(t, uint64(i), binary.LittleEndian.Uint64(f.Body))
		require.Len(t, f.Body, size)
	}
}

// TestWhatIsLeftGoesFirst: whoever writes next, a sign of life or the end of the connection.
func TestWhatIsLeftGoesFirst(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer listener.Close()
	near, err := net.Dial("tcp", listener.Addr().String())
	require.NoError(t, err)
	far, err := listener.Accept()
	require.NoError(t, err)
	defer far.Close()
	s := &socket{Conn: near, buf: []byte("left ")}
	s.direct()
	require.True(t, s.behind())
	_, err = s.Write([]byte("behind"))
	require.NoError(t, err)
	require.False(t, s.behind())
	s.hold()
	_, err = s.Write([]byte(" held"))
	require.NoError(t, err)
	require.NoError(t, s.tryFlush())
	require.NoError(t, near.Close())
	got, err := io.ReadAll(far)
	require.NoError(t, err)
	require.Equal(t, "left behind held", string(got))
	s.hold()
	_, err = s.Write([]byte("lost"))
	require.NoError(t, err)
	require.Error(t, s.tryFlush(), "a connection that is closed")
}

// TestFlushLeavesDoubtToTheLink: what is not allowed for sure is left to who may wait for an answer.
func TestFlushLeavesDoubtToTheLink(t *testing.T) {
	w, mine := newWorld(t), &direct{}
	a, b := w.peer("db-0", directly(mine)), w.peer("db-1")
	connected(t, a, b)
	mine.refuse.Store(true)
	require.True(t, a.Queue(b.Addr(), Header{Kind: 1, Group: 7, From: 1, To: 2}))
	a.Flush(b.Addr())
	b.frames(t, 2) // Authorize allows it
}

// TestManyFlush: frames of many goroutines, with pings between them and connections that are renewed, come once and in each one's order.
func TestManyFlush(t *testing.T) {
	w, theirs := newWorld(t), &direct{}
	a := w.peer("db-0", directly(&direct{}), func(c *Config) { c.Tick = 2 * time.Millisecond })
	b := w.peer("db-1", directly(theirs))
	l := connected(t, a, b)
	const writers, each = 8, 300
	var done sync.WaitGroup
	for n := range uint64(writers) {
		done.Go(func() {
			for i := range uint64(each) {
				if !a.Queue(b.Addr(), Header{Kind: 1, Group: n, From: 1, To: 2}, numbered(i, int(64+i%2000))) {
					t.Errorf("frame %d of %d was dropped", i, n)
				}
				a.Flush(b.Addr())
				if i%100 == 50 {
					l.mu.Lock()
					if l.c != nil {
						l.c.refused.Store(true) // renew it at the next tick
					}
					l.mu.Unlock()
				}
			}
		})
	}
	done.Wait()
	next := map[uint64]uint64{}
	for _, f := range b.frames(t, writers*each+1)[1:] {
		require.Equal(t, next[f.Group], binary.LittleEndian.Uint64(f.Body), "of writer %d", f.Group)
		next[f.Group]++
	}
}
