package dev

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/remora-storage/remora/dev/process"
	"github.com/remora-storage/remora/sidecar/status"
)

// place is a tenant's part of a node: what one process at a time serves, but for pods that share a node.
type place struct{ node, namespace string }

// keeper serves the replicas at a place where no pod runs: a sidecar with nothing but that.
type keeper struct {
	s     *supervisor
	at    place
	name  string // as the pod is called in the Volume objects
	title string
	log   *slog.Logger
	sink  *process.Sink
	stop  context.CancelFunc
	done  chan struct{} // closed when the loop has ended

	mu      sync.Mutex
	present *process.Process
	binary  string // what an upgrade has set
	dead    bool   // its node has failed: nothing is started any more
	known   *answered
}

// keeperName is what the keeper of a node is called within its tenant.
func keeperName(node string) string { return "keeper-" + node }

func newKeeper(s *supervisor, at place) *keeper {
	k := &keeper{s: s, at: at, name: keeperName(at.node), done: make(chan struct{})}
	k.title = title(at.namespace, k.name)
	k.log = s.cfg.Log.With("keeper", k.title)
	k.sink = &process.Sink{Path: s.layout.log(k.title), Prefix: k.title, Console: s.console}
	return k
}

// start runs the keeper until end or kill.
func (k *keeper) start(ctx context.Context) error {
	l := k.s.layout
	for _, dir := range []string{l.disks(k.at.node, k.at.namespace), l.run(k.title)} {
		if err := mkdir(dir, 0o700); err != nil {
			return err
		}
	}
	if err := k.s.certify(ctx, k.title, k.at, k.name); err != nil {
		return err
	}
	ctx, k.stop = context.WithCancel(context.WithoutCancel(ctx))
	go func() {
		defer close(k.done)
		k.loop(ctx)
	}()
	return nil
}

func (k *keeper) command() process.Command {
	l := k.s.layout
	return process.Command{
		Args: append([]string{"sidecar", "--mode=dev", "--keeper", "--disks=" + l.disks(k.at.node, k.at.namespace), "--listen=unix:" + l.sidecar(k.title),
			"--authority=file:" + l.volumes(k.at.namespace), "--keys=file:" + l.keys(k.at.namespace), "--identity=file:" + l.identity(k.title)},
			k.s.cfg.SidecarArgs...),
		Env: []string{"PATH=" + os.Getenv("PATH"), "HOME=/root", "POD_NAME=" + k.name, "POD_NAMESPACE=" + k.at.namespace, "POD_UID=" + k.name,
			"NODE_NAME=" + k.at.node, otlpVariable + "=" + k.s.otlp(k.title)},
	}
}

// loop runs sidecars until ctx is done.
func (k *keeper) loop(ctx context.Context) {
	var wait backoff
	for {
		began := time.Now()
		p, err := k.launch()
		if err != nil {
			k.log.Error("cannot start the keeper", "err", err)
		} else if p == nil || !k.awaitEnd(ctx, p) {
			return
		} else {
			k.log.Warn("the keeper ended; starting another one", "pid", p.PID, "err", p.Err)
		}
		pause := wait.next(history{once: time.Since(began) > longestPause, started: began})
		select {
		case <-ctx.Done():
			return
		case <-time.After(pause):
		}
	}
}

// launch starts a sidecar; nil if the node has failed.
func (k *keeper) launch() (*process.Process, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.dead {
		return nil, nil
	}
	p, err := k.s.spawner.Start(cmp.Or(k.binary, k.s.program()), k.command(), k.sink)
	if err == nil {
		k.present = p
	}
	return p, err
}

func (k *keeper) awaitEnd(ctx context.Context, p *process.Process) (again bool) {
	defer func() {
		k.mu.Lock()
		k.present = nil
		k.mu.Unlock()
	}()
	select {
	case <-p.Done:
		return true
	case <-ctx.Done():
		if p.Terminate(drainLimit) {
			k.log.Warn("the keeper did not end in time and was killed", "pid", p.PID, "limit", drainLimit)
		}
		return false
	}
}

// end lets the keeper make everything durable, and returns when its directories are free.
func (k *keeper) end() {
	k.stop()
	<-k.done
}

// kill is the loss of its node: at once, and for good. It does not wait.
func (k *keeper) kill() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.dead = true
	if k.present != nil {
		k.present.Kill()
	}
}

// renew has the keeper started anew, by another binary if one is named, and returns when it answers.
func (k *keeper) renew(ctx context.Context, binary string) (pause time.Duration, err error) {
	k.mu.Lock()
	old := k.present
	k.binary = cmp.Or(binary, k.binary)
	k.mu.Unlock()
	begin := time.Now()
	if old != nil {
		old.Terminate(drainLimit)
	}
	ctx, cancel := context.WithTimeout(ctx, startLimit)
	defer cancel()
	for {
		if pid := k.pid(); pid != 0 && (old == nil || pid != old.PID) && k.s.ask(ctx, k.title, "/status", new(bytes.Buffer)) == nil {
			return time.Since(begin), nil
		}
		select {
		case <-ctx.Done():
			return 0, fmt.Errorf("keeper %s does not answer (log: %s): %w", k.title, k.sink.Path, ctx.Err())
		case <-time.After(5 * time.Millisecond):
		}
	}
}

