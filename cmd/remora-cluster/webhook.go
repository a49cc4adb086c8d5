package main

import (
	"fmt"
	"log/slog"
	"os"
	"strings"
	"time"

	"github.com/go-logr/logr"
	"github.com/spf13/cobra"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	ctrllog "sigs.k8s.io/controller-runtime/pkg/log"

	"github.com/remora-storage/remora/telemetry"
	"github.com/remora-storage/remora/webhook"
	"github.com/remora-storage/remora/webhook/admission"
)

// webhookCommand is what the Deployment remora-webhook runs.
func webhookCommand() *cobra.Command {
	var (
		cfg                         admission.Config
		mode, logFormat, kubeconfig string
		selfSigned                  bool
	)
	own := admission.SelfSigned{}
	c := &cobra.Command{
		Use:   "webhook",
		Short: "Serve Kubernetes' admission requests: give annotated pods their sidecar",
		Long: `Serve Kubernetes' admission requests. Pods of namespaces with the label remora.dev/injection=enabled get their sidecar when they
are created, exactly as ` + "`remora inject`" + ` would write it; pods and workloads whose annotations are wrong are refused with every reason at
once. manifests/ runs it, docs/webhook.md explains it.

Paths: ` + admission.PathMutatePods + `, ` + admission.PathValidatePods + `, ` + admission.PathMutateWorkloads + `, ` + admission.PathValidateWorkloads + `. The certificate is read from --tls-dir and again whenever it changes,
or is the server's own (--self-signed).`,
		Example: "  remora webhook --tls-dir=/tls --image=registry.example.com/remora:1.0\n  remora webhook --self-signed --namespace=remora-system --kubeconfig ~/.kube/config",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			format, err := telemetry.ParseLogFormat(logFormat)
			if err != nil {
				return err
			}
			cfg.Logger = telemetry.Logger(os.Stderr, format, slog.LevelInfo)
			ctrllog.SetLogger(logr.FromSlogHandler(cfg.Logger.Handler()))
			if cfg.Mode, err = webhook.ParseMode(mode); err != nil {
				return fmt.Errorf("--mode: %w", err)
			}
			if cfg.Kubernetes, err = restConfig(kubeconfig); err != nil {
				return err
			}
			if selfSigned {
				cfg.SelfSigned = own
			}
			return admission.Run(cmd.Context(), cfg)
		},
	}
	f := c.Flags()
	f.StringVar(&mode, "mode", string(webhook.Node), "who makes the mounts: "+string(webhook.Node)+" (the node plugin), or "+string(webhook.Privileged)+" (each sidecar, in namespaces with the label "+webhook.LabelPrivileged+"="+webhook.PrivilegedAllowed+"; docs/privileged.md)")
	f.StringVar(&cfg.Inject.Root, "root", webhook.DefaultRoot, "where the disk directories are on the nodes, in mode privileged")
	f.StringVar(&cfg.Inject.Image, "image", webhook.DefaultImage, "image of the sidecar")
	f.StringArrayVar(&cfg.Inject.AllowedImages, "allow-image", nil, "another `IMAGE` that the sidecar of a running pod may be changed to, or a prefix before * (repeatable)")
	f.StringVar(&cfg.Inject.OTLPEndpoint, "otlp-endpoint", "", "URL to which sidecars send traces (default: none are sent)")
	f.StringVar(&cfg.Inject.Revision, "revision", "", "name of this injector where there are several, a canary's for example; see docs/webhook.md")
	f.StringVar(&cfg.Listen, "listen", ":9443", "address of the admission server (TLS)")
	f.StringVar(&cfg.TLSDir, "tls-dir", "", "directory of tls.crt and tls.key, such as cert-manager's Secret")
	f.BoolVar(&selfSigned, "self-signed", false, "make a certificate, keep it in a Secret, and write its authority into the webhook configurations")
	f.StringVar(&own.Namespace, "namespace", fallback(os.Getenv("POD_NAMESPACE"), "remora-system"), "namespace of the Service and of the Secret, for --self-signed")
	f.StringVar(&own.Service, "service", "remora-webhook", "Service that the API server calls, for --self-signed")
	f.StringVar(&own.Secret, "secret", "remora-webhook-tls", "Secret of the certificate, for --self-signed")
	f.StringVar(&own.Configuration, "configuration", "remora", "the mutating and the validating webhook configuration, for --self-signed")
	f.StringVar(&cfg.Health, "health", ":8081", "address of /healthz and /readyz (plain HTTP; empty: not served)")
	f.StringVar(&cfg.Metrics, "metrics", ":8080", "address of /metrics (plain HTTP; empty: not served)")
	f.StringVar(&cfg.OTLP, "otlp", os.Getenv("OTEL_EXPORTER_OTLP_ENDPOINT"), "URL to which the webhook sends its own traces: http://HOST:4318 or grpc://HOST:4317")
	f.DurationVar(&cfg.Drain, "drain", 5*time.Second, "go on serving for this long after SIGTERM, until the API server has heard of it")
	f.StringVar(&kubeconfig, "kubeconfig", "", "kubeconfig `FILE` (default: $KUBECONFIG, or the pod's service account)")
	f.StringVar(&logFormat, "log-format", "text", "text or json")
	return c
}

// restConfig is how to reach the API server: the file, or what the environment says.
func restConfig(kubeconfig string) (*rest.Config, error) {
	if kubeconfig == "" {
		kubeconfig = os.Getenv("KUBECONFIG")
	}
	if kubeconfig == "" && os.Getenv("KUBERNETES_SERVICE_HOST") == "" {
		return nil, fmt.Errorf("no API server: --kubeconfig is empty, $KUBECONFIG is not set, and this is no pod; write --kubeconfig=FILE")
	}
	c, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
	if err != nil {
		return nil, fmt.Errorf("kubeconfig %s: %w", strings.TrimSpace(kubeconfig), err)
	}
	return c, nil
}

func fallback(text, otherwise string) string {
	if text == "" {
		return otherwise
	}
	return text
}
