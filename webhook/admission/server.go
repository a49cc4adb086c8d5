package admission

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"path/filepath"
	"sync/atomic"
	"time"

	"github.com/go-logr/logr"
	"golang.org/x/sync/errgroup"
	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/certwatcher"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/cluster"

	"github.com/remora-storage/remora/api/v1alpha1"
	"github.com/remora-storage/remora/telemetry"
)

// The paths of the admission server, as they stand in the webhook configurations.
const (
	PathMutatePods        = "/mutate-pods"
	PathValidatePods      = "/validate-pods"
	PathMutateWorkloads   = "/mutate-workloads"
	PathValidateWorkloads = "/validate-workloads"
)

// Run serves admissions until ctx is done, and then as long as Config.Drain.
func Run(ctx context.Context, cfg Config) error {
	s, err := newServer(cfg)
	if err != nil {
		return err
	}
	return s.run(ctx)
}

func newServer(cfg Config) (*server, error) {
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	spans, err := telemetry.New(telemetry.Config{Service: "remora-webhook", Endpoint: cfg.OTLP, Logger: cfg.Logger})
	if err != nil {
		return nil, err
	}
	k, err := newCluster(cfg)
	if err != nil {
		return nil, fmt.Errorf("webhook: %w", err)
	}
	return &server{cfg: cfg, spans: spans, cluster: k, after: time.After, listen: net.Listen}, nil
}

// newCluster is the way to the API server: a cache of classes and volumes, and a client for what is asked for rarely.
func newCluster(cfg Config) (cluster.Cluster, error) {
	scheme := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{corev1.AddToScheme, appsv1.AddToScheme, batchv1.AddToScheme, admissionregistrationv1.AddToScheme, v1alpha1.AddToScheme} {
		if err := add(scheme); err != nil {
			return nil, err
		}
	}
	kubernetes := rest.CopyConfig(cfg.Kubernetes)
	kubernetes.QPS = -1 // a pod that waits for our own limit would be the API server's timeout
	return cluster.New(kubernetes, func(o *cluster.Options) {
		o.Scheme = scheme
		o.Logger = logr.FromSlogHandler(cfg.Logger.Handler())
		o.Cache.DefaultTransform = cache.TransformStripManagedFields()
	})
}

// server is a running Run.
type server struct {
	cfg      Config
	spans    *telemetry.Recorder
	cluster  cluster.Cluster
	draining atomic.Bool
	serving  atomic.Bool
	// after is time.After, but for tests.
	after func(time.Duration) <-chan time.Time
	// listen is net.Listen, but for tests.
	listen func(network, address string) (net.Listener, error)
}

func (s *server) run(ctx context.Context) error {
	// Everything outlives ctx by the time of the drain.
	inner, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	group, inner := errgroup.WithContext(inner)
	group.Go(func() error { return s.cluster.Start(inner) })
	group.Go(func() error {
		select {
		case <-ctx.Done():
		case <-inner.Done():
			return nil
		}
		s.draining.Store(true)
		select {
		case <-s.after(s.cfg.Drain):
		case <-inner.Done():
		}
		stop()
		return nil
	})
	group.Go(func() error {
		if err := s.serve(inner, group); err != nil && inner.Err() == nil {
			return err
		}
		return nil
	})
	err := group.Wait()
	if errors.Is(err, context.Canceled) {
		err = nil
	}
	flush, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	return errors.Join(err, s.spans.Close(flush))
}

// serve starts the listeners. Health answers from the start; admissions are served when the cache is filled.
func (s *server) serve(ctx context.Context, group *errgroup.Group) error {
	if err := s.plain(ctx, group); err != nil {
		return err
	}
	if err := s.fill(ctx); err != nil {
		return fmt.Errorf("webhook: read classes and volumes: %w (are the CustomResourceDefinitions of Remora installed?)", err)
	}
	certificate, err := s.certificate(ctx, group)
	if err != nil {
		return fmt.Errorf("webhook: certificate: %w", err)
	}
	l := s.cfg.Listener
	if l == nil {
		if l, err = s.listen("tcp", s.cfg.Listen); err != nil {
			return fmt.Errorf("webhook: %w", err)
		}
	}
	h := &http.Server{
		Handler: s.mux(), ReadHeaderTimeout: 10 * time.Second, ReadTimeout: 30 * time.Second, IdleTimeout: 2 * time.Minute, MaxHeaderBytes: 64 << 10,
		TLSConfig: &tls.Config{MinVersion: tls.VersionTLS12, GetCertificate: certificate},
	}
	s.start(ctx, group, h, func() error { return h.ServeTLS(l, "", "") })
	s.serving.Store(true)
	s.cfg.Logger.Info("serving admissions", "address", l.Addr().String(), "mode", string(s.cfg.Mode), "revision", s.cfg.Inject.Revision)
	return nil
}

