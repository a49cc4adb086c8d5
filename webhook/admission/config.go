package admission

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"time"

	"k8s.io/client-go/rest"

	"github.com/remora-storage/remora/webhook"
)

// Config is what the server needs.
type Config struct {
	// Mode and Inject are what `remora inject` takes.
	Mode   webhook.Mode
	Inject webhook.Config

	// Listen is the address of the admission server. Listener is used instead if it is not nil.
	Listen   string
	Listener net.Listener
	// Health and Metrics are addresses of plain HTTP: /healthz and /readyz, /metrics. Empty: not served. They may be the same.
	Health, Metrics string
	// Drain is how long requests are still served after the end was asked for: the API server hears late that an endpoint has gone.
	Drain time.Duration

	// TLSDir holds tls.crt and tls.key, which are read again when they change. Empty: SelfSigned.
	TLSDir string
	// Reload is how often TLSDir is looked at where the file system does not tell of changes. 0 is 5 s.
	Reload time.Duration
	// SelfSigned keeps a certificate of the server's own in Namespace, and its authority in the webhook configurations.
	SelfSigned SelfSigned

	// Kubernetes is how to reach the API server.
	Kubernetes *rest.Config
	// OTLP is where spans go; see telemetry.Config.Endpoint.
	OTLP   string
	Logger *slog.Logger
}

// SelfSigned is the certificate of a server without cert-manager. It is on if Namespace is not empty.
type SelfSigned struct {
	// Namespace and Service make the name that the API server dials; Namespace also holds the Secret.
	Namespace, Service, Secret string
	// Configuration is the name of the two webhook configurations that get the authority.
	Configuration string
	// Every is how often all this is looked at. 0 is 30 s.
	Every time.Duration
	// Now is the clock of expiry; nil is time.Now.
	Now func() time.Time
}

func (c Config) validate() error {
	switch {
	case c.Kubernetes == nil:
		return errors.New("webhook: no API server to talk to")
	case c.TLSDir == "" && c.SelfSigned.Namespace == "":
		return errors.New("webhook: no certificate; write --tls-dir=DIR (with tls.crt and tls.key), or --self-signed")
	case c.TLSDir != "" && c.SelfSigned.Namespace != "":
		return errors.New("webhook: --tls-dir and --self-signed exclude each other; leave one out")
	case c.Mode == webhook.Dev:
		return fmt.Errorf("webhook: mode %s is for machines without Kubernetes; write --mode=%s", c.Mode, webhook.Node)
	}
	if err := webhook.CheckRoot(c.Inject.Root); err != nil {
		return fmt.Errorf("webhook: %w", err)
	}
	return nil
}
