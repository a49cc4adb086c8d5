package dev

import (
	"bytes"
	"context"
	"encoding/json"
	"sync"
	"time"

	"github.com/remora-storage/remora/api/v1alpha1"
	"github.com/remora-storage/remora/sidecar/authority"
	"github.com/remora-storage/remora/sidecar/status"
)

// report asks all sidecars at once and fills in what is known about those that do not answer.
func (s *supervisor) report(ctx context.Context) status.Report {
	pods := s.pods()
	r := status.Report{Pods: make([]status.Pod, len(pods))}
	var all sync.WaitGroup
	for n, p := range pods {
		all.Go(func() { r.Pods[n] = p.report(ctx) })
	}
	all.Wait()
	return r
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
	r := status.Pod{Name: p.title, Node: p.node, Volumes: []status.Volume{}}
	silent := status.Offline
	if i := p.instance(); i != nil {
		if pid := i.sidecarPID(); pid != 0 {
			r.PID = &pid
			silent = p.refresh(ctx, pid)
		}
	}
	for _, v := range p.spec.Volumes {
		r.Volumes = append(r.Volumes, p.reportVolume(ctx, v.Name, silent))
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
	}
	if known && silent != "" {
		v.State = silent
	}
	v.Name, v.Volume, v.Mount = name, p.object(name), p.s.layout.mount(p.title, name)
	replicas := make([]status.Replica, 0, len(v.Replicas)) // never null, and not the array of the last word
	for _, r := range v.Replicas {
		if r.Pod != "" {
			r.Pod = title(p.namespace, r.Pod)
		}
		if silent != "" && r.Pod == p.title {
			r.State = status.Offline
		}
		replicas = append(replicas, r)
	}
	v.Replicas = replicas
	return v
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
	spec, _ := p.spec.Find(name)
	v = status.Volume{State: status.Pending, Size: uint64(spec.Size)}
	object, err := authority.Files{Dir: p.s.layout.volumes(p.namespace)}.Get(ctx, p.object(name))
	if err == nil && object.Phase == v1alpha1.VolumeReady {
		v.Epoch, opened = object.Epoch, true
	}
	for _, m := range object.Members {
		r := status.Replica{ID: m.Replica, Node: m.Node, Role: m.Role, State: status.Offline}
		if m.Node == p.node {
			r.Pod = p.name
		}
		v.Replicas = append(v.Replicas, r)
	}
	for n := len(v.Replicas); n < max(spec.Replicas, 1); n++ {
		r := status.Replica{Role: status.Voter, State: status.Offline}
		if n == 0 {
			r.Pod, r.Node = p.name, p.node
		}
		v.Replicas = append(v.Replicas, r)
	}
	return v, opened
}
