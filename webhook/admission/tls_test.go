package admission

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/remora-storage/remora/webhook"
)

// serial is that of the certificate which the address serves.
func serial(t *testing.T, address, name string, roots []byte, clock func() time.Time) (string, error) {
	pool := x509.NewCertPool()
	require.True(t, pool.AppendCertsFromPEM(roots))
	d := &tls.Dialer{Config: &tls.Config{RootCAs: pool, ServerName: name, Time: clock}}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	c, err := d.DialContext(ctx, "tcp", address)
	if err != nil {
		return "", err
	}
	defer c.Close()
	return c.(*tls.Conn).ConnectionState().PeerCertificates[0].SerialNumber.String(), nil
}

// TestCertificateRotation exchanges the certificate while pods are created: the new one is served, and no pod is refused.
func TestCertificateRotation(t *testing.T) {
	k := realCluster(t)
	ns := k.namespace(t)
	stop := make(chan struct{})
	failures := make(chan error, 2)
	var load sync.WaitGroup
	for range 2 {
		load.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				if err := k.client.Create(t.Context(), annotated(ns, "p", nil), client.DryRunAll); err != nil {
					failures <- err
					return
				}
			}
		})
	}
	address := strings.TrimPrefix(k.url, "https://")
	before, err := serial(t, address, "127.0.0.1", k.server.CA, nil)
	require.NoError(t, err)
	for range 2 {
		require.NoError(t, k.newCertificate())
		was := before
		eventually(t, func() (err error) {
			if before, err = serial(t, address, "127.0.0.1", k.server.CA, nil); err == nil && before == was {
				err = fmt.Errorf("certificate %s is still served", was)
			}
			return err
		})
	}
	close(stop)
	load.Wait()
	require.Empty(t, failures)
}

// TestSelfSigned runs two webhooks with a certificate of their own: both serve the same one, for the name that the API server dials,
// and its authority is in the configurations, also after somebody took it out. Near its end the certificate is renewed, the authority stays.
func TestSelfSigned(t *testing.T) {
	k := realCluster(t)
	ns := k.namespace(t)
	none, url := admissionregistrationv1.SideEffectClassNone, "https://127.0.0.1:1/"
	hook := admissionregistrationv1.WebhookClientConfig{URL: &url}
	m := &admissionregistrationv1.MutatingWebhookConfiguration{ObjectMeta: metav1.ObjectMeta{Name: ns}, Webhooks: []admissionregistrationv1.MutatingWebhook{
		{Name: "a.example.com", ClientConfig: hook, SideEffects: &none, AdmissionReviewVersions: []string{"v1"}}, {Name: "b.example.com", ClientConfig: hook, SideEffects: &none, AdmissionReviewVersions: []string{"v1"}}}}
	v := &admissionregistrationv1.ValidatingWebhookConfiguration{ObjectMeta: metav1.ObjectMeta{Name: ns}, Webhooks: []admissionregistrationv1.ValidatingWebhook{
		{Name: "a.example.com", ClientConfig: hook, SideEffects: &none, AdmissionReviewVersions: []string{"v1"}}}}
	require.NoError(t, k.client.Create(t.Context(), m))
	require.NoError(t, k.client.Create(t.Context(), v))

	var mu sync.Mutex
	now := time.Now()
	clock := func() time.Time { mu.Lock(); defer mu.Unlock(); return now }
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 2)
	var addresses []string
	for range 2 {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		require.NoError(t, err)
		addresses = append(addresses, l.Addr().String())
		cfg := Config{Mode: "node", Listener: l, Kubernetes: k.config, Logger: slog.New(slog.NewTextHandler(io.Discard, nil)),
			SelfSigned: SelfSigned{Namespace: ns, Service: "remora-webhook", Secret: "tls", Configuration: ns, Every: 50 * time.Millisecond, Now: clock}}
		go func() { ended <- Run(ctx, cfg) }()
	}
	name := "remora-webhook." + ns + ".svc"
	authority := func() (ca []byte, err error) {
		if err := k.client.Get(t.Context(), client.ObjectKeyFromObject(m), m); err != nil {
			return nil, err
		}
		if err := k.client.Get(t.Context(), client.ObjectKeyFromObject(v), v); err != nil {
			return nil, err
		}
		ca = m.Webhooks[0].ClientConfig.CABundle
		if len(ca) == 0 || string(m.Webhooks[1].ClientConfig.CABundle) != string(ca) || string(v.Webhooks[0].ClientConfig.CABundle) != string(ca) {
			return nil, fmt.Errorf("the authority is not in all webhooks")
		}
		return ca, nil
	}
	var ca []byte
	eventually(t, func() (err error) { ca, err = authority(); return err })
	first := ""
	served := func() error { // the same by both, and another than the first
		a, err := serial(t, addresses[0], name, ca, clock)
		if err != nil {
			return err
		}
		b, err := serial(t, addresses[1], name, ca, clock)
		if err == nil && (a != b || a == first) {
			err = fmt.Errorf("served are %s and %s, the first was %s", a, b, first)
		}
		if err == nil {
			first = a
		}
		return err
	}
	eventually(t, served)

	clear := client.RawPatch("application/json-patch+json", []byte(`[{"op":"remove","path":"/webhooks/1/clientConfig/caBundle"}]`))
	require.NoError(t, k.client.Patch(t.Context(), m, clear))
	eventually(t, func() error { _, err := authority(); return err })

	mu.Lock()
	now = now.Add(certificateLife * 3 / 4)
	mu.Unlock()
	eventually(t, served)
	again, err := authority()
	require.NoError(t, err)
	require.Equal(t, string(ca), string(again), "the authority stays")
	secret := &corev1.Secret{}
	require.NoError(t, k.client.Get(t.Context(), client.ObjectKey{Namespace: ns, Name: "tls"}, secret))
	require.Equal(t, corev1.SecretTypeTLS, secret.Type)
	cancel()
	require.NoError(t, <-ended)
	require.NoError(t, <-ended)
}

