package transport

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"time"

	"github.com/remora-storage/remora/sidecar/identity"
)

// Identity is who a peer's certificate says it is.
type Identity = identity.Identity

// Header says what a frame is, and between which replicas of which group. Kinds 1 to 239 are the caller's.
type Header struct {
	Kind            uint8
	Group, From, To uint64
	// Sums are of the parts that are sent, where they are known; to send what is queued later nobody needs them.
	Sums []Sum
}

// Frame is what Receive gets.
type Frame struct {
	Kind            uint8
	Group, From, To uint64
	Body            []byte
}

// Request is what Bulk asks.
type Request struct {
	Kind            uint8
	Group, From, To uint64
	Body            []byte
}

// Handler is what the transport needs to know. It is called by many goroutines at once, and the transport holds no lock meanwhile.
type Handler interface {
	// Authorize says whether a peer may speak, and be spoken to, as replica from of the group, with this process's replica to. It is
	// called for each frame and request before its body is read, and for each that is sent, so it must be quick. An error refuses:
	// the body is thrown away unread, or the frame that was to be sent is dropped. A request's connection is closed, and one on
	// which a hundred frames in a row were refused; the peer is told the error's text.
	Authorize(peer Identity, group, from, to uint64) error
	// Receive takes a frame, in the order of its connection. It must not block for long: the connection waits. The body is its own.
	Receive(peer Identity, f Frame)
	// Bulk answers a request by what it writes to w. An error reaches the one who asked as a *RemoteError, in place of the end. ctx is
	// done when nobody listens any more. The body is the callee's own.
	Bulk(ctx context.Context, peer Identity, r Request, w io.Writer) error
}

// Config of a Transport.
type Config struct {
	// Listen is the address to listen at, HOST:PORT; port 0 is any.
	Listen string
	// TLS answers this process's certificate, and the roots that it trusts. It is called often: it must be cheap, and answer the
	// same pointers while nothing changed (identity.Files does).
	TLS     func() (*tls.Certificate, *x509.CertPool, error)
	Self    Identity // who this process is; its tenant is the only one that it talks to
	Handler Handler
	Logger  *slog.Logger // required
	// Lost is told, if it is set, that a connection to an address has ended: most often because the process there has.
	Lost func(addr string)

	MaxFrame    int           // bytes of a body, at most; 0: 32 MiB. The same at all peers
	QueueBytes  int           // bytes that wait for a peer, at most, but for a single frame; 0: 16 MiB
	DialTimeout time.Duration // for a connection with its handshake, at either end; 0: 5 s
	DeadAfter   time.Duration // without any sign of life the connection is closed; 0: 5 s
	Tick        time.Duration // between two pings, and looks at certificates; 0: a quarter of DeadAfter
	BackoffMin  time.Duration // after the first failure to reach a peer; doubles up to BackoffMax; 0: 50 ms
	BackoffMax  time.Duration // 0: 500 ms
	IdleAfter   time.Duration // a peer that nothing was sent to is forgotten; 0: 5 min
	BulkPerPeer int           // bulk requests to a peer at one time, more wait; 0: 4
	BulkStall   time.Duration // a bulk answer that does not go on is given up; 0: 30 s
	MaxConns    int           // that are accepted at one time; 0: 1024
	LogEvery    time.Duration // at most one line for each reason; 0: 10 s
	Now         func() time.Time
}

const (
	maxMaxFrame = 1 << 30
	minDead     = 20 * time.Millisecond // of tests
)

func (c Config) withDefaults() (Config, error) {
	var errs []error
	if c.TLS == nil || c.Handler == nil || c.Logger == nil {
		errs = append(errs, errors.New("TLS, Handler and Logger are required"))
	}
	if err := c.Self.Validate(); err != nil {
		errs = append(errs, err)
	}
	fill(&c.MaxFrame, 32<<20)
	fill(&c.QueueBytes, 16<<20)
	fill(&c.DialTimeout, 5*time.Second)
	fill(&c.DeadAfter, 5*time.Second)
	fill(&c.Tick, c.DeadAfter/4)
	fill(&c.BackoffMin, 50*time.Millisecond)
	fill(&c.BackoffMax, 500*time.Millisecond)
	fill(&c.IdleAfter, 5*time.Minute)
	fill(&c.BulkPerPeer, 4)
	fill(&c.BulkStall, 30*time.Second)
	fill(&c.MaxConns, 1024)
	fill(&c.LogEvery, 10*time.Second)
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.MaxFrame < 1 || c.MaxFrame > maxMaxFrame {
		errs = append(errs, fmt.Errorf("MaxFrame %d; allowed: 1 to %d bytes", c.MaxFrame, maxMaxFrame))
	}
	if c.DeadAfter < minDead || c.BackoffMin < 0 || c.BackoffMax < c.BackoffMin {
		errs = append(errs, fmt.Errorf("DeadAfter %v, BackoffMin %v, BackoffMax %v; allowed: at least %v, at least 0, at least BackoffMin",
			c.DeadAfter, c.BackoffMin, c.BackoffMax, minDead))
	}
	if err := errors.Join(errs...); err != nil {
		return c, fmt.Errorf("transport: %w", err)
	}
	return c, nil
}

func fill[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}
