package transport

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"
)

// Transport sends and receives. Safe for concurrent use.
type Transport struct {
	cfg      Config
	listener net.Listener
	count    counters
	lines    *lines

	spawn  func(func(ctx context.Context)) bool // as start, for who holds mu
	cancel context.CancelFunc
	wg     sync.WaitGroup

	mu     sync.RWMutex // guards what follows; Send holds it for reading over a push, so that no link is forgotten meanwhile
	closed bool
	links  map[string]*link
	bulk   map[string]*bulkPeer
	asking map[*bulkConn]struct{} // requests under way
}

// Open listens, and answers peers from then on. ctx ends the transport as Close does, but only Close waits.
func Open(ctx context.Context, cfg Config) (*Transport, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	if _, _, err := cfg.TLS(); err != nil {
		return nil, fmt.Errorf("transport: %w", err)
	}
	listener, err := new(net.ListenConfig).Listen(ctx, "tcp", cfg.Listen)
	if err != nil {
		return nil, fmt.Errorf("transport: %w; choose another address, or port 0 for any", err)
	}
	ctx, cancel := context.WithCancel(ctx)
	t := &Transport{cfg: cfg, listener: listener, cancel: cancel, lines: newLines(cfg.Logger, cfg.LogEvery),
		links: map[string]*link{}, bulk: map[string]*bulkPeer{},
		asking: map[*bulkConn]struct{}{}}
	t.spawn = func(f func(context.Context)) bool {
		if t.closed {
			return false
		}
		t.wg.Add(1)
		go func() { defer t.wg.Done(); f(ctx) }()
		return true
	}
	t.spawn(t.accept)
	return t, nil
}

// start starts a goroutine that Close waits for; false: closed.
func (t *Transport) start(f func(context.Context)) bool {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return t.spawn(f)
}

// Addr is where it listens, with the port.
func (t *Transport) Addr() string { return t.listener.Addr().String() }

// Close ends every connection and waits for every goroutine. What waits to be sent is lost.
func (t *Transport) Close() error {
	t.mu.Lock()
	if t.closed {
		t.mu.Unlock()
		return nil
	}
	t.closed = true
	t.mu.Unlock()
	t.cancel()
	t.closeBulk()
	err := t.listener.Close()
	if errors.Is(err, net.ErrClosed) { // ctx was done
		err = nil
	}
	t.wg.Wait()
	return err
}

// Send queues a frame for the process at addr, and never blocks. False: it was dropped, because too much waits for that peer, the peer
// cannot be reached, the frame is too long, or the transport is closed. True says nothing of its arrival. The parts, which become the
// body, are copied, but for those of lentBytes and more behind the first: nobody may change them any more.
func (t *Transport) Send(addr string, h Header, parts ...[]byte) bool {
	return t.queue(addr, h, true, parts)
}

// Queue is Send of a frame that may wait until Flush is called for that address, in this goroutine or another, or somebody uses Send.
func (t *Transport) Queue(addr string, h Header, parts ...[]byte) bool {
	return t.queue(addr, h, false, parts)
}

// Flush sends what is queued for an address, in the caller's goroutine where that is possible at once (flush.go), else as Send does. It
// never blocks. Nobody is woken then, and frames that were queued one after the other go out together.
func (t *Transport) Flush(addr string) {
	t.mu.RLock()
	l := t.links[addr]
	t.mu.RUnlock()
	if l != nil {
		l.flush()
	}
}

func (t *Transport) queue(addr string, h Header, wake bool, parts [][]byte) bool {
	size := 0
	for _, p := range parts {
		size += len(p)
	}
	why := dropTooLong
	if size <= t.cfg.MaxFrame && h.Kind != 0 && h.Kind < firstOwnKind {
		why = t.push(addr, h, wake, parts)
	}
	if why == dropNone {
		return true
	}
	t.count.dropped[why].Add(1)
	return false
}

func (t *Transport) push(addr string, h Header, wake bool, parts [][]byte) dropReason {
	now := time.Now()
	t.mu.RLock()
	if l := t.links[addr]; l != nil && !t.closed {
		defer t.mu.RUnlock()
		return l.q.push(now, h, wake, parts...)
	}
	t.mu.RUnlock()
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		return dropClosed
	}
	l := t.links[addr]
	if l == nil {
		l = &link{t: t, addr: addr, q: newQueue(t.cfg.QueueBytes, now)}
		t.links[addr] = l
		t.spawn(l.run)
	}
	return l.q.push(now, h, wake, parts...)
}

// retire forgets a link that nobody uses; false: somebody does after all.
func (t *Transport) retire(l *link) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !l.q.idle(time.Now().Add(-t.cfg.IdleAfter)) {
		return false
	}
	delete(t.links, l.addr)
	return true
}
