package dev

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/remora-storage/remora/api/v1alpha1"
	"github.com/remora-storage/remora/sidecar/authority"
	"github.com/remora-storage/remora/sidecar/status"
)

// The loss of a node, as far as one machine can play it:
//
//  1. kill: everything that runs there gets SIGKILL at once, and nothing is started there again.
//  2. Its mounts are aborted and unmounted: programs that used them get errors, as they would not have survived, either.
//  3. Its disks are put aside, and deleted unless they are to be kept.
//  4. An empty node takes its place, under a name that was never used.
//  5. The Volume objects hear of it: members there are lost, or leave, and the new node is wanted in the place of the old one: at once
//     where the volume's pod moves, else after the delay that was asked for.
//  6. The node's pods start on the new node.

// Failure is what became of a node that failed.
type Failure struct {
	Node  string     `json:"node"`
	New   string     `json:"new"`   // the empty node in its place
	Kept  string     `json:"kept"`  // where its disks are; empty: they are gone
	Pods  []MovedPod `json:"pods"`  // that ran there
	Found []string   `json:"found"` // what a person must know: volumes that nobody can serve any more
}

// MovedPod is a pod that started on another node.
type MovedPod struct {
	Name    string        `json:"name"`
	Mounted time.Duration `json:"mounted"` // from the start of the new pod, nanoseconds; 0: it is not mounted
}

// fault is a failure that is not dealt with yet, in DIR/placement.json.
type fault struct {
	Node string    `json:"node"`
	New  string    `json:"new"`
	Due  time.Time `json:"due"` // when its replicas are replaced
	Kept bool      `json:"kept"`
}

func (s *supervisor) failNode(ctx context.Context, node string, replaceAfter time.Duration, keep bool) (Failure, error) {
	s.failing.Lock()
	defer s.failing.Unlock()
	if !slices.Contains(s.nodes(), node) {
		return Failure{}, fmt.Errorf("%w %q; there are: %s", errUnknownNode, node, strings.Join(s.nodes(), ", "))
	}
	s.cfg.Log.Warn("the node fails", "node", node)
	f, started, err := s.exchangeNode(ctx, node, replaceAfter, keep)
	if err != nil {
		return f, err
	}
	s.attendSoon()
	f.Pods, f.Found = s.awaitMoved(ctx, started)
	for _, o := range s.objects(ctx) {
		if o.MajorityLost() && slices.ContainsFunc(o.Members, func(m v1alpha1.Member) bool { return m.Lost && m.Node == node }) {
			f.Found = append(f.Found, majorityLost(&o, s.layout))
		}
	}
	return f, nil
}

// exchangeNode does steps 1 to 6. It returns the pods that start on the new node.
func (s *supervisor) exchangeNode(ctx context.Context, node string, replaceAfter time.Duration, keep bool) (f Failure, started []*pod, err error) {
	pods, unlock := s.podsOn(node)
	defer unlock()
	s.changing.Lock()
	defer s.changing.Unlock()
	started = s.killAll(node, pods)
	f = Failure{Node: node, Pods: []MovedPod{}, Found: []string{}}
	if f.Kept, err = s.putAside(node, keep); err != nil {
		return f, nil, err
	}
	if f.New, err = s.replaceNode(node, replaceAfter, keep); err != nil {
		return f, nil, err
	}
	for _, p := range pods {
		p.moveTo(f.New, slices.Contains(started, p))
	}
	if err := s.tellVolumes(ctx, node, f.New, replaceAfter == 0, keep); err != nil {
		return f, nil, err
	}
	return f, started, s.startMoved(started)
}

var errUnknownNode = errors.New("unknown node")

// podsOn returns the pods of a node, and keeps everybody else from starting and ending them.
func (s *supervisor) podsOn(node string) (pods []*pod, unlock func()) {
	for _, p := range s.pods() {
		p.life.Lock()
		if p.wanted().node == node {
			pods = append(pods, p)
		} else {
			p.life.Unlock()
		}
	}
	return pods, func() {
		for _, p := range pods {
			p.life.Unlock()
		}
	}
}

