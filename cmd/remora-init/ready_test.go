package main

import (
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strconv"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// TestReady: nobody listens; then somebody who is not ready; then one who is.
func TestReady(t *testing.T) {
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	require.NoError(t, err)
	file := os.NewFile(uintptr(fd), "port") // bound, and not listening yet: nobody else can have it
	defer file.Close()
	require.NoError(t, syscall.Bind(fd, &syscall.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}))
	name, err := syscall.Getsockname(fd)
	require.NoError(t, err)
	port := strconv.Itoa(name.(*syscall.SockaddrInet4).Port)
	require.ErrorContains(t, ready(port, time.Millisecond), "refused")

	var asked atomic.Int32
	var state atomic.Value
	state.Store("Recovering")
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/readyz" || asked.Add(1) < 4 {
			http.Error(w, "volume data-db-0 is "+state.Load().(string), http.StatusServiceUnavailable)
		}
	}))
	s.Listener.Close()
	done := make(chan error, 1)
	go func() { done <- ready(port, time.Minute) }()
	require.NoError(t, syscall.Listen(fd, 16))
	s.Listener, err = net.FileListener(file)
	require.NoError(t, err)
	s.Start()
	defer s.Close()
	require.NoError(t, <-done)
	require.EqualValues(t, 4, asked.Load())

	asked.Store(-1 << 20)
	require.ErrorContains(t, ready(port, 50*time.Millisecond), "volume data-db-0 is Recovering")
	state.Store("Damaged")
	require.ErrorContains(t, ready(port, time.Hour), "volume data-db-0 is Damaged: see the log")
	for _, bad := range []string{"", "0", "65536", "-1", "http"} {
		require.ErrorContains(t, ready(bad, time.Minute), "allowed: 1 to 65535")
	}
}
