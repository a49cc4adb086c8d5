package holder

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Kind is what happened to a mount's sidecar.
type Kind string

// The kinds of events.
const (
	Attached Kind = "attached" // a sidecar has the descriptor
	Serving  Kind = "serving"  // it answers requests
	Gone     Kind = "gone"     // its connection is closed
	Remade   Kind = "remade"   // the mount was made anew; what had it open, or bound it, has the end of the old one
)

// Event tells the owner of a Server what a sidecar did.
type Event struct {
	Kind   Kind
	Volume string // the name given to Add
	PID    int    // of the sidecar, as the kernel saw it when it connected
}

// Config configures a Server.
type Config struct {
	Log    *slog.Logger
	Notify func(Event)   // may be nil; called in order per volume, must not call back into the Server
	Grace  time.Duration // how long an attach waits for a predecessor that is just dying; zero means 1 s
	Conns  int           // how many connections may be open at once; more are closed. Zero means 64
	// Other answers lines whose op is not of this package; its answer is sent as JSON, its error as a refusal. May be nil.
	Other func(ctx context.Context, op string, line []byte) (any, error)
}

// Server hands the mounts of one pod to its sidecar.
type Server struct {
	cfg Config

	mu     sync.Mutex
	mounts map[string]*served
	conns  map[*net.UnixConn]struct{}
	closed bool
}

// served is a mount and who has it. Its fields are guarded by Server.mu.
type served struct {
	mount *Mount
	owner *conn
}

// conn is one connection of a sidecar.
type conn struct {
	*net.UnixConn
	pid    int
	volume string        // what it attached; empty before
	served *served       // of volume
	gone   chan struct{} // closed when the sidecar is gone
	rights rights        // descriptors that came with requests
}

// NewServer returns a server without mounts.
func NewServer(cfg Config) *Server {
	if cfg.Grace == 0 {
		cfg.Grace = time.Second
	}
	if cfg.Conns == 0 {
		cfg.Conns = 64
	}
	if cfg.Notify == nil {
		cfg.Notify = func(Event) {}
	}
	return &Server{cfg: cfg, mounts: map[string]*served{}, conns: map[*net.UnixConn]struct{}{}}
}

// Add offers m to the sidecar under the pod's name for the volume. m stays with the caller, who closes it after Serve returned.
func (s *Server) Add(volume string, m *Mount) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.mounts[volume] = &served{mount: m}
}

// Remove takes a volume back: no sidecar can attach to it any more. One that has it is cut off.
func (s *Server) Remove(volume string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if v := s.mounts[volume]; v != nil && v.owner != nil {
		v.owner.Close()
	}
	delete(s.mounts, volume)
}

// Serve answers sidecars until ctx is done; then it closes l and every connection, and returns nil when all are gone.
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	var handlers sync.WaitGroup
	defer handlers.Wait()
	defer s.closeConns()
	stop := context.AfterFunc(ctx, func() { l.Close() })
	defer stop()
	defer l.Close() // also waits for the one above
	for {
		c, err := l.Accept()
		if err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return fmt.Errorf("holder: %w", err)
		}
		u, ok := c.(*net.UnixConn)
		if !ok || !s.register(u) {
			c.Close()
			continue
		}
		handlers.Go(func() { s.handle(ctx, u) })
	}
}

func (s *Server) register(u *net.UnixConn) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed || len(s.conns) >= s.cfg.Conns { // a tenant must not use up its holder's descriptors
		return false
	}
	s.conns[u] = struct{}{}
	return true
}

func (s *Server) closeConns() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	for u := range s.conns {
		u.Close()
	}
}

// handle serves one connection until it closes.
func (s *Server) handle(ctx context.Context, u *net.UnixConn) {
	c := &conn{UnixConn: u, pid: peerPID(u), gone: make(chan struct{})}
	defer s.release(c)
	defer c.rights.close()
	lines := bufio.NewScanner(&rightsReader{u, &c.rights})
	lines.Buffer(nil, maxLine)
	for lines.Scan() {
		var r request
		err := json.Unmarshal(lines.Bytes(), &r)
		if err == nil {
			err = s.do(ctx, c, r, lines.Bytes())
		}
		if err != nil {
			s.cfg.Log.Warn("holder refused a request", "volume", r.Volume, "pid", c.pid, "err", err)
			b, _ := line(answer{Error: err.Error()})
			if _, err := u.Write(b); err != nil {
				return
			}
		}
	}
}

// do carries one request out and answers it, or returns why it is refused.
func (s *Server) do(ctx context.Context, c *conn, r request, text []byte) error {
	switch r.Op {
	case "attach":
		return s.attach(ctx, c, r.Volume)
	case "offer":
		return s.offer(ctx, c, r)
	case "init", "ready", "lost":
		return s.doAttached(c, r)
	}
	if s.cfg.Other == nil {
		return fmt.Errorf("unknown op %q; known are attach, offer, init, ready and lost", r.Op)
	}
	a, err := s.cfg.Other(ctx, r.Op, text)
	if err != nil {
		return err
	}
	b, err := line(a)
	if err == nil {
		_, err = c.Write(b)
	}
	return err
}