// killAll kills all processes of a node, and then clears up what they leave. It returns the pods that had been started.
func (s *supervisor) killAll(node string, pods []*pod) (started []*pod) {
	gone := s.keepers.take(node)
	for _, k := range gone {
		k.kill()
	}
	for _, p := range pods {
		if i := p.instance(); i != nil {
			i.kill()
			started = append(started, p)
		}
	}
	var clearing sync.WaitGroup
	for _, k := range gone {
		clearing.Go(k.end)
	}
	for _, p := range started {
		clearing.Go(func() {
			i := p.instance()
			for _, m := range i.mounts {
				if err := m.Abort(); err != nil {
					p.log.Error("cannot abort the connection", "mount", m.Target(), "err", err)
				}
			}
			if err := i.end(); err != nil {
				p.log.Error("cannot clear what the pod left", "err", err)
			}
			s.keepers.vacate(place{node, p.namespace})
		})
	}
	clearing.Wait()
	return started
}

// kill is the loss of the pod's node: its sidecar dies now, and no other is started.
func (i *instance) kill() {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.dead, i.leaving = true, true
	if i.present != nil {
		i.present.Kill()
	}
}

// putAside moves the node's directory away, so that nothing finds it, and deletes it unless it is kept.
func (s *supervisor) putAside(node string, keep bool) (kept string, err error) {
	from, to := s.layout.node(node), s.layout.failed(node)
	if err := mkdir(s.layout.failed(""), 0o700); err != nil {
		return "", err
	}
	if err := os.Rename(from, to); err != nil && !errors.Is(err, os.ErrNotExist) {
		return "", fmt.Errorf("put the disks of %s aside: %w", node, err)
	}
	if keep {
		return to, nil
	}
	return "", os.RemoveAll(to)
}

// replaceNode puts an empty node in the place of one that failed.
func (s *supervisor) replaceNode(node string, replaceAfter time.Duration, keep bool) (string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	p := s.placed
	name := p.newName()
	p.Nodes[slices.Index(p.Nodes, node)] = name
	p.Returned = slices.DeleteFunc(p.Returned, func(n string) bool { return n == node })
	p.Failed = append(p.Failed, node)
	for key, at := range p.Pods {
		if at == node {
			p.Pods[key] = name
		}
	}
	if replaceAfter > 0 {
		p.Faults = append(p.Faults, fault{node, name, time.Now().Add(replaceAfter), keep})
	}
	return name, p.save(s.layout.placement())
}

// tellVolumes writes into the Volume objects what has become of a node. Where the pod moves, its replica is replaced now in any case: it
// needs one where it runs.
func (s *supervisor) tellVolumes(ctx context.Context, node, by string, now, keep bool) error {
	var errs []error
	for _, o := range s.objects(ctx) {
		if !slices.Contains(o.Nodes, node) && !hasMember(&o, node) && o.OwnerNode != node {
			continue
		}
		_, err := authority.Modify(ctx, s.auth(o.Namespace), o.Name, func(o *v1alpha1.Volume) error {
			moves := o.OwnerNode == node
			if moves {
				o.OwnerNode = by
			}
			if now || moves || o.Copies() == 1 {
				replace(o, node, by, !keep)
				return nil
			}
			for i := range o.Members {
				if m := &o.Members[i]; m.Node == node {
					m.Lost = !keep
				}
			}
			return nil
		})
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// replace wants a replica on another node in the place of one.
func replace(o *v1alpha1.Volume, node, by string, lost bool) {
	if o.Copies() == 1 { // nothing can take its place
		for i := range o.Members {
			if m := &o.Members[i]; m.Node == node {
				m.Lost = lost
			}
		}
		return
	}
	leave(o, node, lost)
	for i := range o.Nodes {
		if o.Nodes[i] == node {
			o.Nodes[i] = by
		}
	}
	if o.Witness == node {
		o.Witness = by
	}
}

// replaceDue replaces the replicas of nodes whose delay is over.
func (s *supervisor) replaceDue(ctx context.Context) {
	s.mu.Lock()
	var due []fault
	for _, f := range s.placed.Faults {
		if time.Now().After(f.Due) {
			due = append(due, f)
		}
	}
	s.mu.Unlock()
	for _, f := range due {
		s.cfg.Log.Info("the replicas of a node that failed are replaced now", "node", f.Node, "by", f.New)
		if err := s.tellVolumes(ctx, f.Node, f.New, true, f.Kept); err != nil {
			s.cfg.Log.Error("cannot replace the replicas of a node", "node", f.Node, "err", err)
			continue
		}
		s.mu.Lock()
		s.placed.Faults = slices.DeleteFunc(s.placed.Faults, func(g fault) bool { return g.Node == f.Node })
		err := s.placed.save(s.layout.placement())
		s.mu.Unlock()
		if err != nil {
			s.cfg.Log.Error("cannot save the placement", "err", err)
		}
	}
}

// startMoved starts pods on their new node; their lives are locked.
func (s *supervisor) startMoved(pods []*pod) error {
	var mu sync.Mutex
	var errs []error
	var all sync.WaitGroup
	for _, p := range pods {
		all.Go(func() {
			err := p.startLocked(context.WithoutCancel(s.ctx))
			mu.Lock()
			defer mu.Unlock()
			errs = append(errs, err)
		})
	}
	all.Wait()
	return errors.Join(errs...)
}

// awaitMoved waits until the pods serve, or say that they never will.
func (s *supervisor) awaitMoved(ctx context.Context, pods []*pod) (moved []MovedPod, found []string) {
	moved, found = make([]MovedPod, len(pods)), []string{}
	var mu sync.Mutex
	var all sync.WaitGroup
	for n, p := range pods {
		all.Go(func() {
			begin := time.Now()
			ctx, cancel := context.WithCancel(ctx)
			defer cancel()
			ready := make(chan error, 1)
			go func() { ready <- p.waitReady(ctx) }()
			moved[n].Name = p.title
			if lost := s.awaitEither(ctx, p, ready); lost != "" {
				mu.Lock()
				found = append(found, lost)
				mu.Unlock()
				return
			}
			moved[n].Mounted = time.Since(begin)
		})
	}
	all.Wait()
	slices.Sort(found)
	return moved, found
}

// awaitEither returns "" when the pod is ready, and otherwise why it is not and will not be.
func (s *supervisor) awaitEither(ctx context.Context, p *pod, ready chan error) string {
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case err := <-ready:
			if err != nil {
				return fmt.Sprintf("pod %s: %v", p.title, err)
			}
			return ""
		case <-tick.C:
		}
		for _, v := range p.report(ctx).Volumes {
			if v.State == status.MajorityLost || v.State == status.Damaged {
				return fmt.Sprintf("pod %s is not mounted: volume %s is %s; its log says what to do (%s)", p.title, v.Volume, v.State, p.sink.Path)
			}
		}
	}
}

