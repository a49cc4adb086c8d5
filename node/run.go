package node

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	registration "k8s.io/kubelet/pkg/apis/pluginregistration/v1"

	"github.com/remora-storage/remora/node/kube"
	"github.com/remora-storage/remora/sidecar/session/holder"
)

// node is a running plugin.
type node struct {
	csi.UnimplementedIdentityServer
	csi.UnimplementedNodeServer
	registration.UnimplementedRegistrationServer

	cfg         Config
	ctx         context.Context // of the pods' sockets: outlives the kubelet's calls
	metrics     *metrics
	events      chan kube.Event
	background  sync.WaitGroup
	registered  atomic.Bool
	failed      chan error
	warnNoQuota sync.Once
	hold        bool // this is Hold

	mu    sync.Mutex
	pods  map[string]*pod       // by UID
	spare map[spareKey][]string // directories that were made and not assigned
	made  map[string]bool       // <namespace>/<directory> that this process made and no Volume names
}

func newNode(ctx context.Context, cfg Config) *node {
	n := &node{cfg: cfg, ctx: ctx, events: make(chan kube.Event, maxEvents), failed: make(chan error, 4), pods: map[string]*pod{}, spare: map[spareKey][]string{}, made: map[string]bool{}}
	n.metrics = newMetrics(n)
	return n
}

// Run is the node plugin, until ctx ends. Mounts stay when it returns.
func Run(ctx context.Context, cfg Config) error {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return err
	}
	for _, dir := range []string{filepath.Join(cfg.pluginDir(), "state"), filepath.Join(cfg.pluginDir(), "pods"), filepath.Dir(cfg.registrySocket())} {
		if err := os.MkdirAll(dir, 0o711); err != nil {
			return fmt.Errorf("make the plugin's directory (is the kubelet's directory mounted?): %w", err)
		}
	}
	socketsCtx, stopSockets := context.WithCancel(context.WithoutCancel(ctx))
	defer stopSockets()
	n := newNode(socketsCtx, cfg)
	n.background.Go(func() { n.watch(socketsCtx) })
	n.background.Go(func() { n.tellAll(socketsCtx) })
	obeying, stopObeying := context.WithCancel(ctx)
	defer stopObeying()
	n.background.Go(func() { n.obey(obeying) })
	if err := n.recover(); err != nil {
		return err
	}
	err = n.answer(ctx)
	stopObeying()
	if err == nil {
		n.linger()
	}
	stopSockets()
	n.letGo()
	n.background.Wait()
	return err
}

// answer serves the kubelet until ctx ends or something breaks.
func (n *node) answer(ctx context.Context) error {
	stopHTTP, err := n.listenHTTP()
	if err != nil {
		return err
	}
	defer stopHTTP()
	driver := grpc.NewServer(grpc.UnaryInterceptor(n.observe))
	csi.RegisterIdentityServer(driver, n)
	csi.RegisterNodeServer(driver, n)
	registrar := grpc.NewServer()
	registration.RegisterRegistrationServer(registrar, n)
	var served sync.WaitGroup
	defer served.Wait()
	for _, s := range []struct {
		server *grpc.Server
		socket string
	}{{driver, n.cfg.csiSocket()}, {registrar, n.cfg.registrySocket()}} { // the kubelet calls the one as soon as it sees the other
		l, err := holder.Listen(s.socket)
		if err != nil {
			driver.Stop()
			return err
		}
		served.Go(func() {
			if err := s.server.Serve(l); err != nil {
				n.fail(err)
			}
		})
	}
	n.cfg.Logger.Info("node plugin is up", "node", n.cfg.Node, "socket", n.cfg.csiSocket(), "root", n.cfg.Root)
	select {
	case <-ctx.Done():
		err = nil
	case err = <-n.failed:
	}
	registrar.GracefulStop()
	driver.GracefulStop() // calls in progress end: each is bounded by the API server's timeouts
	return err
}

func (n *node) fail(err error) {
	select {
	case n.failed <- err:
	default:
	}
}

// linger waits a little for sidecars that are just restarting: with the plugin's, their connections' last descriptors would go.
func (n *node) linger() {
	deadline := time.Now().Add(n.cfg.Linger)
	for n.unserved() > 0 && time.Now().Before(deadline) {
		time.Sleep(20 * time.Millisecond)
	}
	if left := n.unserved(); left > 0 {
		n.cfg.Logger.Error("stopping while mounts are unserved: their connections end with this process", "mounts", left)
	}
}

// letGo closes the sockets and gives the descriptors away. The mounts stay for a successor.
func (n *node) letGo() {
	for _, p := range n.allPods() {
		p.mu.Lock()
		if p.stop != nil {
			p.stop()
			p.served.Wait()
		}
		for _, m := range p.mounts {
			m.mount.Release()
		}
		p.mu.Unlock()
	}
}

// observe times the kubelet's calls, and gives every error a code.
func (n *node) observe(ctx context.Context, req any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
	start := time.Now()
	res, err := handler(ctx, req)
	if err != nil && status.Code(err) == codes.Unknown {
		err = status.Error(codes.Unavailable, err.Error())
	}
	n.metrics.calls.WithLabelValues(path.Base(info.FullMethod), status.Code(err).String()).Observe(time.Since(start).Seconds())
	if err != nil {
		n.cfg.Logger.Warn("refused a call of the kubelet", "method", path.Base(info.FullMethod), "err", err)
	}
	return res, err
}

// listenHTTP answers /healthz, /readyz and /metrics until stop is called.
func (n *node) listenHTTP() (stop func(), err error) {
	if n.cfg.Listen == "" {
		return func() {}, nil
	}
	l, err := net.Listen("tcp", n.cfg.Listen)
	if err != nil {
		return nil, err
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("ok\n")) })
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		if !n.registered.Load() {
			http.Error(w, "the kubelet has not registered the driver yet, or the pod has not got its volumes", http.StatusServiceUnavailable)
			return
		}
		_, _ = w.Write([]byte("ok\n"))
	})
	mux.Handle("GET /metrics", promhttp.HandlerFor(n.metrics.registry, promhttp.HandlerOpts{}))
	server := &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second}
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := server.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			n.fail(err)
		}
	}()
	return func() {
		_ = server.Close()
		<-done
	}, nil
}
