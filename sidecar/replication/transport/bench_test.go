package transport

import (
	"bufio"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// BenchmarkRoundTrip sends bodies of 4 KiB and gets 48 bytes back for each, over loopback: this transport, and bare crypto/tls, where
// one goroutine at each end reads and writes. cpu-us/op is of the whole process: both ends.
func BenchmarkRoundTrip(b *testing.B) {
	for _, depth := range []int{1, 16} {
		b.Run(fmt.Sprintf("bare/depth=%d", depth), func(b *testing.B) { benchBare(b, depth) })
		b.Run(fmt.Sprintf("transport/depth=%d", depth), func(b *testing.B) { benchTransport(b, depth) })
	}
}

type echo struct {
	t    *Transport
	to   string
	back chan struct{} // nil at the end that echoes
}

func (e *echo) Authorize(Identity, uint64, uint64, uint64) error { return nil }

func (e *echo) Receive(_ Identity, f Frame) {
	if e.back != nil {
		e.back <- struct{}{}
		return
	}
	e.t.Send(e.to, Header{2, f.Group, f.To, f.From, nil})
}

func (e *echo) Bulk(context.Context, Identity, Request, io.Writer) error { return nil }

func benchTransport(b *testing.B, depth int) {
	w := newWorld(b)
	near, far := &echo{back: make(chan struct{}, depth)}, &echo{}
	x := w.peer("db-0", func(c *Config) { c.Handler = near })
	y := w.peer("db-1", func(c *Config) { c.Handler = far })
	far.t, far.to = y.Transport, x.Addr()
	body := make([]byte, 4096)
	trip(b, depth, func() {
		if !x.Send(y.Addr(), Header{1, 7, 1, 2, nil}, body) {
			b.Error("dropped")
		}
	}, func() { <-near.back })
}

func benchBare(b *testing.B, depth int) {
	w := newWorld(b)
	config := clientConfig(w.issue(member("db-1")))
	config.ClientAuth, config.MinVersion, config.DynamicRecordSizingDisabled = tls.RequireAnyClientCert, tls.VersionTLS13, true
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(b, err)
	defer l.Close()
	go func() {
		nc, err := l.Accept()
		if err != nil {
			return
		}
		defer nc.Close()
		c := tls.Server(nc, config)
		r, buf := bufio.NewReaderSize(c, 32<<10), make([]byte, 4096+48)
		for {
			if _, err := io.ReadFull(r, buf); err != nil {
				return
			}
			if _, err := c.Write(buf[:48]); err != nil {
				return
			}
		}
	}()
	nc, err := net.Dial("tcp", l.Addr().String())
	require.NoError(b, err)
	defer nc.Close()
	c := tls.Client(nc, config)
	require.NoError(b, c.HandshakeContext(b.Context()))
	r, out, in := bufio.NewReaderSize(c, 32<<10), make([]byte, 4096+48), make([]byte, 48)
	trip(b, depth, func() {
		if _, err := c.Write(out); err != nil {
			b.Error(err)
		}
	}, func() {
		if _, err := io.ReadFull(r, in); err != nil {
			b.Error(err)
		}
	})
}

// trip keeps depth requests under way, and reports trips and CPU.
func trip(b *testing.B, depth int, send, receive func()) {
	send()
	receive() // connected
	before := cpu()
	b.ResetTimer()
	start, under := time.Now(), 0
	for i := 0; i < b.N; i++ {
		for ; under < depth && i+under < b.N; under++ {
			send()
		}
		receive()
		under--
	}
	b.StopTimer()
	b.ReportMetric(float64(b.N)/time.Since(start).Seconds(), "trips/s")
	b.ReportMetric(float64((cpu()-before).Nanoseconds())/1e3/float64(b.N), "cpu-us/op")
}

func cpu() time.Duration {
	var u unix.Rusage
	_ = unix.Getrusage(unix.RUSAGE_SELF, &u)
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