func (k *keeper) pid() int {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.present == nil {
		return 0
	}
	return k.present.PID
}

// report is what the keeper answers, or its last word.
func (k *keeper) report(ctx context.Context) status.Pod {
	r := status.Pod{Name: k.title, Node: k.at.node, Volumes: []status.Volume{}, Hosted: []status.Hosted{}}
	pid := k.pid()
	if pid == 0 {
		return r
	}
	r.PID = &pid
	var b bytes.Buffer
	fresh := answered{pid: pid, at: time.Now()}
	ok := k.s.ask(ctx, k.title, "/status", &b) == nil && json.Unmarshal(b.Bytes(), &fresh.Pod) == nil
	k.mu.Lock()
	defer k.mu.Unlock()
	if ok {
		k.known = &fresh
	}
	if k.known != nil && k.known.pid == pid && time.Since(k.known.at) < patience && k.known.Hosted != nil {
		r.Hosted = k.known.Hosted
	}
	return r
}

// keepers are those that run.
type keepers struct {
	s        *supervisor
	handover sync.Mutex // held while a keeper makes way: one at a time. Above mu

	mu      sync.Mutex
	running map[place]*keeper
	pods    map[place]int // pods that run there, or are about to
	closed  bool
}

func newKeepers(s *supervisor) *keepers {
	return &keepers{s: s, running: map[place]*keeper{}, pods: map[place]int{}}
}

// occupy makes way for a pod: the keeper at its place ends, when all other voters of what it serves are caught up.
func (ks *keepers) occupy(ctx context.Context, at place) {
	ks.handover.Lock()
	defer ks.handover.Unlock()
	ks.mu.Lock()
	k := ks.running[at]
	ks.mu.Unlock()
	if k != nil {
		ks.s.awaitOthers(ctx, k.title)
	}
	ks.mu.Lock()
	ks.pods[at]++
	k = ks.running[at]
	delete(ks.running, at)
	ks.mu.Unlock()
	if k != nil {
		k.log.Info("making way for a pod")
		k.end()
	}
}

// reserve keeps keepers away from a place where none runs.
func (ks *keepers) reserve(at place) {
	ks.mu.Lock()
	defer ks.mu.Unlock()
	ks.pods[at]++
}

// vacate says that a pod is gone from its place. tend starts a keeper there if one is needed.
func (ks *keepers) vacate(at place) {
	ks.mu.Lock()
	defer ks.mu.Unlock()
	if ks.pods[at]--; ks.pods[at] <= 0 {
		delete(ks.pods, at)
	}
}

// want starts keepers at the places where none runs and no pod does.
func (ks *keepers) want(ctx context.Context, places map[place]bool) {
	if !ks.handover.TryLock() {
		return // a keeper is just making way; the next look will do
	}
	defer ks.handover.Unlock()
	for at := range places {
		ks.mu.Lock()
		if ks.closed || ks.running[at] != nil || ks.pods[at] > 0 {
			ks.mu.Unlock()
			continue
		}
		k := newKeeper(ks.s, at)
		err := k.start(ctx)
		if err == nil {
			ks.running[at] = k
		}
		ks.mu.Unlock()
		if err != nil {
			k.log.Error("cannot start a keeper", "err", err)
			continue
		}
		k.log.Info("no pod runs here: a keeper serves the replicas", "node", at.node)
	}
}

// take removes the keepers of a node from those that run.
func (ks *keepers) take(node string) (taken []*keeper) {
	ks.mu.Lock()
	defer ks.mu.Unlock()
	for at, k := range ks.running {
		if at.node == node {
			taken = append(taken, k)
			delete(ks.running, at)
		}
	}
	return taken
}

func (ks *keepers) list() (all []*keeper) {
	ks.mu.Lock()
	defer ks.mu.Unlock()
	for _, k := range ks.running {
		all = append(all, k)
	}
	return all
}

// find returns the keeper of that title, or nil.
func (ks *keepers) find(title string) *keeper {
	for _, k := range ks.list() {
		if k.title == title {
			return k
		}
	}
	return nil
}

// close ends all keepers. No more are started.
func (ks *keepers) close() {
	ks.handover.Lock()
	defer ks.handover.Unlock()
	ks.mu.Lock()
	ks.closed = true
	ks.mu.Unlock()
	var all sync.WaitGroup
	for _, k := range ks.list() {
		all.Go(k.end)
	}
	all.Wait()
}

// disksHere tells whether a place has disk directories.
func (l layout) disksHere(at place) bool {
	found, err := filepath.Glob(filepath.Join(l.disks(at.node, at.namespace), "disk-*"))
	return err == nil && len(found) > 0
}
