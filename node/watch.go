package node

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"

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
		switch {
		case p.ended:
			n.close(p, s)
		case waited > budget:
			n.abort(p, volume, s, waited)
		default:
			ask = true
		}
	}
	ask = ask && !p.asking
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

// close ends the connection of a mount that nobody is left to wait on but kubelet, which looks at the mounts of subPaths before it takes them
// away. p.live is held.
func (n *node) close(p *pod, s *serving) {
	s.aborted = true
	if err := s.mount.Abort(); err != nil {
		n.cfg.Logger.Error("cannot abort a mount", "volume", s.name, "err", err)
	}
	n.cfg.Logger.Info("closed a mount: nothing of its pod runs any more", "namespace", p.id.Namespace, "pod", p.id.Name, "volume", s.name)
}

// findEnding asks whether a pod with an unserved mount is ending: then no sidecar comes back, and a program that waits on the mount cannot even
// be killed. It asks until the pod has ended.
func (n *node) findEnding(ctx context.Context, p *pod) {
	pod, err := n.cfg.API.Pod(ctx, p.id.Namespace, p.id.Name)
	ending, ended := fate(pod, err, p.id.UID)
	pause := n.cfg.EndBudget / 5 // not more often than is of use
	if ending {
		pause = min(pause, 200*time.Millisecond)
	}
	if !ended {
		select {
		case <-ctx.Done():
		case <-time.After(pause):
		}
	}
	p.live.Lock()
	defer p.live.Unlock()
	p.asking, p.ending, p.ended = false, p.ending || ending, p.ended || ended
}

// fate says whether the pod of this UID is ending, for good, and whether none of its containers runs any more.
func fate(pod *corev1.Pod, err error, uid string) (ending, ended bool) {
	switch {
	case errors.Is(err, kube.ErrNotFound):
		return true, false // deleted by force, it may run on for a while
	case err != nil:
		return false, false
	case string(pod.UID) != uid:
		return true, false
	}
	ending = pod.DeletionTimestamp != nil || pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed
	runs := func(c corev1.ContainerStatus) bool { return c.State.Running != nil }
	ended = ending && len(pod.Status.ContainerStatuses) > 0 &&
		!slices.ContainsFunc(slices.Concat(pod.Status.InitContainerStatuses, pod.Status.ContainerStatuses, pod.Status.EphemeralContainerStatuses), runs)
	return ending, ended
}
