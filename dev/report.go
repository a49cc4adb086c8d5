package dev

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"sync"
	"text/tabwriter"
	"time"

	"github.com/remora-storage/remora/api/v1alpha1"
	"github.com/remora-storage/remora/sidecar/authority"
	"github.com/remora-storage/remora/sidecar/status"
	"github.com/remora-storage/remora/webhook/spec"
)

// report asks all sidecars at once and fills in what is known about those that do not answer.
func (s *supervisor) report(ctx context.Context) status.Report {
	pods := s.pods()
	keepers := s.keepers.list()
	slices.SortFunc(keepers, func(a, b *keeper) int { return strings.Compare(a.title, b.title) })
	r := status.Report{Pods: make([]status.Pod, len(pods)+len(keepers))}
	var all sync.WaitGroup
	for n, p := range pods {
		all.Go(func() { r.Pods[n] = p.report(ctx) })
	}
	for n, k := range keepers {
		all.Go(func() { r.Pods[len(pods)+n] = k.report(ctx) })
	}
	all.Wait()
	s.fillReplicas(&r)
	return r
}

// fillReplicas puts what the processes say of the replicas that they serve beside what owners say of their volumes.
func (s *supervisor) fillReplicas(r *status.Report) {
	type served struct {
		status.Hosted
		pod, node string
	}
	byID := map[string]served{}
	for _, p := range r.Pods {
		for _, h := range p.Hosted {
			if p.PID != nil {
				byID[h.ID] = served{h, p.Name, p.Node}
			}
		}
	}
	for _, p := range r.Pods {
		for v := range p.Volumes {
			for n := range p.Volumes[v].Replicas {
				to := &p.Volumes[v].Replicas[n]
				if h, ok := byID[to.ID]; ok && to.ID != "" && to.State != status.Lost {
					to.Pod, to.Node, to.State, to.MatchIndex, to.Missing, to.Kept, to.Full = h.pod, h.node, h.State, h.Applied, h.Missing, h.Kept, h.Full
				}
			}
		}
	}
}

// patience is how long an answer stays good while its sidecar is running but slow to answer.
const patience = 5 * time.Second

// answered is the last answer of a pod's sidecar.
type answered struct {
	status.Pod
	pid int
	at  time.Time
}

// report is what the sidecar answers, or else what is known. What the sidecar cannot know is filled in: titles, paths, PID.
func (p *pod) report(ctx context.Context) status.Pod {
	r := status.Pod{Name: p.title, Node: p.wanted().node, Volumes: []status.Volume{}, Hosted: []status.Hosted{}}
	silent := status.Offline
	if i := p.instance(); i != nil {
		if pid := i.sidecarPID(); pid != 0 {
			r.PID = &pid
			silent = p.refresh(ctx, pid)
		}
	}
	for _, v := range p.wanted().spec.Volumes {
		r.Volumes = append(r.Volumes, p.reportVolume(ctx, v.Name, silent))
	}
	if silent == "" {
		r.Hosted = p.lastHosted()
	}
	return r
}

// refresh asks the sidecar, and returns the state to show if it does not answer; "" says that the last answer is good.
func (p *pod) refresh(ctx context.Context, pid int) (silent string) {
	var b bytes.Buffer
	fresh := answered{pid: pid, at: time.Now()}
	ok := p.s.ask(ctx, p.title, "/status", &b) == nil && json.Unmarshal(b.Bytes(), &fresh.Pod) == nil
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case ok:
		p.known = &fresh
		return ""
	case p.known == nil || p.known.pid != pid:
		return status.Recovering // it is just starting
	case time.Since(p.known.at) < patience:
		return ""
	default:
		return status.Offline
	}
}

// reportVolume takes the sidecar's last word on a volume, or what is known without it.
func (p *pod) reportVolume(ctx context.Context, name, silent string) status.Volume {
	v, known := p.lastWord(name)
	if !known {
		v, known = p.expected(ctx, name)
	} else if len(v.Replicas) == 0 { // the sidecar has not read the object yet
		state := v.State
		v, _ = p.expected(ctx, name)
		v.State = state
	}
	if known && silent != "" && v.State != status.MajorityLost {
		v.State = silent
	}
	v.Name, v.Volume, v.Mount = name, p.object(name), p.s.layout.mount(p.title, name)
	replicas := make([]status.Replica, 0, len(v.Replicas)) // never null, and not the array of the last word
	for _, r := range v.Replicas {
		if r.Pod != "" {
			r.Pod = title(p.namespace, r.Pod)
		}
		if silent != "" && r.Pod == p.title && r.State != status.Lost {
			r.State = status.Offline
		}
		replicas = append(replicas, r)
	}
	v.Replicas = replicas
	return v
}

