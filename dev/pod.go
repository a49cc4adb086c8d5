package dev

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/remora-storage/remora/dev/process"
)

// pod is a pod that dev runs, over all its instances.
type pod struct {
	podSpec // template and spec are read by wanted
	s       *supervisor
	log     *slog.Logger
	sink    *process.Sink

	life     sync.Mutex // held while an instance is made or ended
	occupies bool       // no keeper runs at its place; guarded by life

	mu      sync.Mutex
	current *instance // nil before the first start and after the last stop
	known   *answered // over all instances
	binary  string    // what an upgrade has set; empty: what the supervisor runs
}

func newPod(s *supervisor, spec *podSpec) *pod {
	return &pod{
		podSpec: *spec, s: s, log: s.cfg.Log.With("pod", spec.title),
		sink: &process.Sink{Path: s.layout.log(spec.title), Prefix: spec.title, Console: s.console},
	}
}

// instance returns the current one, or nil.
func (p *pod) instance() *instance {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.current
}

func (p *pod) setInstance(i *instance) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.current = i
}

// wanted is what the manifests ask for.
func (p *pod) wanted() *podSpec {
	p.mu.Lock()
	defer p.mu.Unlock()
	spec := p.podSpec
	return &spec
}

// sidecarProgram is what the next sidecar runs.
func (p *pod) sidecarProgram() string {
	p.mu.Lock()
	binary := p.binary
	p.mu.Unlock()
	return cmp.Or(binary, p.s.program())
}

// start makes a new instance and returns without waiting for it.
func (p *pod) start(ctx context.Context) error {
	p.life.Lock()
	defer p.life.Unlock()
	return p.startLocked(ctx)
}

func (p *pod) startLocked(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if p.instance() == nil && !p.occupies { // an instance that follows another keeps the place
		p.s.keepers.occupy(ctx, place{p.wanted().node, p.namespace})
		p.occupies = true
	}
	i, err := p.newInstance(context.WithoutCancel(ctx)) // it ends by stop, so that its mounts go first
	if err != nil {
		return fmt.Errorf("pod %s: %w", p.title, err)
	}
	p.setInstance(i)
	return nil
}

// waitReady waits until an instance of the pod serves all its volumes.
func (p *pod) waitReady(ctx context.Context) error {
	tick := time.NewTicker(waitingEvery)
	defer tick.Stop()
	for {
		i := p.settled()
		if i == nil {
			return fmt.Errorf("pod %s was stopped", p.title)
		}
		select {
		case <-i.ready:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		case <-i.ended: // by restart-pod
		case <-tick.C:
			p.log.Info("still waiting for the sidecar to serve", "log", p.sink.Path)
		}
	}
}

// waitingEvery is how often a user hears what dev is waiting for.
const waitingEvery = 10 * time.Second

// settled returns the current instance once no start or restart is under way.
func (p *pod) settled() *instance {
	p.life.Lock()
	defer p.life.Unlock()
	return p.instance()
}

// restart deletes the pod and makes it again, and returns when it serves.
func (p *pod) restart(ctx context.Context) error {
	if err := p.replace(ctx); err != nil {
		return err
	}
	return p.waitReady(ctx)
}

// replace ends the instance and starts another one. Once begun it goes through, whatever becomes of ctx: the caller may have
// hung up, and a stop of the supervisor waits for p.life.
func (p *pod) replace(ctx context.Context) error {
	p.life.Lock()
	defer p.life.Unlock()
	i := p.instance()
	if i == nil {
		return fmt.Errorf("pod %s has not been started yet: pods of a StatefulSet start one after another", p.title)
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := p.reload(ctx); err != nil {
		return err
	}
	p.log.Info("restarting the pod")
	i.unmount()
	err := i.end()
	return errors.Join(err, p.startLocked(context.WithoutCancel(ctx)))
}

func newUID() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails (crypto/rand)
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[0:4], b[4:6], b[6:8], b[8:10], b[10:16])
}

// reload reads the manifests again. A template that cannot be taken changes nothing.
func (p *pod) reload(ctx context.Context) error {
	want, err := p.s.reread(ctx, p.title)
	if err != nil || want == nil {
		return err
	}
	p.want(want)
	return nil
}

// reloadRunning is reload for an instance that goes on: its mounts stay, so its volumes must, too.
func (p *pod) reloadRunning(ctx context.Context, i *instance) error {
	want, err := p.s.reread(ctx, p.title)
	if err != nil || want == nil {
		return err
	}
	same := len(want.spec.Volumes) == len(i.mounts)
	for _, v := range want.spec.Volumes {
		same = same && i.mounts[v.Name] != nil
	}
	if !same {
		return fmt.Errorf("pod %s is as it was: the manifests give it other volumes now, which needs: remora dev restart-pod %s", p.title, p.title)
	}
	if err := i.setCommand(want); err != nil {
		return err
	}
	p.want(want)
	return nil
}

func (p *pod) want(spec *podSpec) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.template, p.spec = spec.template, spec.spec
}

// moveTo changes the node on which the next instance runs, and keeps keepers away from there if that is about to start. p.life is held.
func (p *pod) moveTo(node string, starts bool) {
	p.mu.Lock()
	p.node = node
	p.mu.Unlock()
	if p.occupies = starts; starts {
		p.s.keepers.reserve(place{node, p.namespace})
	}
}
