package dev

import (
	"bytes"
	"context"
	"encoding/json"
	"sync"
	"time"

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
		r.Volumes = append(r.Volumes, p.reportVolume(v.Name, silent))
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

// reportVolume takes the sidecar's last word on a volume, or what the manifest says before the first.
func (p *pod) reportVolume(name, silent string) status.Volume {
	v, known := p.lastWord(name)
	switch {
	case !known:
		v = p.expected(name)
	case silent != "":
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

// expected is what is known from the manifest alone. Of the replicas only the pod's own has a place yet.
func (p *pod) expected(name string) status.Volume {
	spec, _ := p.spec.Find(name)
	v := status.Volume{State: status.Pending, Size: uint64(spec.Size), Replicas: make([]status.Replica, max(spec.Replicas, 1))}
	for n := range v.Replicas {
		v.Replicas[n] = status.Replica{Role: status.Voter, State: status.Offline}
	}
	v.Replicas[0].Pod, v.Replicas[0].Node = p.name, p.node
	return v
}
