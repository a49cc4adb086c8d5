package sidecar

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/remora-storage/remora/sidecar/authority"
	"github.com/remora-storage/remora/sidecar/session/holder"
)

// plugin is the node plugin as this pod's socket shows it.
func (s *sidecar) plugin() authority.Node {
	return authority.Node{Socket: s.socket(s.cfg.Authority), Waiting: func(err error) {
		s.cfg.Logger.Warn("waiting for the node plugin or the API server", "err", err)
	}}
}

func (*sidecar) socket(flag string) string { return strings.TrimPrefix(flag, "unix:") }

// attachOnce attaches; to a node plugin that is away, when it is back.
func (v *volume) attachOnce(ctx context.Context, path string) (*holder.Client, error) {
	for {
		c, err := holder.Attach(ctx, path, v.spec.Name)
		var refused *holder.RefusedError
		if err == nil || errors.As(err, &refused) || !v.s.cfg.held() {
			return c, err
		}
		select {
		case <-ctx.Done():
			return nil, err
		case <-time.After(offerPause):
		}
	}
}

// learnNames asks in node mode which Volumes the pod's volumes are: a Deployment's pod takes over those of one that is gone.
func (s *sidecar) learnNames(ctx context.Context) error {
	if !s.cfg.held() {
		return nil
	}
	names, err := s.plugin().Names(ctx)
	if err != nil {
		return fmt.Errorf("ask the node plugin for the pod's volumes: %w", err)
	}
	for _, v := range s.volumes {
		name, ok := names[v.spec.Name]
		if !ok {
			return fmt.Errorf("the node plugin knows no volume %q of this pod", v.spec.Name)
		}
		v.mu.Lock()
		v.object.Name = name
		v.mu.Unlock()
	}
	s.cfg.names = names
	return nil
}

// offerPause is between two tries to reach a node plugin that is away.
const offerPause = 200 * time.Millisecond

// keep waits for the end of the volume, and brings the mount's descriptor to the node plugin whenever that was started anew. Meanwhile
// requests are served as ever.
func (v *volume) keep(ctx context.Context) error {
	path := v.s.socket(v.s.cfg.Holder)
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-v.session.Done():
			return v.session.Wait(ctx)
		case <-v.client.Done():
		}
		v.s.cfg.Logger.Info("the node plugin is away; serving on", "volume", v.object.Name)
		if err := v.offer(ctx, path); err != nil {
			return err
		}
	}
}

// unmountTime is how long the end of a mount may take after the plugin has forgotten it.
const unmountTime = 2 * time.Second

// refused ends a volume that the plugin does not know (any more): mostly it is just being unmounted, and the pod's others are served on.
func (v *volume) refused(err error) error {
	select {
	case <-v.session.Done():
		return nil
	case <-time.After(unmountTime):
		return fmt.Errorf("%w: %w", errHolderGone, err)
	}
}

// offer returns when the plugin has the descriptor, ctx has ended, or the mount is gone.
func (v *volume) offer(ctx context.Context, path string) error {
	for {
		err := v.client.Offer(ctx, path)
		var refused *holder.RefusedError
		switch {
		case err == nil:
			v.s.cfg.Logger.Info("the node plugin is back and holds the mount again", "volume", v.object.Name)
			return nil
		case errors.As(err, &refused):
			return v.refused(err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-v.session.Done():
			return nil
		case <-time.After(offerPause):
		}
	}
}
