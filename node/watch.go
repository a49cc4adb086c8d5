package node

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/remora-storage/remora/node/kube"
)

// watch ends waits that have lasted too long, until ctx ends.
func (n *node) watch(ctx context.Context) {
	tick := time.NewTicker(max(n.cfg.tick(), time.Millisecond))
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		for _, p := range n.allPods() {
			n.watchPod(ctx, p)
		}
	}
}

func (n *node) watchPod(ctx context.Context, p *pod) {
	p.live.Lock()
	dirty := p.dirty
	ask := false
	for volume, s := range p.serving {
		if !s.served || s.now || s.aborted {
			continue
		}
		waited := time.Since(s.since)
		budget := n.cfg.HangBudget
		if p.ending {
			budget = min(budget, n.cfg.EndBudget)
		}
		if waited > budget {
			n.abort(p, volume, s, waited)
		} else {
			ask = true
		}
	}
	ask = ask && !p.asking && !p.ending
	p.asking = p.asking || ask
	p.live.Unlock()
	if ask {
		n.background.Go(func() { n.findEnding(ctx, p) })
	}
	if dirty && p.mu.TryLock() { // otherwise at the next tick
		if !p.gone {
			if err := n.save(p); err != nil {
				n.cfg.Logger.Error("keep a pod's state", "err", err)
			}
		}
		p.mu.Unlock()
	}
}

// abort ends the connection of a mount that nobody has served for too long. p.live is held.
func (n *node) abort(p *pod, volume string, s *serving, waited time.Duration) {
	s.aborted = true
	n.metrics.aborted.Inc()
	if err := s.mount.Abort(); err != nil {
		n.cfg.Logger.Error("cannot abort a mount", "volume", s.name, "err", err)
	}
	n.cfg.Logger.Warn("aborted a mount that nobody served", "namespace", p.id.Namespace, "pod", p.id.Name, "volume", s.name, "waited", waited, "ending", p.ending)
	n.tell(p.id, true, "VolumeAborted", fmt.Sprintf("volume %s (Volume %s) was aborted: no sidecar has served it for %v. Programs get errors now instead of waiting; "+
		"when the sidecar (container %s) runs again, restart the containers that use the volume", volume, s.name, waited.Round(time.Second), sidecarName))
}

// findEnding asks whether a pod with an unserved mount is being deleted: then no sidecar comes back, and a program that waits on the mount
// cannot even be killed.
func (n *node) findEnding(ctx context.Context, p *pod) {
	pod, err := n.cfg.API.Pod(ctx, p.id.Namespace, p.id.Name)
	ending := errors.Is(err, kube.ErrNotFound) || err == nil && (pod.DeletionTimestamp != nil || string(pod.UID) != p.id.UID)
	if !ending {
		select { // not more often than is of use
		case <-ctx.Done():
		case <-time.After(n.cfg.EndBudget / 5):
		}
	}
	p.live.Lock()
	defer p.live.Unlock()
	p.asking, p.ending = false, ending
}