func (s *Server) doAttached(c *conn, r request) error {
	m, err := s.mountOf(c)
	if err != nil {
		return err
	}
	switch r.Op {
	case "init":
		err = m.storeInit(r.Init, r.Reply)
	case "ready":
		err = m.setReady()
	case "lost":
		m.setLost()
	}
	if err != nil {
		return err
	}
	if r.Op == "ready" {
		s.cfg.Notify(Event{Kind: Serving, Volume: c.volume, PID: c.pid})
	}
	b, _ := line(answer{OK: true})
	_, err = c.Write(b)
	return err
}

func (s *Server) mountOf(c *conn) (*Mount, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if c.volume == "" {
		return nil, errors.New("attach a volume first")
	}
	return c.served.mount, nil
}

// offer takes the descriptor back from a sidecar that served on while there was no holder.
func (s *Server) offer(ctx context.Context, c *conn, r request) error {
	fd := c.rights.take()
	if fd < 0 {
		return errors.New("an offer comes with a descriptor")
	}
	m, err := s.claim(ctx, c, r.Volume)
	if err == nil {
		if err = m.takeBack(fd, r); err != nil {
			s.unclaim(c) // its place is the real one's
		}
	}
	if err != nil {
		unix.Close(fd)
		return err
	}
	s.cfg.Notify(Event{Kind: Attached, Volume: r.Volume, PID: c.pid})
	s.cfg.Notify(Event{Kind: Serving, Volume: r.Volume, PID: c.pid})
	b, _ := line(answer{OK: true})
	_, err = c.Write(b)
	return err
}

// attach gives the mount of volume to c, once nobody else has it.
func (s *Server) attach(ctx context.Context, c *conn, volume string) error {
	m, err := s.claim(ctx, c, volume)
	if err != nil {
		return err
	}
	remade, err := m.send(c.UnixConn)
	if remade {
		s.cfg.Log.Info("mounted anew: the last connection was ended from outside, could not be taken over, or its sidecar died before it answered INIT",
			"volume", volume, "mount", m.Target())
		s.cfg.Notify(Event{Kind: Remade, Volume: volume, PID: c.pid})
	}
	if err != nil {
		return err
	}
	s.cfg.Notify(Event{Kind: Attached, Volume: volume, PID: c.pid})
	return nil
}

// claim makes c the owner of volume. An owner that was just killed gets Config.Grace to disappear.
func (s *Server) claim(ctx context.Context, c *conn, volume string) (*Mount, error) {
	grace := time.NewTimer(s.cfg.Grace)
	defer grace.Stop()
	for {
		m, owner, err := s.tryClaim(c, volume)
		if err != nil || owner == nil {
			return m, err
		}
		select {
		case <-owner.gone:
		case <-time.After(claimPause): // it may have been refused, and stayed
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-grace.C:
			return nil, fmt.Errorf("volume %q is being served by process %d; two servers on one mount would corrupt it",
				volume, owner.pid)
		}
	}
}

// claimPause is between two looks at an owner that is in the way.
const claimPause = 20 * time.Millisecond

// unclaim takes the volume from a connection that had nothing to offer.
func (s *Server) unclaim(c *conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	c.served.owner = nil
	c.volume, c.served = "", nil
}

func (s *Server) tryClaim(c *conn, volume string) (*Mount, *conn, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	v, ok := s.mounts[volume]
	switch {
	case c.volume != "":
		return nil, nil, fmt.Errorf("this connection has volume %q already; use another one for %q", c.volume, volume)
	case !ok:
		return nil, nil, fmt.Errorf("unknown volume %q", volume)
	case v.owner != nil:
		return nil, v.owner, nil
	}
	v.owner, c.volume, c.served = c, volume, v
	return v.mount, nil, nil
}

// release forgets a connection whose sidecar is gone.
func (s *Server) release(c *conn) {
	c.Close()
	s.mu.Lock()
	delete(s.conns, c.UnixConn)
	s.mu.Unlock()
	if c.volume != "" {
		s.cfg.Notify(Event{Kind: Gone, Volume: c.volume, PID: c.pid}) // before a successor can be announced
		s.mu.Lock()
		c.served.owner = nil
		s.mu.Unlock()
	}
	close(c.gone)
}

func peerPID(u *net.UnixConn) int {
	raw, err := u.SyscallConn()
	if err != nil {
		return 0
	}
	pid := 0
	_ = raw.Control(func(fd uintptr) {
		if cred, err := unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED); err == nil {
			pid = int(cred.Pid)
		}
	})
	return pid
}
