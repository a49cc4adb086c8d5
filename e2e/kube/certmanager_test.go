//go:build kube

package kube

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"encoding/base64"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/remora-storage/remora/e2e/cluster/binaries"
)

// TestCertManager: the overlay cert-manager is installed in the place of the self-signed one. cert-manager issues the certificate and injects
// its authority; then the certificate is renewed, and the webhook rolled out, while pods are admitted all the time: none is refused.
func TestCertManager(t *testing.T) {
	if *installed || *offline {
		t.Skip("exchanges the webhook's installation, which -installed and -offline leave as it is")
	}
	s := newSpace(t)
	system := &space{t: t, k: s.k, name: "remora-system"}
	s.k.startCertManager(t)
	t.Cleanup(func() { system.exchange("self-signed") })
	system.exchange("cert-manager")
	system.kubectl("wait", "--for=condition=Ready", "certificate/remora-webhook", "--timeout=120s")

	authority, err := base64.StdEncoding.DecodeString(system.kubectl("get", "secret", "remora-webhook-tls", "-o", `jsonpath={.data.ca\.crt}`))
	require.NoError(t, err)
	require.NotEmpty(t, authority)
	for _, kind := range []string{"mutatingwebhookconfiguration", "validatingwebhookconfiguration"} {
		s.until("the authority in every webhook of the "+kind, func() bool {
			out := system.kubectl("get", kind, "remora", "-o", `jsonpath={range .webhooks[*]}{.clientConfig.caBundle}{"\n"}{end}`)
			return len(strings.Fields(out)) > 1 && !slices.ContainsFunc(strings.Fields(out), func(bundle string) bool {
				have, err := base64.StdEncoding.DecodeString(bundle)
				return err != nil || !bytes.Contains(have, authority) // earlier authorities stay in the bundle
			})
		})
	}
	s.until("an admission", func() bool { return s.tryApply(barePod("p", annotated("data"), "", writerContainer("data"))) == nil })
	require.NotEmpty(t, s.ready("p").Spec.InitContainers)

	admitted, stop := s.admitAlways()
	before := system.serials()
	require.Len(t, before, 2)
	system.renew("remora-webhook")
	s.until("the new certificate at both servers", func() bool {
		now := system.serials()
		return len(now) == 2 && !slices.ContainsFunc(now, func(n string) bool { return slices.Contains(before, n) }) && now[0] == now[1]
	})
	renewed := admitted()
	s.until("admissions afterwards", func() bool { return admitted() > renewed+50 })
	system.kubectl("rollout", "restart", "deployment/remora-webhook") // servers that never had another certificate
	system.kubectl("rollout", "status", "deployment/remora-webhook", "--timeout=120s")
	rolled := admitted()
	s.until("admissions afterwards", func() bool { return admitted() > rolled+50 })
	t.Logf("%d pods were admitted while the certificate was renewed, %d until the rollout was over; none was refused", renewed, rolled)
	stop()
}

// exchange installs another overlay over the one that is there. The webhook is away for that while: one server may not believe another's
// certificate.
func (s *space) exchange(overlay string) {
	ctx, cancel := context.WithTimeout(context.Background(), 4*time.Minute)
	defer cancel()
	kubectl := func(args ...string) {
		_, err := s.k.run(ctx, "", append([]string{"-n", s.name}, args...)...)
		require.NoError(s.t, err)
	}
	if overlay == "self-signed" { // else cert-manager would write its Secret again
		kubectl("delete", "certificates.cert-manager.io,issuers.cert-manager.io", "--all", "--timeout=60s")
	}
	kubectl("delete", "deployment", "remora-webhook", "--cascade=foreground", "--timeout=60s")
	kubectl("delete", "secret", "remora-webhook-tls", "--ignore-not-found")
	require.NoError(s.t, s.k.install(ctx, overlay))
}

