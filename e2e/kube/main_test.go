//go:build kube

package kube

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/remora-storage/remora/e2e/cluster/binaries"
)

var (
	kills      = flag.Int("kills", 20, "how often a sidecar is killed under load")
	pods       = flag.Int("pods", 50, "pods whose start is measured")
	crowd      = flag.Int("crowd", 100, "pods on one node")
	keep       = flag.Bool("keep", false, "leave Remora installed, and the namespaces of tests that failed")
	installed  = flag.Bool("installed", false, "Remora is installed: leave it as it is")
	offline    = flag.Bool("offline", false, "there is no webhook: inject with bin/remora inject")
	remoraName = flag.String("image", "remora:dev", "Remora's image")
)

// here is the cluster under test, set by TestMain before any test.
var here *kube

func TestMain(m *testing.M) {
	flag.Parse()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Minute)
	k, err := setUp(ctx)
	cancel()
	if err != nil {
		fmt.Fprintln(os.Stderr, "e2e/kube:", err)
		os.Exit(1)
	}
	here = k
	status := m.Run()
	if !*keep {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
		defer cancel()
		if err := k.tearDown(ctx); err != nil {
			fmt.Fprintln(os.Stderr, "e2e/kube: tear down:", err)
			status = max(status, 1)
		}
	}
	os.Exit(status)
}

// setUp finds the cluster, gives its nodes the images if they are of this machine, and installs Remora and the hands.
func setUp(ctx context.Context) (*kube, error) {
	root, err := binaries.Root(ctx)
	if err != nil {
		return nil, err
	}
	cache, err := binaries.Cache()
	if err != nil {
		return nil, err
	}
	k := &kube{root: root, config: os.Getenv("KUBECONFIG"), kubectl: "kubectl"}
	own := filepath.Join(cache, "state", "pki", "admin.kubeconfig")
	if k.config == "" || k.config == own {
		k.config, k.own, k.kubectl = own, true, filepath.Join(cache, "state", "bin", "kubectl")
		archive := filepath.Join(root, "bin", "e2e-images.tar")
		if err := os.MkdirAll(filepath.Dir(archive), 0o755); err != nil {
			return nil, err
		}
		if err := buildImages(ctx, root, archive); err != nil {
			return nil, fmt.Errorf("images of the tests: %w", err)
		}
		if err := k.cluster(ctx, "load", archive, filepath.Join(root, "bin", "remora-image.tar")); err != nil {
			return nil, err
		}
	}
	if !*installed {
		if err := k.install(ctx, "self-signed"); err != nil {
			return nil, fmt.Errorf("install: %w\n%s", err, k.state(ctx, "remora-system"))
		}
	}
	return k, k.startHands(ctx)
}

// install applies an overlay of manifests with the image under test, and waits until all of it is ready.
func (k *kube) install(ctx context.Context, overlay string) error {
	dir := filepath.Join(k.root, "bin", "e2e-kustomize")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	name, tag, _ := strings.Cut(*remoraName, ":")
	text := fmt.Sprintf(`apiVersion: kustomize.config.k8s.io/v1beta1
kind: Kustomization
resources: [../../manifests/overlays/%s]
images: [{name: remora-storage/remora, newName: %q, newTag: %q}]
patches:
- target: {kind: Deployment, name: remora-webhook}
  patch: |
    - {op: replace, path: /spec/template/spec/containers/0/args/2, value: %q}
    - {op: add, path: /spec/template/spec/containers/0/args/-, value: %q}
`, overlay, name, tag, "--image="+*remoraName, "--allow-image="+*remoraName+"*")
	if err := os.WriteFile(filepath.Join(dir, "kustomization.yaml"), []byte(text), 0o644); err != nil {
		return err
	}
	// The CA bundle in the configurations is the webhook's own business: server-side apply leaves it alone.
	if _, err := k.run(ctx, "", "apply", "--server-side", "--force-conflicts", "-k", dir); err != nil {
		return err
	}
	for _, o := range []string{"daemonset/remora-node", "deployment/remora-webhook"} {
		if _, err := k.run(ctx, "", "-n", "remora-system", "rollout", "status", o, "--timeout=120s"); err != nil {
			return err
		}
	}
	return nil
}

func (k *kube) tearDown(ctx context.Context) error {
	if !*installed {
		if _, err := k.run(ctx, "", "delete", "-k", filepath.Join(k.root, "bin", "e2e-kustomize"), "--ignore-not-found", "--timeout=180s"); err != nil {
			return err
		}
	}
	_, err := k.run(ctx, "", "delete", "namespace", handsNamespace, "--ignore-not-found", "--timeout=60s")
	return err
}

// cluster runs bin/cluster, which knows nodes of this machine only.
func (k *kube) cluster(ctx context.Context, args ...string) error {
	cmd := exec.CommandContext(ctx, filepath.Join(k.root, "bin", "cluster"), args...)
	if said, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("bin/cluster %s: %w: %s", strings.Join(args, " "), err, said)
	}
	return nil
}
