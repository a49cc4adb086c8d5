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

	"github.com/remora-storage/remora/dev/process"
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

	mu       sync.Mutex
	cmd      process.Command
	serving  map[string]bool      // volumes that the present sidecar serves
	unserved map[string]time.Time // volumes that were served and are not now: since when; an aborted one is not among them
	away     time.Time            // since when not all volumes are served; zero while they are
	history
}

// newInstance makes the mounts and the socket and starts the loop.
func (p *pod) newInstance(ctx context.Context) (*instance, error) {
	i := &instance{
		pod: p, uid: newUID(), mounts: map[string]*holder.Mount{}, serving: map[string]bool{}, unserved: map[string]time.Time{},
		ready: make(chan struct{}), ended: make(chan struct{}),
	}
	want := p.wanted()
	if err := i.setCommand(want); err != nil {
		return nil, err
	}
	if err := p.makeDirs(want); err != nil {
		return nil, err
	}
	if err := p.s.ensureVolumes(ctx, want); err != nil {
		return nil, err
	}
	if err := p.s.certify(ctx, p.title, place{want.node, p.namespace}, p.name); err != nil {
		return nil, err
	}
	p.s.attendSoon()
	server := holder.NewServer(holder.Config{Log: p.log, Notify: i.notify})
	for _, v := range want.spec.Volumes {
		m, err := holder.Open(p.s.layout.mount(p.title, v.Name), holder.MountOptions{Volume: p.object(v.Name), AllowOther: true})
		if err != nil {
			return nil, errors.Join(err, i.closeMounts())
		}
		i.mounts[v.Name] = m
		if n := m.Hidden(); n > 0 {
			p.log.Warn("files were written to the directory while no volume was mounted on it: they are not in the volume, and are hidden while it is mounted; stop remora dev to see them",
				"mount", m.Target(), "entries", n)
		}
		server.Add(v.Name, m)
	}
	l, err := holder.Listen(p.s.layout.holder(p.title))
	if err != nil {
		return nil, errors.Join(err, i.closeMounts())
	}
	i.run(ctx, server, l)
	return i, nil
}

// setCommand is how sidecars are started from now on.
func (i *instance) setCommand(want *podSpec) error {
	cmd, err := sidecarCommand(want, i.s.layout, i.uid, i.s.otlp(i.title))
	if err != nil {
		return err
	}
	cmd.Args = append(cmd.Args, "--identity=file:"+i.s.layout.identity(i.title))
	cmd.Args = append(cmd.Args, i.s.cfg.SidecarArgs...)
	i.mu.Lock()
	defer i.mu.Unlock()
	i.cmd = cmd
	return nil
}

func (p *pod) makeDirs(want *podSpec) error {
	l := p.s.layout
	errs := []error{
		mkdir(filepath.Join(string(l), "pods", p.title), 0o755),
		mkdir(l.disks(want.node, p.namespace), 0o700), mkdir(l.volumes(p.namespace), 0o700), mkdir(l.keys(p.namespace), 0o700), mkdir(l.run(p.title), 0o700),
	}
	for _, v := range want.spec.Volumes {
		errs = append(errs, mkdir(l.mount(p.title, v.Name), 0o755))
	}
	return errors.Join(errs...)
}

func (i *instance) run(ctx context.Context, server *holder.Server, l net.Listener) {
	serverCtx, stopServer := context.WithCancel(ctx)
	loopCtx, stopLoop := context.WithCancel(ctx)
	i.stopServer, i.stopLoop = stopServer, stopLoop
	i.served.Go(func() {
		if err := server.Serve(serverCtx, l); err != nil {
			i.log.Error("the holder's socket failed; restart the pod", "err", err)
		}
	})
	i.looped.Go(func() { i.loop(loopCtx) })
	i.looped.Go(func() { i.awaitReady(loopCtx) })
	i.looped.Go(func() { i.watch(loopCtx) })
}