// majorityLost says what has become of a volume.
func majorityLost(o *v1alpha1.Volume, dir layout) string {
	if o.Copies() == 1 {
		return fmt.Sprintf("volume %s had one copy, and it is lost", title(o.Namespace, o.Name))
	}
	return fmt.Sprintf("volume %s has lost the majority of its disks (%s): bring one back (remora dev return-node), or go on with what is left by: remora dev accept-loss %s --accept-data-loss --dir %s",
		title(o.Namespace, o.Name), describe(o), title(o.Namespace, o.Name), dir)
}

// kept are the nodes that return-node can bring back.
func (s *supervisor) kept() string {
	entries, _ := os.ReadDir(s.layout.failed(""))
	names := make([]string, 0, len(entries))
	for _, e := range entries {
		names = append(names, e.Name())
	}
	if len(names) == 0 {
		return "none"
	}
	return strings.Join(names, ", ")
}

// returnNode brings back a node whose disks were kept: with what it had when it failed.
func (s *supervisor) returnNode(node string) error {
	s.failing.Lock()
	defer s.failing.Unlock()
	s.mu.Lock()
	defer s.mu.Unlock()
	if slices.Contains(s.placed.Nodes, node) {
		return fmt.Errorf("node %s has not failed; the disks of these were kept: %s", node, s.kept())
	}
	if err := os.Rename(s.layout.failed(node), s.layout.node(node)); err != nil {
		return fmt.Errorf("node %s cannot come back: its disks were not kept (fail-node --keep-disk): %w", node, err)
	}
	s.placed.Nodes = append(s.placed.Nodes, node)
	s.placed.Returned = append(s.placed.Returned, node)
	s.placed.Failed = slices.DeleteFunc(s.placed.Failed, func(n string) bool { return n == node })
	s.placed.Faults = slices.DeleteFunc(s.placed.Faults, func(f fault) bool { return f.Node == node })
	s.attendSoon()
	return s.placed.save(s.layout.placement())
}

// newName is a node's name that was never used.
func (p *placement) newName() string {
	next := 0
	for _, name := range slices.Concat(p.Nodes, p.Failed) {
		if n, err := strconv.Atoi(strings.TrimPrefix(name, "node-")); err == nil {
			next = max(next, n+1)
		}
	}
	return fmt.Sprintf("node-%d", next)
}

// nodes are those that have not failed.
func (s *supervisor) nodes() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.placed.Nodes)
}

// attendSoon has certificates and keepers looked at now.
func (s *supervisor) attendSoon() {
	select {
	case s.attend <- struct{}{}:
	default:
	}
}