// TestClockSkew: servers whose clocks differ take each other's certificate, which the API server's clock takes, too. Where they differ by more than
// certificates are backdated by, they agree after a round, and stay with it.
func TestClockSkew(t *testing.T) {
	now := time.Now()
	hour := time.Hour
	for _, c := range []struct {
		ahead   []time.Duration // of the API server's clock, in the order in which servers look at the Secret
		changes int             // of the Secret
	}{
		{[]time.Duration{0, 0}, 1},
		{[]time.Duration{2 * hour, 0, -2 * hour}, 1},
		{[]time.Duration{-20 * hour, 3 * hour}, 1},
		{[]time.Duration{48 * hour, 0}, 2},
		{[]time.Duration{0, -48 * hour}, 2},
	} {
		secret, changes := &corev1.Secret{}, 0
		for range 3 {
			for _, ahead := range c.ahead {
				s := &selfSigned{SelfSigned: SelfSigned{Namespace: "ns", Service: "webhook", Now: func() time.Time { return now.Add(ahead) }}}
				changed, err := s.renew(secret)
				require.NoError(t, err)
				if changed {
					changes++
				}
			}
		}
		require.Equal(t, c.changes, changes, "%v", c.ahead)
		pair, err := tls.X509KeyPair(secret.Data[corev1.TLSCertKey], secret.Data[corev1.TLSPrivateKeyKey])
		require.NoError(t, err)
		roots := x509.NewCertPool()
		require.True(t, roots.AppendCertsFromPEM(secret.Data[corev1.ServiceAccountRootCAKey]))
		_, err = pair.Leaf.Verify(x509.VerifyOptions{DNSName: "webhook.ns.svc", Roots: roots, CurrentTime: now})
		require.NoError(t, err, "%v", c.ahead)
	}
}

// TestHealth: ready when admissions are served, not ready any more when the end was asked for, and serving until then.
func TestHealth(t *testing.T) {
	k := realCluster(t)
	plain, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	health := plain.Addr().String()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	ended := make(chan error, 1)
	cfg := Config{Mode: "node", Listener: l, Health: health, Metrics: health, Drain: time.Hour, TLSDir: k.tls, Kubernetes: k.config, Logger: slog.New(slog.NewTextHandler(io.Discard, nil))}
	drained := make(chan time.Time)
	s, err := newServer(cfg)
	require.NoError(t, err)
	s.after = func(d time.Duration) <-chan time.Time {
		if d != time.Hour {
			return time.After(0)
		}
		return drained
	}
	s.listen = func(string, string) (net.Listener, error) { return plain, nil }
	go func() { ended <- s.run(ctx) }()
	get := func(path string) (int, string) {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+health+path, nil)
		require.NoError(t, err)
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			return 0, err.Error()
		}
		defer resp.Body.Close()
		text, err := io.ReadAll(resp.Body)
		require.NoError(t, err)
		return resp.StatusCode, string(text)
	}
	ready := func(want int) {
		t.Helper()
		eventually(t, func() error {
			if status, text := get("/readyz"); status != want {
				return fmt.Errorf("%d %s, not %d", status, text, want)
			}
			return nil
		})
	}
	ready(http.StatusOK)
	status, _ := get("/healthz")
	require.Equal(t, http.StatusOK, status)
	_, text := get("/metrics")
	require.Contains(t, text, "remora_trace_spans_created_total")
	require.Contains(t, text, "process_resident_memory_bytes")
	cancel()
	ready(http.StatusServiceUnavailable)
	_, err = serial(t, l.Addr().String(), "127.0.0.1", k.server.CA, nil)
	require.NoError(t, err, "it still serves")
	close(drained)
	require.NoError(t, <-ended)
}

// TestConfig: what cannot work is said before anything starts.
func TestConfig(t *testing.T) {
	k := realCluster(t)
	for want, cfg := range map[string]Config{
		"no API server":                      {TLSDir: "x"},
		"no certificate":                     {Kubernetes: k.config, Mode: "node"},
		"leave one out":                      {Kubernetes: k.config, TLSDir: "x", SelfSigned: SelfSigned{Namespace: "x"}},
		"write --mode=node":                  {Kubernetes: k.config, TLSDir: "x", Mode: "dev"},
		"allowed: an absolute path":          {Kubernetes: k.config, TLSDir: "x", Mode: "privileged", Inject: webhook.Config{Root: "/a/../b"}},
		"tls.crt: no such file or directory": {Kubernetes: k.config, TLSDir: t.TempDir(), Mode: "node", Listen: "127.0.0.1:0"},
	} {
		cfg.Logger = slog.New(slog.NewTextHandler(io.Discard, nil))
		require.ErrorContains(t, Run(t.Context(), cfg), want)
	}
}
