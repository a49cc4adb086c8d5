package dev

import (
	"cmp"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/remora-storage/remora/sidecar/status"
)

// WriteTable writes a report for people: a line per volume, and a line per replica where there are several.
func WriteTable(w io.Writer, r status.Report) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	leads := leaders(&r)
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
			have := copies(v.Replicas)
			if v.State == status.Mounted && len(v.Replicas) > 1 && leads[tenant(&p)+v.Volume] == "" {
				have += ", no leader: changes wait"
			}
			if full := fullNodes(v.Replicas); len(full) > 0 {
				have += ", no room on " + strings.Join(full, ", ") + ": ENOSPC"
			}
			fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n", p.Name, p.Node, pid, tenant(&p)+v.Volume, v.State,
				humanSize(v.Used), humanSize(v.Size), have, v.Mount)
		}
	}
	if err := t.Flush(); err != nil {
		return err
	}
	return writeReplicas(w, r, leads)
}

// leaders are the leaders of groups, by volume: the word of the highest term.
func leaders(r *status.Report) map[string]string {
	best, leads := map[string]uint64{}, map[string]string{}
	for _, p := range r.Pods {
		for _, h := range p.Hosted {
			if volume := tenant(&p) + h.Volume; h.Leader != "" && h.Term >= best[volume] {
				best[volume], leads[volume] = h.Term, h.Leader
			}
		}
	}
	return leads
}

// writeReplicas writes a line for each replica of volumes with several, if there are any: also of volumes that no pod mounts now.
func writeReplicas(w io.Writer, r status.Report, leads map[string]string) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	mounted := map[string]bool{}
	for _, p := range r.Pods {
		for _, v := range p.Volumes {
			mounted[tenant(&p)+v.Volume] = true
		}
	}
	head := "\nVOLUME\tREPLICA\tNODE\tSERVED BY\tROLE\tSTATE\tINDEX\tTO COME\n"
	line := func(volume string, c status.Replica) {
		fmt.Fprintf(t, "%s%s\t%s\n", head, volume, replicaLine(&c, leads[volume]))
		head = ""
	}
	for _, p := range r.Pods {
		for _, v := range p.Volumes {
			for _, c := range v.Replicas {
				if len(v.Replicas) > 1 {
					line(tenant(&p)+v.Volume, c)
				}
			}
		}
	}
	unmounted := map[string][]status.Replica{}
	for _, p := range r.Pods {
		for _, h := range p.Hosted {
			if volume := tenant(&p) + h.Volume; !mounted[volume] {
				unmounted[volume] = append(unmounted[volume], status.Replica{ID: h.ID, Pod: p.Name, Node: p.Node, Role: h.Role, State: h.State,
					MatchIndex: h.Applied, Missing: h.Missing, Witness: h.Role == status.Witness, Kept: h.Kept, Full: h.Full})
			}
		}
	}
	for _, volume := range slices.Sorted(maps.Keys(unmounted)) {
		for _, c := range unmounted[volume] {
			line(volume, c)
		}
	}
	return t.Flush()
}

func replicaLine(c *status.Replica, leader string) string {
	role, missing := c.Role, "-"
	if c.ID != "" && leader == c.ID {
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
	return fmt.Sprintf("%s\t%s\t%s\t%s\t%s\t%d\t%s", cmp.Or(c.ID, "-"), cmp.Or(c.Node, "-"), cmp.Or(c.Pod, "-"), role, c.State, c.MatchIndex, missing)
}

// tenant is what stands before the names of a process' volumes: nothing, or the namespace and a dot (title). Two tenants may have volumes of
// one name.
func tenant(p *status.Pod) string {
	for _, v := range p.Volumes {
		return strings.TrimSuffix(p.Name, strings.TrimPrefix(v.Volume, v.Name+"-"))
	}
	return strings.TrimSuffix(p.Name, keeperName(p.Node))
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

// fullNodes are the nodes whose disks take no more, by which programs get ENOSPC. A learner's is not asked.
func fullNodes(replicas []status.Replica) (nodes []string) {
	for _, r := range replicas {
		if r.Full && r.Role != status.Learner && r.State != status.Lost && r.State != status.Offline {
			nodes = append(nodes, r.Node)
		}
	}
	return nodes
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
