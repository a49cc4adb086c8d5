//go:build load

package admission

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/stretchr/testify/require"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/remora-storage/remora/webhook"
)

// BenchmarkHandlers is the processor time of an admission without connection and TLS: what the API server sends, answered by the handlers with the
// cache of a cluster of 200 Volumes behind them.
func BenchmarkHandlers(b *testing.B) {
	k := realCluster(b)
	ns := k.namespace(b)
	for i := range 200 {
		k.volume(b, ns, fmt.Sprintf("data-db-%d", i), "n1", nil)
	}
	plain, injected := annotated(ns, "db-7", nil), annotated(ns, "db-7", nil)
	require.NoError(b, k.client.Create(b.Context(), injected, client.DryRunAll))
	injected.UID = "0b9c7a52-0000-4000-8000-000000000000"
	s, err := newServer(Config{Mode: "node", TLSDir: k.tls, Kubernetes: k.config, Logger: slog.New(slog.DiscardHandler), Inject: webhook.Config{Image: image}})
	require.NoError(b, err)
	ctx, cancel := context.WithCancel(b.Context())
	defer cancel()
	go func() { _ = s.cluster.Start(ctx) }()
	require.NoError(b, s.fill(ctx))
	h := s.mux()
	for path, body := range map[string][]byte{PathMutatePods: review(b, ns, plain), PathValidatePods: review(b, ns, injected)} {
		b.Run(path[1:], func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				r := httptest.NewRequestWithContext(ctx, http.MethodPost, path, bytes.NewReader(body))
				r.Header.Set("Content-Type", "application/json")
				w := httptest.NewRecorder()
				h.ServeHTTP(w, r)
				if w.Code != http.StatusOK || !bytes.Contains(w.Body.Bytes(), []byte(`"allowed":true`)) {
					b.Fatal(w.Code, w.Body.String())
				}
			}
		})
	}
}
