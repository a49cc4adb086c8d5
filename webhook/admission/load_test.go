//go:build load

package admission

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"flag"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	admissionv1 "k8s.io/api/admission/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

var (
	load = flag.Duration("load", time.Minute, "measure admissions for this long (make admission)")
	rate = flag.Int("rate", 50, "of -load: pods a second, each of them mutated and validated")
)

// TestLoad measures what an admission costs: `remora webhook` in a process of its own, asked as the API server asks it, over one
// connection. It asserts nothing about times; docs/webhook.md has the figures.
func TestLoad(t *testing.T) {
	k := realCluster(t)
	ns := k.namespace(t)
	for i := range 200 { // Volumes in the cache
		k.volume(t, ns, fmt.Sprintf("data-db-%d", i), "n1", nil)
	}
	plain, injected := annotated(ns, "db-7", nil), annotated(ns, "db-7", nil)
	require.NoError(t, k.client.Create(t.Context(), injected, client.DryRunAll))
	injected.UID = "0b9c7a52-0000-4000-8000-000000000000"
	pid, url := k.external(t)
	ask := asker(t, k, url)
	mutate, validate := review(t, ns, plain), review(t, ns, injected)
	eventually(t, func() error { return ask(PathMutatePods, mutate) })
	for range 200 { // code and connection are warm
		require.NoError(t, ask(PathMutatePods, mutate))
		require.NoError(t, ask(PathValidatePods, validate))
	}
	before := ticks(t, pid)
	var mu sync.Mutex
	times := map[string][]time.Duration{}
	var all sync.WaitGroup
	timed := func(path string, body []byte) {
		start := time.Now()
		err := ask(path, body)
		took := time.Since(start)
		mu.Lock()
		defer mu.Unlock()
		times[path] = append(times[path], took)
		if err != nil {
			t.Error(err)
		}
	}
	tick := time.NewTicker(time.Second / time.Duration(*rate))
	defer tick.Stop()
	n := int(load.Seconds()) * *rate
	for range n {
		<-tick.C
		all.Go(func() { timed(PathMutatePods, mutate); timed(PathValidatePods, validate) })
	}
	all.Wait()
	for _, path := range []string{PathMutatePods, PathValidatePods} {
		slices.Sort(times[path])
		at := func(q float64) time.Duration {
			return times[path][int(q*float64(len(times[path])-1))].Round(10 * time.Microsecond)
		}
		t.Logf("%-14s at %d/s: n=%d p50=%v p90=%v p99=%v max=%v", path, *rate, len(times[path]), at(.5), at(.9), at(.99), at(1))
	}
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	require.NoError(t, err)
	t.Log(strings.Join(regexp.MustCompile(`(?m)^(VmRSS|VmHWM|RssAnon).*$`).FindAllString(string(status), -1), " "))
	t.Logf("processor time: %.2f ms for a pod", float64(ticks(t, pid)-before)*10/float64(n))
	average, err := os.ReadFile("/proc/loadavg")
	require.NoError(t, err)
	t.Logf("load of the machine: %s", average)
}

// ticks is the processor time of a process, in hundredths of a second.
func ticks(t *testing.T, pid int) (n int) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	require.NoError(t, err)
	var user, system int
	_, err = fmt.Sscan(strings.Join(strings.Fields(string(text))[13:15], " "), &user, &system)
	require.NoError(t, err)
	return user + system
}

// asker returns a function that sends a review and wants it allowed.
func asker(t *testing.T, k *k8s, url string) func(path string, body []byte) error {
	pool := x509.NewCertPool()
	require.True(t, pool.AppendCertsFromPEM(k.server.CA))
	c := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}, ForceAttemptHTTP2: true}, Timeout: patience}
	return func(path string, body []byte) error {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, url+path, bytes.NewReader(body))
		if err != nil {
			return err
		}
		req.Header.Set("Content-Type", "application/json")
		resp, err := c.Do(req)
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		var answer admissionv1.AdmissionReview
		if err := json.NewDecoder(resp.Body).Decode(&answer); err != nil {
			return err
		}
		if !answer.Response.Allowed {
			return fmt.Errorf("%s: %v", path, answer.Response.Result)
		}
		return nil
	}
}

// external runs the binary.
func (k *k8s) external(t *testing.T) (pid int, url string) {
	program := filepath.Join(t.TempDir(), "remora")
	build := exec.CommandContext(t.Context(), "go", "build", "-trimpath", "-o", program, "../../cmd/remora-cluster")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	out, err := build.CombinedOutput()
	require.NoError(t, err, string(out))
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	address := l.Addr().String()
	require.NoError(t, l.Close())
	c := exec.CommandContext(t.Context(), program, "webhook", "--kubeconfig="+k.server.Kubeconfig, "--tls-dir="+k.tls, "--image="+image, "--listen="+address, "--health=", "--metrics=", "--drain=0")
	c.Stderr = os.Stderr
	require.NoError(t, c.Start())
	t.Cleanup(func() { _ = c.Process.Kill(); _ = c.Wait() })
	return c.Process.Pid, "https://" + address
}
