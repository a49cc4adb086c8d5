//go:build kube

package kube

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// TestCanary: a second injector with another image beside the first one has the pods of a labelled namespace, and labelled pods, and no
// others.
func TestCanary(t *testing.T) {
	if *installed || *offline {
		t.Skip("installs a second injector, which -installed and -offline do not")
	}
	stable := newSpace(t)
	stable.installCanary()
	other := &space{t: t, k: stable.k, name: stable.name + "-c"}
	other.apply(fmt.Sprintf(`{apiVersion: v1, kind: Namespace, metadata: {name: %s, labels: {remora.dev/injection: enabled, remora.dev/revision: canary}}}`, other.name))
	t.Cleanup(other.gone)
	other.until("service account", func() bool { _, err := other.try("get", "serviceaccount", "default"); return err == nil })
	canary := *remoraName + "-next"
	for _, c := range []struct {
		s           *space
		name, label string
		image       string
	}{
		{stable, "plain", "", *remoraName}, {stable, "labelled", "labels: {remora.dev/revision: canary}, ", canary}, {other, "all", "", canary},
	} {
		pod := barePod(c.name, c.label+annotated("data"), "", writerContainer("data"))
		c.s.until("admission of "+c.name, func() bool { return c.s.tryApply(pod) == nil }) // the API server hears of configurations a little later
		p := c.s.ready(c.name)
		require.Equal(t, c.image, p.Spec.InitContainers[0].Image, c.name)
		require.Equal(t, c.image == canary, strings.Contains(p.Annotations["remora.dev/status"], `"injector":"canary"`), c.name)
	}
}

// installCanary installs manifests/overlays/canary with the next image, until the test is over.
func (s *space) installCanary() {
	s.t.Helper()
	dir := filepath.Join(s.k.root, "bin", "e2e-canary")
	require.NoError(s.t, os.MkdirAll(dir, 0o755))
	name, tag, _ := strings.Cut(*remoraName, ":")
	require.NoError(s.t, os.WriteFile(filepath.Join(dir, "kustomization.yaml"), fmt.Appendf(nil, `apiVersion: kustomize.config.k8s.io/v1beta1
kind: Kustomization
resources: [../../manifests/overlays/canary]
images: [{name: remora-storage/remora, newName: %q, newTag: %q}]
patches:
- target: {kind: Deployment}
  patch: |
    - {op: replace, path: /spec/template/spec/containers/0/args/2, value: %q}
`, name, tag+"-next", "--image="+*remoraName+"-next"), 0o644))
	s.t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
		defer cancel()
		_, err := s.k.run(ctx, "", "delete", "-k", dir, "--ignore-not-found", "--timeout=100s")
		require.NoError(s.t, err)
		_, _ = s.k.run(ctx, "", "-n", "remora-system", "delete", "secret", "remora-webhook-canary-tls", "--ignore-not-found")
	})
	_, err := s.k.run(s.t.Context(), "", "apply", "--server-side", "--force-conflicts", "-k", dir)
	require.NoError(s.t, err)
	_, err = s.k.run(s.t.Context(), "", "-n", "remora-system", "rollout", "status", "deployment/remora-webhook-canary", "--timeout=120s")
	require.NoError(s.t, err)
}

// TestQuota: the sidecar counts in a namespace's quota with what it requests; where the quota bounds limits, it has a LimitRange's.
func TestQuota(t *testing.T) {
	s := newSpace(t)
	s.apply(`{apiVersion: v1, kind: ResourceQuota, metadata: {name: quota}, spec: {hard: {requests.cpu: 200m, requests.memory: 200Mi, limits.memory: 2Gi}}}`)
	s.until("the quota", func() bool {
		out, err := s.try("get", "resourcequota", "quota", "-o", "jsonpath={.status.hard}")
		return err == nil && strings.Contains(out, "limits.memory")
	})
	app := func(name string) string {
		return strings.Replace(barePod(name, annotated("data"), "", writerContainer("data")), "name: writer,",
			"name: writer, resources: {requests: {cpu: 20m, memory: 32Mi}, limits: {memory: 64Mi}},", 1)
	}
	require.ErrorContains(t, s.tryApply(app("p")), "limits.memory for: remora", "the API server names the container that has none")
	s.apply(`{apiVersion: v1, kind: LimitRange, metadata: {name: defaults}, spec: {limits: [{type: Container, default: {memory: 256Mi}}]}}`)
	s.until("the LimitRange's defaults", func() bool { return s.tryApply(app("p")) == nil })
	p := s.ready("p")
	require.Equal(t, "256Mi", p.Spec.InitContainers[0].Resources.Limits.Memory().String())
	s.until("what is used", func() bool {
		out, err := s.try("get", "resourcequota", "quota", "-o", "jsonpath={.status.used.requests\\.cpu} {.status.used.requests\\.memory} {.status.used.limits\\.memory}")
		return err == nil && out == "70m 96Mi 320Mi"
	})
	s.apply(app("q"))
	s.ready("q")
	require.ErrorContains(t, s.tryApply(app("r")), "exceeded quota")
}
