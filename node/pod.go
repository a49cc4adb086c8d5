package node

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"

	"github.com/remora-storage/remora/sidecar/authority"
	"github.com/remora-storage/remora/sidecar/session/holder"
)

// socketName is the pod's socket in its run directory.
const socketName = "node.sock"

// A sidecar asks about ten questions when it starts. A tenant that asks more must not be a burden to the API server.
const (
	deskRate  = 10 // a second
	deskBurst = 50
)

// pod is a pod with at least one published volume, or one that is being published.
type pod struct {
	id        podID
	admission atomic.Pointer[admission]

	mu     sync.Mutex
	mounts map[string]*mounted // by the pod's name for the volume
	disks  string              // target of kind disks; empty: not published
	locals map[string]string   // targets of kind local, by the pod's name for the volume
	server *holder.Server      // nil: not started
	stop   context.CancelFunc
	served sync.WaitGroup
	gone   bool // not in node.pods any more

	live    sync.Mutex
	serving map[string]*serving // as mounts
	asking  bool                // whether the pod is ending is being found out
	ending  bool                // it is
	ended   bool                // and nothing of it runs any more
	dirty   bool                // serving has something that the state file has not
}

// mounted is a FUSE mount of a pod.
type mounted struct {
	target string
	name   string // of the Volume object
	mount  *holder.Mount
}

// serving is what the watch knows of a mount.
type serving struct {
	mount   *holder.Mount
	name    string
	served  bool      // at any time since it was made: programs may wait on it
	now     bool      // a sidecar serves it
	since   time.Time // when that changed last
	aborted bool      // and no sidecar has a new connection yet
}

func newPod(id podID) *pod {
	return &pod{id: id, mounts: map[string]*mounted{}, locals: map[string]string{}, serving: map[string]*serving{}}
}

// lockPod returns the pod, new if it is not known, locked.
func (n *node) lockPod(id podID) *pod {
	for {
		n.mu.Lock()
		p := n.pods[id.UID]
		if p == nil {
			p = newPod(id)
			n.pods[id.UID] = p
		}
		n.mu.Unlock()
		p.mu.Lock()
		if !p.gone {
			return p
		}
		p.mu.Unlock()
	}
}

// knownPod is lockPod for a pod that is known; nil if it is not.
func (n *node) knownPod(uid string) *pod {
	n.mu.Lock()
	p := n.pods[uid]
	n.mu.Unlock()
	if p == nil {
		return nil
	}
	p.mu.Lock()
	if p.gone {
		p.mu.Unlock()
		return nil
	}
	return p
}

// release unlocks a pod, and forgets one that has nothing (any more).
func (n *node) release(p *pod) {
	defer p.mu.Unlock()
	if p.gone || len(p.mounts) > 0 || p.disks != "" || len(p.locals) > 0 {
		return
	}
	if p.stop != nil {
		p.stop()
		p.served.Wait()
	}
	if err := n.removeState(p.id.UID); err != nil {
		n.cfg.Logger.Warn("cannot remove what was kept of a pod", "pod", p.id.Name, "err", err)
	}
	p.gone = true
	n.mu.Lock()
	defer n.mu.Unlock()
	delete(n.pods, p.id.UID)
}

// runDir is what the pod sees as run/.
func (n *node) runDir(uid string) string { return filepath.Join(n.cfg.podDir(uid), "run") }

