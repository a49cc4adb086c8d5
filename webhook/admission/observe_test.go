package admission

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	admissionv1 "k8s.io/api/admission/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// TestObserved: an admission is in the histogram by path and outcome, and is a span below the caller's, with the pod's name and without its
// content.
func TestObserved(t *testing.T) {
	k := realCluster(t)
	plain, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	metrics := plain.Addr().String()
	require.NoError(t, plain.Close())
	spans := filepath.Join(t.TempDir(), "spans")
	url := k.second(t, func(c *Config) { c.OTLP, c.Metrics, c.Inject.Image = "file:"+spans, metrics, image })

	ns := k.namespace(t)
	pod := annotated(ns, "db-7", nil)
	pod.Spec.Containers[0].Args = []string{"a-secret-of-the-pod"}
	bad := annotated(ns, "bad", map[string]string{"remora.dev/volumes": "data", "data.remora.dev/size": "much"})
	eventually(t, func() error { return k.ask(t.Context(), url+PathMutatePods, review(t, ns, pod)) })
	require.NoError(t, k.ask(t.Context(), url+PathMutatePods, review(t, ns, bad)))
	injected := annotated(ns, "db-7", nil)
	require.NoError(t, k.client.Create(t.Context(), injected, client.DryRunAll))
	require.NoError(t, k.ask(t.Context(), url+PathValidatePods, review(t, ns, injected)))

	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+metrics+"/metrics", nil)
	require.NoError(t, err)
	resp, err := http.DefaultClient.Do(req)
	require.NoError(t, err)
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	text := string(data)
	for _, want := range []string{`outcome="injected",path="/mutate-pods"`, `outcome="refused",path="/mutate-pods"`, `outcome="injected",path="/validate-pods"`} {
		require.Contains(t, text, "remora_admission_duration_seconds_count{"+want+"} 1\n")
	}
	eventually(t, func() error {
		data, err := os.ReadFile(spans)
		for _, want := range []string{"admission.mutate_pods", "admission.validate_pods", "db-7", ns, "refused", "0af7651916cd43dd8448eb211c80319c"} {
			if !strings.Contains(string(data), want) {
				return fmt.Errorf("no %q in the spans: %w", want, err)
			}
		}
		require.NotContains(t, string(data), "a-secret-of-the-pod")
		return nil
	})
}

// ask sends a review as the API server does, within a trace of its own.
func (k *k8s) ask(ctx context.Context, url string, review []byte) error {
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(k.server.CA)
	c := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}, DisableKeepAlives: true}, Timeout: patience}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url, strings.NewReader(string(review)))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
	resp, err := c.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s", resp.Status)
	}
	return nil
}

// review is what the API server sends about a new pod.
func review(t testing.TB, ns string, pod *corev1.Pod) []byte {
	pod.APIVersion, pod.Kind = "v1", "Pod"
	raw, err := json.Marshal(pod)
	require.NoError(t, err)
	r := admissionv1.AdmissionReview{Request: &admissionv1.AdmissionRequest{UID: types.UID(ns), Operation: admissionv1.Create, Namespace: ns, Name: pod.Name,
		Kind: metav1.GroupVersionKind{Version: "v1", Kind: "Pod"}, Object: runtime.RawExtension{Raw: raw}}}
	r.APIVersion, r.Kind = "admission.k8s.io/v1", "AdmissionReview"
	body, err := json.Marshal(r)
	require.NoError(t, err)
	return body
}
