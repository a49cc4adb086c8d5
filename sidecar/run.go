package sidecar

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/remora-storage/remora/api/v1alpha1"
	"github.com/remora-storage/remora/sidecar/authority"
	"github.com/remora-storage/remora/sidecar/status"
	"github.com/remora-storage/remora/telemetry"
)

// drainTime bounds the last flush of spans.
const drainTime = 2 * time.Second

// sidecar is a running one.
type sidecar struct {
	cfg     Config
	auth    volumes
	trace   *telemetry.Recorder
	disks   *disks
	host    *host // nil: without a certificate, volumes of one copy only
	volumes []*volume
}

// volumes is where the Volume objects are.
type volumes interface {
	// Get reads a Volume; authority.ErrNotFound.
	Get(ctx context.Context, name string) (v1alpha1.Volume, error)
	// Update is a compare-and-swap on Generation; authority.ErrConflict.
	Update(ctx context.Context, v v1alpha1.Volume) (v1alpha1.Volume, error)
}

// Run serves the pod's volumes until ctx ends, a mount's holder is gone, or every mount has ended.
func Run(ctx context.Context, cfg Config) error {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return err
	}
	s := &sidecar{cfg: cfg, auth: authority.Files{Dir: strings.TrimPrefix(cfg.Authority, "file:")}}
	if cfg.held() {
		s.auth = s.plugin()
	}
	s.trace, err = telemetry.New(telemetry.Config{
		Service: "remora-sidecar", Endpoint: cfg.OTLP, Logger: cfg.Logger,
		Resource: map[string]string{"k8s.pod.name": cfg.Pod, "k8s.namespace.name": cfg.Namespace, "k8s.node.name": cfg.Node, "k8s.pod.uid": cfg.PodUID},
	})
	if err != nil {
		return fmt.Errorf("telemetry: %w", err)
	}
	s.disks = &disks{cfg: &s.cfg}
	if err := s.makeHost(); err != nil {
		return errors.Join(err, s.closeTrace())
	}
	for _, v := range cfg.Volumes {
		s.volumes = append(s.volumes, newVolume(s, v))
	}
	stopHTTP, err := s.listen()
	if err != nil {
		return errors.Join(err, s.closeTrace())
	}
	err = s.serve(ctx)
	if closeErr := s.close(); err == nil {
		err = closeErr
	}
	stopHTTP()
	return errors.Join(err, s.closeTrace())
}

// serve opens the volumes, one after another, and waits for the end.
func (s *sidecar) serve(ctx context.Context) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	if err := s.learnNames(ctx); err != nil {
		if ctx.Err() != nil {
			return nil
		}
		return err
	}
	if s.host != nil {
		s.host.start(ctx)
	}
	if s.host != nil {
		done := make(chan struct{})
		defer close(done)
		go func() {
			select {
			case err := <-s.host.ended:
				cancel(err)
			case <-done:
			}
		}()
	}
	if s.cfg.Keeper {
		<-ctx.Done()
		return unlessAsked(ctx)
	}
	for _, v := range s.volumes {
		if err := v.open(ctx); err != nil {
			if ctx.Err() != nil {
				return unlessAsked(ctx)
			}
			if state := stateOf(err); state == status.Damaged || state == status.MajorityLost {
				// Another start finds the same: stay, and say so. Replicas of other volumes are served meanwhile.
				s.cfg.Logger.Error("volume is not mounted", "volume", v.object.Name, "state", state, "err", err)
				<-ctx.Done()
				return unlessAsked(ctx)
			}
			return fmt.Errorf("volume %s: %w", v.object.Name, err)
		}
	}
	s.cfg.Logger.Info("all volumes are served", "pod", s.cfg.Pod, "volumes", len(s.volumes))
	var ended sync.WaitGroup
	for _, v := range s.volumes {
		ended.Go(func() {
			if err := v.wait(ctx); err != nil {
				cancel(err)
			}
		})
	}
	ended.Wait()
	return unlessAsked(ctx)
}

// unlessAsked is why ctx ended, unless somebody asked for it.
func unlessAsked(ctx context.Context) error {
	if err := context.Cause(ctx); err != nil && !errors.Is(err, context.Canceled) {
		return err
	}
	return nil
}

// close lets go of everything: requests in flight are answered, what is accepted is applied, and a checkpoint makes the next start
// short.
func (s *sidecar) close() error {
	var errs []error
	left := false
	for _, v := range s.volumes {
		errs = append(errs, v.close())
		left = left || v.left
	}
	if s.host != nil {
		errs = append(errs, s.host.close())
	}
	if left { // its group still writes
		return errors.Join(errs...)
	}
	return errors.Join(append(errs, s.disks.close())...)
}

// makeHost gives the sidecar a host if it has a certificate, and the Volume objects of the whole tenant.
func (s *sidecar) makeHost() error {
	if s.cfg.Identity == "" {
		return nil
	}
	auth, ok := s.auth.(objects)
	if !ok {
		return fmt.Errorf("--identity with --authority %q: it does not show the tenant's volumes; allowed: file:DIR", s.cfg.Authority)
	}
	s.host = newHost(&s.cfg, auth, s.disks, openGroup)
	s.host.listen = s.openNetwork
	return s.trace.Registry().Register(replicas{s.host})
}

// openNetwork opens what carries frames, and shows its metrics.
func (s *sidecar) openNetwork(h *host) (network, error) {
	net, err := openNetwork(h)
	if err != nil {
		return nil, err
	}
	if err := s.trace.Registry().Register(net); err != nil {
		return nil, errors.Join(err, net.Close())
	}
	return net, nil
}

func (s *sidecar) closeTrace() error {
	ctx, cancel := context.WithTimeout(context.Background(), drainTime)
	defer cancel()
	return s.trace.Close(ctx)
}
