package dev

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"
)

// pod is a pod that dev runs, over all its instances.
type pod struct {
	podSpec
	s    *supervisor
	log  *slog.Logger
	sink *sink

	life sync.Mutex // held while an instance is made or ended

	mu      sync.Mutex
	current *instance // nil before the first start and after the last stop
	known   *answered // over all instances
}

func newPod(s *supervisor, spec *podSpec) *pod {
	return &pod{
		podSpec: *spec, s: s, log: s.cfg.Log.With("pod", spec.title),
		sink: &sink{path: s.layout.log(spec.title), prefix: spec.title, console: s.console},
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
			p.log.Info("still waiting for the sidecar to serve", "log", p.sink.path)
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