// startCertManager brings cert-manager's definitions and controllers, unless the cluster has them, until the test is over.
func (k *kube) startCertManager(t *testing.T) {
	if _, err := k.run(t.Context(), "", "get", "crd", "certificates.cert-manager.io"); err == nil && !k.own {
		t.Log("cert-manager is there already")
		return
	}
	program, definitions, err := binaries.CertManager(t.Context(), os.Stderr)
	require.NoError(t, err)
	apply := []string{"apply", "--server-side", "--force-conflicts"}
	for _, name := range []string{"certificates", "certificaterequests", "issuers", "clusterissuers"} {
		apply = append(apply, "-f", filepath.Join(definitions, "cert-manager.io_"+name+".yaml"))
	}
	_, err = k.run(t.Context(), "", apply...)
	require.NoError(t, err)
	_, err = k.run(t.Context(), "", "wait", "--for=condition=Established", "crd/certificates.cert-manager.io", "crd/issuers.cert-manager.io",
		"crd/certificaterequests.cert-manager.io", "crd/clusterissuers.cert-manager.io", "--timeout=60s")
	require.NoError(t, err)
	log, err := os.Create(filepath.Join(k.root, "bin", "certmanager.log"))
	require.NoError(t, err)
	cmd := exec.Command(program, k.config)
	cmd.Stdout, cmd.Stderr = log, log
	require.NoError(t, cmd.Start())
	t.Cleanup(func() {
		_ = cmd.Process.Signal(os.Interrupt)
		_ = cmd.Wait()
		_ = log.Close()
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		_, _ = k.run(ctx, "", "delete", "crd", "--ignore-not-found", "certificates.cert-manager.io", "certificaterequests.cert-manager.io", "issuers.cert-manager.io", "clusterissuers.cert-manager.io")
		if t.Failed() {
			text, _ := os.ReadFile(log.Name())
			t.Log("cert-manager:\n", tail(string(text), 30))
		}
	})
}

// admitAlways has 20 pods a second admitted until stop is called, which fails the test if one was not.
func (s *space) admitAlways() (admitted func() int64, stop func()) {
	proxy := s.proxy()
	ctx, cancel := context.WithCancel(s.t.Context())
	done := make(chan error, 1)
	var n atomic.Int64
	go func() {
		tick := time.NewTicker(time.Second / 20)
		defer tick.Stop()
		for i := 1; ; i++ {
			select {
			case <-ctx.Done():
				done <- nil
				return
			case <-tick.C:
			}
			if err := s.admit(proxy, i); err != nil {
				done <- fmt.Errorf("after %d admissions: %w", n.Load(), err)
				return
			}
			n.Add(1)
		}
	}()
	return n.Load, func() {
		s.t.Helper()
		cancel()
		require.NoError(s.t, <-done)
	}
}

// renew asks cert-manager for another certificate now, as `cmctl renew` does.
func (s *space) renew(certificate string) {
	s.t.Helper()
	condition := fmt.Sprintf(`[{"op":"add","path":"/status/conditions/-","value":{"type":"Issuing","status":"True","reason":"ManuallyTriggered","message":"a test","lastTransitionTime":%q}}]`,
		time.Now().UTC().Format(time.RFC3339))
	s.kubectl("patch", "certificate", certificate, "--subresource=status", "--type=json", "-p", condition)
}

// serials are those of the certificates that the webhook's servers show now.
func (s *space) serials() (all []string) {
	s.t.Helper()
	out := s.kubectl("get", "pods", "-l", "app.kubernetes.io/name=remora-webhook", "--field-selector=status.phase=Running", "-o", "jsonpath={.items[*].metadata.name}")
	for _, pod := range strings.Fields(out) {
		serial, err := s.serial(pod)
		if err != nil {
			s.t.Log("certificate of", pod, err)
			continue
		}
		all = append(all, serial)
	}
	return all
}

func (s *space) serial(pod string) (string, error) {
	ctx, cancel := context.WithTimeout(s.t.Context(), 20*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, s.k.kubectl, "-n", s.name, "port-forward", "pod/"+pod, ":9443")
	cmd.Env = append(os.Environ(), "KUBECONFIG="+s.k.config)
	out, err := cmd.StdoutPipe()
	if err != nil {
		return "", err
	}
	if err := cmd.Start(); err != nil {
		return "", err
	}
	defer func() { cancel(); _ = cmd.Wait() }()
	r := bufio.NewReader(out)
	line, err := r.ReadString('\n')
	if err != nil {
		return "", err
	}
	go func() { _, _ = io.Copy(io.Discard, r) }()
	// The name is checked in every admission; here the certificate itself is what is looked at.
	d := tls.Dialer{Config: &tls.Config{InsecureSkipVerify: true}}
	conn, err := d.DialContext(ctx, "tcp", regexp.MustCompile(`127\.0\.0\.1:\d+`).FindString(line))
	if err != nil {
		return "", err
	}
	defer conn.Close()
	return conn.(*tls.Conn).ConnectionState().PeerCertificates[0].SerialNumber.String(), nil
}