// start runs a server until ctx is done; requests under way are answered.
func (s *server) start(ctx context.Context, group *errgroup.Group, h *http.Server, serve func() error) {
	group.Go(func() error {
		if err := serve(); !errors.Is(err, http.ErrServerClosed) {
			return err
		}
		return nil
	})
	group.Go(func() error {
		<-ctx.Done()
		end, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
		defer cancel()
		return h.Shutdown(end)
	})
}

// fill waits for the cache.
func (s *server) fill(ctx context.Context) error {
	for _, o := range []client.Object{newClass(), &v1alpha1.VolumeObject{}} {
		if _, err := s.cluster.GetCache().GetInformer(ctx, o); err != nil {
			return err
		}
	}
	if !s.cluster.GetCache().WaitForCacheSync(ctx) {
		return errors.New("the cache was not filled")
	}
	return nil
}

// certificate returns where the current certificate comes from.
func (s *server) certificate(ctx context.Context, group *errgroup.Group) (func(*tls.ClientHelloInfo) (*tls.Certificate, error), error) {
	if s.cfg.TLSDir != "" {
		w, err := certwatcher.New(filepath.Join(s.cfg.TLSDir, corev1.TLSCertKey), filepath.Join(s.cfg.TLSDir, corev1.TLSPrivateKeyKey))
		if err != nil {
			return nil, err
		}
		every := s.cfg.Reload
		if every == 0 {
			every = 5 * time.Second
		}
		w.WithWatchInterval(every)
		group.Go(func() error { return w.Start(ctx) })
		return w.GetCertificate, nil
	}
	direct, err := client.New(s.cluster.GetConfig(), client.Options{Scheme: s.cluster.GetScheme(), Mapper: s.cluster.GetRESTMapper(), HTTPClient: s.cluster.GetHTTPClient()})
	if err != nil {
		return nil, err
	}
	own := &selfSigned{SelfSigned: s.cfg.SelfSigned, client: direct, log: s.cfg.Logger}
	if _, err := own.certificate(ctx); err != nil {
		return nil, fmt.Errorf("secret %s/%s: %w", own.Namespace, own.Secret, err)
	}
	group.Go(func() error { own.run(ctx); return nil })
	return own.GetCertificate, nil
}

// mux is the admission server. Its paths take bodies of 7 MiB at most, which is two of the largest objects.
func (s *server) mux() http.Handler {
	c := &classes{cached: s.cluster.GetCache(), live: s.cluster.GetAPIReader()}
	may := permits{mode: s.cfg.Mode, live: s.cluster.GetAPIReader()}
	p := &pods{mode: s.cfg.Mode, config: s.cfg.Inject, classes: c, permits: may, places: placement{s.cluster.GetCache(), s.cluster.GetAPIReader()}, events: s.cluster.GetEventRecorder("remora.dev/webhook")}
	w := &workloads{mode: s.cfg.Mode, config: s.cfg.Inject, classes: c, permits: may}
	return handlers(newObserver(s.spans), p, w)
}

func handlers(o *observer, p *pods, w *workloads) http.Handler {
	mux := http.NewServeMux()
	mux.Handle(PathMutatePods, o.webhook("admission.mutate_pods", PathMutatePods, p.mutate))
	mux.Handle(PathValidatePods, o.webhook("admission.validate_pods", PathValidatePods, p.validate))
	mux.Handle(PathMutateWorkloads, o.webhook("admission.mutate_workloads", PathMutateWorkloads, w.mutate))
	mux.Handle(PathValidateWorkloads, o.webhook("admission.validate_workloads", PathValidateWorkloads, w.validate))
	return mux
}

// plain serves health and metrics.
func (s *server) plain(ctx context.Context, group *errgroup.Group) error {
	muxes := map[string]*http.ServeMux{}
	at := func(address string) *http.ServeMux {
		if muxes[address] == nil {
			muxes[address] = http.NewServeMux()
		}
		return muxes[address]
	}
	if s.cfg.Health != "" {
		at(s.cfg.Health).HandleFunc("/healthz", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") })
		at(s.cfg.Health).HandleFunc("/readyz", s.readyz)
	}
	if s.cfg.Metrics != "" {
		at(s.cfg.Metrics).Handle("/metrics", s.spans.Handler())
	}
	for address, mux := range muxes {
		l, err := s.listen("tcp", address)
		if err != nil {
			return fmt.Errorf("webhook: %w", err)
		}
		h := &http.Server{Handler: mux, ReadHeaderTimeout: 10 * time.Second}
		s.start(ctx, group, h, func() error { return h.Serve(l) })
	}
	return nil
}

// readyz is true from the first admission that could be served until the end was asked for.
func (s *server) readyz(w http.ResponseWriter, _ *http.Request) {
	switch {
	case s.draining.Load():
		http.Error(w, "draining", http.StatusServiceUnavailable)
	case !s.serving.Load():
		http.Error(w, "reading classes and volumes", http.StatusServiceUnavailable)
	default:
		fmt.Fprintln(w, "ok")
	}
}
