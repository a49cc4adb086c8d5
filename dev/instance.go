package dev

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"path/filepath"
	"sync"
	"time"

	"github.com/remora-storage/remora/sidecar/session/holder"
)

// instance is one life of a pod: a UID, its mounts, and the sidecars that serve them one after another.
type instance struct {
	*pod
	uid    string
	mounts map[string]*holder.Mount // by the pod's name for the volume; never changes
	ready  chan struct{}            // closed when all volumes are served for the first time
	ended  chan struct{}            // closed by end

	stopServer context.CancelFunc
	stopLoop   context.CancelFunc
	served     sync.WaitGroup // the holder's server
	looped     sync.WaitGroup // the loop and what it started

	mu      sync.Mutex
	serving map[string]bool // volumes that the present sidecar serves
	pid     int             // of the present sidecar; 0 while none runs
	started time.Time       // of the present or last sidecar
	once    bool            // all volumes were served at some time
	process bool            // all volumes were served by the present or last sidecar
	leaving bool            // it is being unmounted
	left    bool            // it is unmounted
}

// newInstance makes the mounts and the socket and starts the loop.
func (p *pod) newInstance(ctx context.Context) (*instance, error) {
	i := &instance{
		pod: p, uid: newUID(), mounts: map[string]*holder.Mount{}, serving: map[string]bool{},
		ready: make(chan struct{}), ended: make(chan struct{}),
	}
	cmd, err := sidecarCommand(&p.podSpec, p.s.layout, i.uid, p.s.otlp(p.title))
	if err != nil {
		return nil, err
	}
	if err := p.makeDirs(); err != nil {
		return nil, err
	}
	server := holder.NewServer(holder.Config{Log: p.log, Notify: i.notify})
	for _, v := range p.spec.Volumes {
		m, err := holder.Open(p.s.layout.mount(p.title, v.Name), holder.MountOptions{Volume: p.object(v.Name), AllowOther: true})
		if err != nil {
			return nil, errors.Join(err, i.closeMounts())
		}
		i.mounts[v.Name] = m
		server.Add(v.Name, m)
	}
	l, err := holder.Listen(p.s.layout.holder(p.title))
	if err != nil {
		return nil, errors.Join(err, i.closeMounts())
	}
	i.run(ctx, server, l, cmd)
	return i, nil
}

func (p *pod) makeDirs() error {
	l := p.s.layout
	errs := []error{
		mkdir(filepath.Join(string(l), "pods", p.title), 0o755),
		mkdir(l.disks(p.node, p.namespace), 0o700), mkdir(l.volumes(p.namespace), 0o700), mkdir(l.keys(p.namespace), 0o700), mkdir(l.run(p.title), 0o700),
	}
	for _, v := range p.spec.Volumes {
		errs = append(errs, mkdir(l.mount(p.title, v.Name), 0o755))
	}
	return errors.Join(errs...)
}

func (i *instance) run(ctx context.Context, server *holder.Server, l net.Listener, cmd command) {
	serverCtx, stopServer := context.WithCancel(ctx)
	loopCtx, stopLoop := context.WithCancel(ctx)
	i.stopServer, i.stopLoop = stopServer, stopLoop
	i.served.Go(func() {
		if err := server.Serve(serverCtx, l); err != nil {
			i.log.Error("the holder's socket failed; restart the pod", "err", err)
		}
	})
	i.looped.Go(func() { i.loop(loopCtx, cmd) })
	i.looped.Go(func() { i.awaitReady(loopCtx) })
}

// loop runs sidecars until ctx is done, and then stops the last one.
func (i *instance) loop(ctx context.Context, cmd command) {
	var wait backoff
	for {
		p, err := i.s.spawner.start(i.s.program(), cmd, i.sink)
		if err != nil {
			i.log.Error("cannot start the sidecar", "err", err)
		} else {
			i.began(p.pid)
			if !i.awaitEnd(ctx, p) {
				return
			}
		}
		pause := wait.next(i.history())
		i.reportEnd(p, err, pause)
		select {
		case <-ctx.Done():
			return
		case <-time.After(pause):
		}
		if i.history().left { // nothing to serve any more
			<-ctx.Done()
			return
		}
	}
}

// awaitEnd waits for the end of a sidecar; false if the loop was stopped and the sidecar with it.
func (i *instance) awaitEnd(ctx context.Context, p *process) bool {
	defer i.over()
	select {
	case <-p.done:
		return true
	case <-ctx.Done():
		if p.terminate(drainLimit) {
			i.log.Warn("the sidecar did not end in time and was killed", "pid", p.pid, "limit", drainLimit)
		} else if p.err != nil {
			i.log.Warn("the sidecar did not end cleanly", "pid", p.pid, "err", p.err)
		}
		return false
	}
}

func (i *instance) reportEnd(p *process, err error, pause time.Duration) {
	if err != nil {
		return // said already
	}
	h := i.history()
	last := i.sink.takeLast()
	if h.leaving {
		return
	}
	how := "exit code 0"
	if p.err != nil {
		how = p.err.Error()
	}
	if h.process {
		i.log.Warn("the sidecar died; starting another one", "pid", p.pid, "err", how)
		return
	}
	i.log.Error("the sidecar died before it served", "pid", p.pid, "err", how, "retry", pause.String())
	for _, line := range last {
		i.s.console.print(fmt.Sprintf("%s |   %s\n", i.title, line))
	}
}

// notify hears from the holder what the sidecar does.
func (i *instance) notify(e holder.Event) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.serving[e.Volume] = e.Kind == holder.Serving
	for volume := range i.mounts {
		if !i.serving[volume] {
			return
		}
	}
	if i.process = true; i.once {
		i.log.Info("served again", "pid", e.PID, "after", time.Since(i.started).Round(time.Millisecond).String())
	}
	i.once = true
}

// awaitReady closes i.ready once every volume is served and the sidecar says that it is ready.
func (i *instance) awaitReady(ctx context.Context) {
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			if i.history().process && i.s.ask(ctx, i.title, "/readyz", io.Discard) == nil {
				close(i.ready)
				return
			}
		}
	}
}

// history is a copy of what the loop decides by.
type history struct {
	once, process, leaving, left bool
	started                      time.Time
}

func (i *instance) history() history {
	i.mu.Lock()
	defer i.mu.Unlock()
	return history{i.once, i.process, i.leaving, i.left, i.started}
}

func (i *instance) began(pid int) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.pid, i.started, i.process = pid, time.Now(), false
}

func (i *instance) over() {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.pid = 0
}

func (i *instance) sidecarPID() int {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.pid
}

// The pauses before a sidecar is started again.
const (
	firstPause   = 500 * time.Millisecond // doubled at each death of a sidecar that never served
	longestPause = 5 * time.Second
	leavePause   = 200 * time.Millisecond // while unmounting, where an end is mostly the expected one
	startApart   = 50 * time.Millisecond  // between two starts, once the pod has served
)

// backoff decides how long to wait after a sidecar's death. Programs wait on the mounts, so once a pod has served there is no
// pause but the one that keeps a sidecar that dies at once from taking a whole CPU.
type backoff struct{ pause time.Duration }

func (b *backoff) next(h history) time.Duration {
	switch {
	case h.leaving:
		return leavePause
	case h.once:
		b.pause = 0
		return max(0, startApart-time.Since(h.started))
	}
	b.pause = min(max(2*b.pause, firstPause), longestPause)
	return b.pause
}
