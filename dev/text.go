package dev

import (
	"cmp"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"

	"github.com/remora-storage/remora/sidecar/status"
)

// welcome is what the user reads when everything serves.
func (s *supervisor) welcome() string {
	var b strings.Builder
	fmt.Fprint(&b, "\nAll volumes are mounted:\n\n")
	t := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	var first *pod
	for _, p := range s.pods() {
		for _, v := range p.spec.Volumes {
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
	mount := s.layout.mount(first.title, first.spec.Volumes[0].Name)
	fmt.Fprintf(&b, `
Try in another terminal:

  cp -r /etc %[2]s && du -sh %[2]s
  %[1]s status --dir %[3]s
  %[1]s dev restart-pod %[4]s --dir %[3]s
  kill -9 <PID of status>      # the mount waits, the next sidecar goes on

Traces of every I/O: %[5]s
Logs: %[6]s

Ctrl-C stops. The data stays in %[3]s: start again and it is there.

`, cmp.Or(s.cfg.Command, "remora"), mount, string(s.layout), first.title, s.otlp(first.title), s.layout.log(first.title))
	return b.String()
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
	return t.Flush()
}

// copies says how many replicas are in sync, and what is with the others: "2/3 (1 Syncing)".
func copies(replicas []status.Replica) string {
	good, order, others := 0, []string{}, map[string]int{}
	for _, r := range replicas {
		if r.State == status.InSync {
			good++
			continue
		}
		if others[r.State] == 0 {
			order = append(order, r.State)
		}
		others[r.State]++
	}
	text := fmt.Sprintf("%d/%d", good, len(replicas))
	for n, state := range order {
		order[n] = fmt.Sprintf("%d %s", others[state], state)
	}
	if len(order) > 0 {
		text += " (" + strings.Join(order, ", ") + ")"
	}
	return text
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
