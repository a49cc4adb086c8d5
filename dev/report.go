package dev

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
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
					to.Pod, to.Node, to.State, to.MatchIndex, to.Missing, to.Kept = h.pod, h.node, h.State, h.Applied, h.Missing, h.Kept
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

// WriteTable writes a report for people: a line per volume, and a line per replica where there are several.
func WriteTable(w io.Writer, r status.Report) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "POD\tNODE\tPID\tVOLUME\tSTATE\tUSED\tSIZE\tCOPIES\tMOUNT")
	for _, p := range r.Pods {
		pid := "-"
		if p.PID != nil {
			pid = fmt.Sprint(*p.PID)
		}
		if len(p.Volumes) == 0 {
			fmt.Fprintf(t, "%s\t%s\t%s\t-\t-\t-\t-\t-\t-\n", p.Name, p.Node, pid)
		}
		for _, v := range p.Volumes {
			fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n", p.Name, p.Node, pid, v.Volume, v.State,
				humanSize(v.Used), humanSize(v.Size), copies(v.Replicas), v.Mount)
		}
	}
	if err := t.Flush(); err != nil {
		return err
	}
	return writeReplicas(w, r)
}

// writeReplicas writes a line for each replica of volumes with several, if there are any.
func writeReplicas(w io.Writer, r status.Report) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	leads := map[string]status.Hosted{} // by volume: the word of the highest term
	for _, p := range r.Pods {
		for _, h := range p.Hosted {
			if h.Leader != "" && h.Term >= leads[h.Volume].Term {
				leads[h.Volume] = h
			}
		}
	}
	head := "\nVOLUME\tREPLICA\tNODE\tSERVED BY\tROLE\tSTATE\tINDEX\tTO COME\n"
	for _, p := range r.Pods {
		for _, v := range p.Volumes {
			if len(v.Replicas) < 2 {
				continue
			}
			for _, c := range v.Replicas {
				role, missing := c.Role, "-"
				if c.ID != "" && leads[v.Volume].Leader == c.ID {
					role += " (leads)"
				}
				if c.Witness && c.Role != status.Witness {
					role = "witness (" + role + ")"
				}
				if c.Witness {
					role += ", keeps " + humanSize(c.Kept)
				}
				if c.Missing > 0 {
					missing = humanSize(c.Missing)
				}
				fmt.Fprintf(t, "%s%s\t%s\t%s\t%s\t%s\t%s\t%d\t%s\n", head, v.Volume, cmp.Or(c.ID, "-"), cmp.Or(c.Node, "-"), cmp.Or(c.Pod, "-"), role, c.State, c.MatchIndex, missing)
				head = ""
			}
		}
	}
	return t.Flush()
}

// copies says how many replicas are in sync, and what is with the others: "2/3 (1 Syncing)".
func copies(replicas []status.Replica) string {
	good, all, order, others, witness := 0, 0, []string{}, map[string]int{}, ""
	for _, r := range replicas {
		if r.Witness {
			if witness = " + witness"; r.State != status.InSync || r.Role != status.Witness {
				witness = fmt.Sprintf(" + witness (%s, %s)", r.Role, r.State)
			}
			continue
		}
		all++
		if r.State == status.InSync {
			good++
			continue
		}
		if others[r.State] == 0 {
			order = append(order, r.State)
		}
		others[r.State]++
	}
	text := fmt.Sprintf("%d/%d", good, all)
	for n, state := range order {
		order[n] = fmt.Sprintf("%d %s", others[state], state)
	}
	if len(order) > 0 {
		text += " (" + strings.Join(order, ", ") + ")"
	}
	if witness != "" && good < 2 {
		witness += ", one copy"
	}
	return text + witness
}

// humanSize writes bytes as people read them: "20Gi", "1.5Gi", "512".
func humanSize(n uint64) string {
	const units = "KMGTPE"
	if n < 1024 {
		return fmt.Sprint(n)
	}
	x, unit := float64(n), -1
	for x >= 1023.95 && unit < len(units)-1 {
		x, unit = x/1024, unit+1
	}
	return strings.TrimSuffix(fmt.Sprintf("%.1f", x), ".0") + units[unit:unit+1] + "i"
}