// loop runs sidecars until ctx is done, and then stops the last one.
func (i *instance) loop(ctx context.Context) {
	var wait backoff
	for {
		p, err := i.launch()
		if errors.Is(err, errNodeFailed) {
			<-ctx.Done()
			return
		}
		if err != nil {
			i.log.Error("cannot start the sidecar", "err", err)
		} else if !i.awaitEnd(ctx, p) {
			return
		}
		pause := wait.next(i.snapshot())
		i.reportEnd(p, err, pause)
		select {
		case <-ctx.Done():
			return
		case <-time.After(pause):
		}
		if i.snapshot().left { // nothing to serve any more
			<-ctx.Done()
			return
		}
	}
}

var errNodeFailed = errors.New("the node has failed")

// launch starts a sidecar.
func (i *instance) launch() (*process.Process, error) {
	program := i.sidecarProgram()
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.dead {
		return nil, errNodeFailed
	}
	p, err := i.s.spawner.Start(program, i.cmd, i.sink)
	if err != nil {
		return nil, err
	}
	i.present, i.program, i.started, i.answered, i.process = p, program, time.Now(), time.Now(), false
	return p, nil
}

// awaitEnd waits for the end of a sidecar; false if the loop was stopped and the sidecar with it.
func (i *instance) awaitEnd(ctx context.Context, p *process.Process) bool {
	defer i.over()
	select {
	case <-p.Done:
		return true
	case <-ctx.Done():
		i.terminate(p)
		return false
	}
}

// terminate lets a sidecar make everything durable and end.
func (i *instance) terminate(p *process.Process) {
	if p.Terminate(drainLimit) {
		i.log.Warn("the sidecar did not end in time and was killed", "pid", p.PID, "limit", drainLimit)
	} else if p.Err != nil {
		i.log.Warn("the sidecar did not end cleanly", "pid", p.PID, "err", p.Err)
	}
}

func (i *instance) reportEnd(p *process.Process, err error, pause time.Duration) {
	if err != nil {
		return // said already
	}
	h := i.snapshot()
	last := i.sink.TakeLast()
	if h.leaving {
		return
	}
	how := "exit code 0"
	if p.Err != nil {
		how = p.Err.Error()
	}
	switch {
	case h.process && h.swapping:
		i.log.Info("the sidecar ended; starting the other one", "pid", p.PID)
		return
	case h.process:
		i.log.Warn("the sidecar died; starting another one", "pid", p.PID, "err", how)
		return
	}
	i.log.Error("the sidecar died before it served", "pid", p.PID, "err", how, "retry", pause.String())
	for _, line := range last {
		i.s.console.Print(fmt.Sprintf("%s |   %s\n", i.title, line))
		i.setLastSaid(line)
	}
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
			if i.snapshot().process && i.s.ask(ctx, i.title, "/readyz", io.Discard) == nil {
				close(i.ready)
				return
			}
		}
	}
}

// history is what the loop, the watch and an upgrade decide by.
type history struct {
	present  *process.Process // the sidecar; nil while none runs
	program  string           // of the present or last sidecar
	started  time.Time        // of the present or last sidecar
	answered time.Time        // when the present sidecar last said something
	lastSaid string           // by the last sidecar that died before it served
	died     int              // sidecars that died before they served, since one served
	swapping bool             // the sidecar is being exchanged
	once     bool             // all volumes were served at some time
	process  bool             // all volumes were served by the present or last sidecar
	leaving  bool             // it is being unmounted
	left     bool             // it is unmounted
	dead     bool             // its node has failed: nothing is started any more
}

// snapshot is the history up to now.
func (i *instance) snapshot() history {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.history
}

func (i *instance) over() {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.present = nil
	if !i.process {
		i.died++
	}
}

func (i *instance) setLastSaid(line string) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.lastSaid = line
}

func (i *instance) sidecarPID() int {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.present == nil {
		return 0
	}
	return i.present.PID
}

// The pauses before a sidecar is started again.
const (
	firstPause   = 500 * time.Millisecond // doubled at each death of a sidecar that never served
	longestPause = 5 * time.Second
	leavePause   = 200 * time.Millisecond // while unmounting, where an end is mostly the expected one
	startApart   = 50 * time.Millisecond  // between two starts, once the pod has served; doubled at each death before it serves again
	longestApart = time.Second
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
		apart := min(startApart<<min(max(h.died-1, 0), 10), longestApart)
		return max(0, apart-time.Since(h.started))
	}
	b.pause = min(max(2*b.pause, firstPause), longestPause)
	return b.pause
}