func (p *pod) lastHosted() []status.Hosted {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.known == nil || p.known.Hosted == nil {
		return []status.Hosted{}
	}
	return p.known.Hosted
}

func (p *pod) lastWord(name string) (status.Volume, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.known == nil {
		return status.Volume{}, false
	}
	for _, v := range p.known.Volumes {
		if v.Name == name {
			return v, true
		}
	}
	return status.Volume{}, false
}

// expected is what the manifest and the Volume object say; opened is false if no sidecar has ever opened the volume.
func (p *pod) expected(ctx context.Context, name string) (v status.Volume, opened bool) {
	spec, _ := p.wanted().spec.Find(name)
	v = status.Volume{State: status.Pending, Size: uint64(spec.Size)}
	object, err := authority.Files{Dir: p.s.layout.volumes(p.namespace)}.Get(ctx, p.object(name))
	if err == nil && object.Phase == v1alpha1.VolumeReady {
		v.Epoch, opened = object.Epoch, true
	}
	if err == nil && object.MajorityLost() {
		v.State = status.MajorityLost
	}
	for _, m := range object.Members {
		r := status.Replica{ID: m.Replica, Node: m.Node, Role: m.Role, Witness: m.Witness, State: status.Offline, Pod: m.Pod}
		if m.Witness && m.Role == status.Voter {
			r.Role = status.Witness
		}
		if m.Pod == "" && m.Node == p.wanted().node {
			r.Pod = p.name
		}
		if m.Lost {
			r.State = status.Lost
		}
		v.Replicas = append(v.Replicas, r)
	}
	copies := max(spec.Voters(), 1)
	if err == nil {
		copies = object.Voters()
	}
	for n := len(v.Replicas); n < copies; n++ {
		r := status.Replica{Role: status.Voter, State: status.Offline}
		if n == 0 {
			r.Pod, r.Node = p.name, p.wanted().node
		}
		v.Replicas = append(v.Replicas, r)
	}
	return v, opened
}

// welcome is what the user reads when everything serves.
func (s *supervisor) welcome() string {
	var b strings.Builder
	fmt.Fprint(&b, "\nAll volumes are mounted:\n\n")
	t := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	var first *pod
	for _, p := range s.pods() {
		for _, v := range p.wanted().spec.Volumes {
			fmt.Fprintf(t, "  %s\t%s\t%s\n", p.object(v.Name), humanSize(uint64(v.Size)), s.layout.mount(p.title, v.Name))
		}
		if first == nil {
			first = p
		}
	}
	_ = t.Flush() // a strings.Builder takes everything
	if first == nil {
		fmt.Fprint(&b, "  (none: every workload is scaled to zero)\n\nCtrl-C stops.\n\n")
		return b.String()
	}
	mount := s.layout.mount(first.title, first.wanted().spec.Volumes[0].Name)
	fmt.Fprintf(&b, `
Try in another terminal:

  cp -r /etc %[2]s && du -sh %[2]s
  %[1]s status --dir %[3]s
  %[1]s dev restart-pod %[4]s --dir %[3]s
  kill -9 <PID of status>      # the mount waits, the next sidecar goes on
%[7]s
Traces of every I/O: %[5]s
Logs: %[6]s

Ctrl-C stops. The data stays in %[3]s: start again and it is there.

`, cmp.Or(s.cfg.Command, "remora"), mount, string(s.layout), first.title, s.otlp(first.title), s.layout.log(first.title), s.nodeHint(first))
	return b.String()
}

// nodeHint invites to lose a node, where that is no loss.
func (s *supervisor) nodeHint(p *pod) string {
	want := p.wanted()
	if slices.ContainsFunc(want.spec.Volumes, func(v spec.Volume) bool { return v.Replicas < 2 }) {
		return ""
	}
	return fmt.Sprintf("  %s dev fail-node %s --dir %s      # the pod's node is gone, with its disk: it goes on elsewhere\n",
		cmp.Or(s.cfg.Command, "remora"), want.node, s.layout)
}