// serve answers the pod's sidecar on its socket. p.mu is held.
func (n *node) serve(p *pod) error {
	if p.server != nil {
		return nil
	}
	dir := n.runDir(p.id.UID)
	if err := os.MkdirAll(dir, 0o711); err != nil {
		return err
	}
	socket := filepath.Join(dir, socketName)
	l, err := holder.Listen(socket)
	if err != nil {
		return err
	}
	if err := os.Lchown(socket, SidecarUID, SidecarUID); err != nil {
		return errors.Join(err, l.Close())
	}
	d := &desk{n: n, p: p}
	limit := rate.NewLimiter(deskRate, deskBurst)
	server := holder.NewServer(holder.Config{
		Log:    n.cfg.Logger.With("namespace", p.id.Namespace, "pod", p.id.Name),
		Notify: func(e holder.Event) { n.notify(p, e) },
		Other: func(ctx context.Context, op string, line []byte) (any, error) {
			n.metrics.desk.WithLabelValues(knownOp(op)).Inc()
			if err := limit.Wait(ctx); err != nil {
				return nil, err
			}
			return authority.Answer(ctx, d, op, line)
		},
	})
	for volume, m := range p.mounts { // before the first question: a sidecar that knows better is refused for good
		server.Add(volume, m.mount)
	}
	ctx, cancel := context.WithCancel(n.ctx)
	p.server, p.stop = server, cancel
	p.served.Go(func() {
		if err := server.Serve(ctx, l); err != nil {
			n.cfg.Logger.Error("the socket of a pod failed", "namespace", p.id.Namespace, "pod", p.id.Name, "err", err)
		}
	})
	return nil
}

// add makes a mount the pod's. p.mu is held.
func (p *pod) add(volume string, m *mounted, served bool) {
	p.mounts[volume] = m
	p.live.Lock()
	p.serving[volume] = &serving{mount: m.mount, name: m.name, served: served, since: time.Now()}
	p.live.Unlock()
	if p.server != nil {
		p.server.Add(volume, m.mount)
	}
}

// remove ends a mount. p.mu is held.
func (p *pod) remove(volume string) error {
	m := p.mounts[volume]
	if m == nil {
		return nil
	}
	if p.server != nil {
		p.server.Remove(volume)
	}
	p.live.Lock()
	delete(p.serving, volume)
	p.live.Unlock()
	delete(p.mounts, volume)
	return m.mount.Close()
}

// fence ends what other pods of this node have of a Volume that is another's now: a pod that was deleted by force may run on for a while,
// and its sidecar would keep the disk directory locked.
func (n *node) fence(p *pod, name string) {
	for _, other := range n.allPods() {
		if other == p || other.id.Namespace != p.id.Namespace {
			continue
		}
		other.live.Lock()
		for volume, s := range other.serving {
			if s.name != name || s.aborted {
				continue
			}
			s.aborted = true
			if err := s.mount.Abort(); err != nil {
				n.cfg.Logger.Error("cannot abort a mount", "volume", s.name, "err", err)
			}
			n.cfg.Logger.Warn("fenced a pod", "namespace", p.id.Namespace, "pod", other.id.Name, "uid", other.id.UID, "volume", name, "by", p.id.UID)
			n.tell(other.id, true, "VolumeFenced", fmt.Sprintf("volume %s (Volume %s) belongs to pod %s (%s) now: this pod's mount was ended", volume, name, p.id.Name, p.id.UID))
		}
		other.live.Unlock()
	}
}

// notify is told by the holder what sidecars do.
func (n *node) notify(p *pod, e holder.Event) {
	p.live.Lock()
	defer p.live.Unlock()
	s := p.serving[e.Volume]
	if s == nil {
		return
	}
	log := n.cfg.Logger.With("namespace", p.id.Namespace, "pod", p.id.Name, "volume", s.name)
	switch e.Kind {
	case holder.Attached:
	case holder.Serving:
		if s.served {
			n.metrics.pause.Observe(time.Since(s.since).Seconds())
		}
		p.dirty = p.dirty || !s.served
		s.served, s.now, s.since, s.aborted = true, true, time.Now(), false
		log.Info("a sidecar serves")
	case holder.Gone:
		if s.now {
			s.now, s.since = false, time.Now()
			log.Warn("the sidecar is gone; calls of programs wait for the next one", "budget", n.cfg.HangBudget)
		}
	case holder.Remade:
		if !s.served {
			return
		}
		n.metrics.remade.Inc()
		s.served, s.since = false, time.Now() // nobody waits on the new one
		n.tell(p.id, true, "VolumeMountedAnew", fmt.Sprintf("volume %s (Volume %s) was mounted anew: its old connection had ended. "+
			"Containers that were started before see \"transport endpoint is not connected\" until they are restarted", e.Volume, s.name))
	}
}
