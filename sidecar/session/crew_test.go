package session_test

import (
	"context"
	"runtime"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/remora-storage/remora/cachefs/record"
	"github.com/remora-storage/remora/sidecar/session"
	"github.com/remora-storage/remora/telemetry"
)

// door is a log that lets nobody through while it is shut.
type door struct {
	memory
	open atomic.Pointer[chan struct{}]
}

func (d *door) shut() (open func()) {
	c := make(chan struct{})
	d.open.Store(&c)
	return func() { close(c) }
}

func (d *door) Admit() error {
	<-*d.open.Load()
	return nil
}

func (d *door) Wait(context.Context, record.Seq) (telemetry.SpanRef, error) {
	return telemetry.SpanRef{}, d.Admit()
}

// Requests of the kernel to the root directory.
func (k *kernel) getattr() { k.send(3, 1, [4]uint32{}) }
func (k *kernel) fsync()   { k.send(20, 1, [4]uint32{}) }
func (k *kernel) chmod()   { k.send(4, 1, [22]uint32{0: 1, 17: syscall.S_IFDIR | 0o755}) }
func (k *kernel) answers(n int) error { // that none of them failed
	for range n {
		if errno, _ := k.answer(); errno != 0 {
			return errno
		}
	}
	return nil
}

// Requests that wait, for a disk or for the log, do not keep others from being served, as long as there are workers; afterwards those that
// are not needed rest, and come back when they are.
func TestWorkersComeAndGo(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(2))
	log := &door{}
	log.shut()()
	k, cfg, fs := connectTo(t, log)
	defer fs.Close()
	k.init(allFlags)
	s, err := session.Start(cfg, fs)
	require.NoError(t, err)
	require.NoError(t, k.answers(1))
	size, _ := s.Workers()
	require.Equal(t, 2, size)
	for _, stuck := range []func(){k.fsync, k.chmod, k.fsync} {
		open := log.shut()
		for range 7 {
			stuck()
		}
		for range 5 {
			k.getattr()
			require.NoError(t, k.answers(1), "beside 7 requests that wait")
		}
		size, resting := s.Workers()
		require.Equal(t, 8, size)
		require.Zero(t, resting)
		open()
		require.NoError(t, k.answers(7))
		require.Eventually(t, func() bool {
			k.getattr() // one that rests only when another waits
			require.NoError(t, k.answers(1))
			_, resting := s.Workers()
			return resting == 6
		}, time.Minute, time.Millisecond)
	}
	require.NoError(t, unix.Close(k.fd))
	require.Error(t, s.Wait(t.Context()))
}
