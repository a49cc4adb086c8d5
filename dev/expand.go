package dev

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"strconv"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"

	"github.com/remora-storage/remora/sidecar/authority"
	"github.com/remora-storage/remora/webhook"
	"github.com/remora-storage/remora/webhook/spec"
)

// podSpec is a pod that dev runs.
type podSpec struct {
	title     string // how it is called everywhere in dev: the name, or <namespace>.<name> outside namespace "default"
	namespace string
	name      string
	node      string
	template  corev1.PodTemplateSpec
	spec      spec.Spec
}

// object returns the name of the Volume of a pod's volume.
func (p *podSpec) object(volume string) string { return volume + "-" + p.name }

// group is the pods of one workload.
type group struct {
	ordered bool // each starts when the one before is ready
	pods    []*podSpec
}

// expand makes the pods of all workloads and places them. nodes as in Config.
func expand(workloads []webhook.Workload, nodes int, placed *placement, log *slog.Logger) ([]group, error) {
	var groups []group
	var daemons []webhook.Workload
	count := 0
	for _, w := range workloads {
		names, ok := podNames(w, log)
		switch {
		case !ok:
		case w.Kind == "DaemonSet":
			daemons = append(daemons, w)
		default:
			groups = append(groups, newGroup(w, names))
			count += len(names)
		}
	}
	copies := 1
	for _, w := range workloads {
		for _, v := range w.Spec.Volumes {
			copies = max(copies, v.Voters())
		}
	}
	switch {
	case nodes == 0:
		nodes = max(count, copies)
	case nodes < copies && len(placed.Nodes) < copies:
		return nil, fmt.Errorf("--nodes %d: a volume with %d copies needs %d nodes; write --nodes %d, or leave it out, or give the volumes a class of one copy (NAME.remora.dev/class: default)",
			nodes, copies, copies, copies)
	}
	placed.grow(nodes)
	for _, w := range daemons {
		g := newGroup(w, nil)
		for _, node := range placed.Nodes {
			p := newPodSpec(w, w.Name+"-"+node)
			p.node = node
			g.pods = append(g.pods, p)
		}
		groups = append(groups, g)
	}
	placed.assign(groups)
	return groups, unique(groups)
}

// podNames returns the names of a workload's pods; false if dev does not run it. A DaemonSet's pods are named by nodes.
func podNames(w webhook.Workload, log *slog.Logger) ([]string, bool) {
	key := fmt.Sprintf("%s %s/%s", w.Kind, w.Namespace, w.Name)
	switch w.Kind {
	case "CronJob":
		log.Warn("skipped: dev starts no CronJobs; run its job template as a Job", "workload", key)
		return nil, false
	case "DaemonSet":
		return nil, true
	case "Pod":
		return []string{w.Name}, true
	}
	if w.Replicas == 0 {
		log.Info("scaled to zero: its volumes keep their data", "workload", key)
	}
	names := make([]string, w.Replicas) // StatefulSet, Deployment, Job
	for i := range names {
		names[i] = w.Name + "-" + strconv.Itoa(w.FirstOrdinal+i)
	}
	return names, true
}

func newGroup(w webhook.Workload, names []string) group {
	g := group{ordered: w.Kind == "StatefulSet"}
	for _, name := range names {
		g.pods = append(g.pods, newPodSpec(w, name))
	}
	return g
}

func newPodSpec(w webhook.Workload, name string) *podSpec {
	return &podSpec{
		title: title(w.Namespace, name), namespace: w.Namespace, name: name, template: w.Template, spec: w.Spec,
	}
}

// title is how dev calls a pod, and accepts to be told.
func title(namespace, name string) string {
	if namespace == corev1.NamespaceDefault {
		return name
	}
	return namespace + "." + name
}

// unique refuses what only manifests of several files can ask for: one name for two things.
func unique(groups []group) error {
	pods, volumes := map[string]bool{}, map[string]string{}
	for _, g := range groups {
		for _, p := range g.pods {
			if pods[p.title] {
				return fmt.Errorf("two pods are called %s; rename one of the workloads or put it in another namespace", p.title)
			}
			pods[p.title] = true
			for _, v := range p.spec.Volumes {
				key := p.namespace + "/" + p.object(v.Name)
				if other := volumes[key]; other != "" {
					return fmt.Errorf("pods %s and %s would both have the Volume %s; rename the volume of one", other, p.title, key)
				}
				volumes[key] = p.title
			}
		}
	}
	return nil
}

// placement says on which node each pod is, DIR/placement.json. A pod stays where its data is, whatever --nodes says later.
type placement struct {
	Nodes    []string          `json:"nodes"`
	Pods     map[string]string `json:"pods"`               // <namespace>/<pod> -> node
	Failed   []string          `json:"failed,omitempty"`   // nodes that are no more; their names are not used again
	Returned []string          `json:"returned,omitempty"` // nodes that came back with their disks
	Faults   []fault           `json:"faults,omitempty"`   // failures whose replicas are not replaced yet
}

func loadPlacement(path string) (*placement, error) {
	p := &placement{Pods: map[string]string{}}
	b, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return p, nil
	}
	if err == nil {
		err = json.Unmarshal(b, p)
	}
	if err != nil {
		return nil, fmt.Errorf("placement %s (it says which node has which pod's data; without it, pods may start on empty nodes): %w", path, err)
	}
	if p.Pods == nil {
		p.Pods = map[string]string{}
	}
	return p, nil
}

func (p *placement) save(path string) error {
	b, err := json.MarshalIndent(p, "", "  ")
	if err != nil {
		return err
	}
	return writeFile(path, append(b, '\n'))
}

// grow adds nodes until there are n.
func (p *placement) grow(n int) {
	for len(p.Nodes) < n {
		p.Nodes = append(p.Nodes, p.newName())
	}
}

// assign gives every pod its old node or, to a new one, the node with the fewest pods.
func (p *placement) assign(groups []group) {
	load := map[string]int{}
	for _, node := range p.Pods {
		load[node]++
	}
	for _, g := range groups {
		for _, pod := range g.pods {
			key := pod.namespace + "/" + pod.name
			if pod.node == "" {
				pod.node = p.Pods[key]
			}
			if pod.node == "" {
				pod.node = slices.MinFunc(p.Nodes, func(a, b string) int { return load[a] - load[b] })
			}
			if p.Pods[key] == "" {
				load[pod.node]++
			}
			p.Pods[key] = pod.node
		}
	}
}

// checkSizes refuses what no restart of a sidecar can cure: a volume that is larger than its manifest says now. All of them are
// reported at once.
func checkSizes(ctx context.Context, groups []group, l layout) error {
	var errs []error
	for _, g := range groups {
		for _, p := range g.pods {
			for _, v := range p.spec.Volumes {
				errs = append(errs, checkSize(ctx, p, v, l))
			}
		}
	}
	return errors.Join(errs...)
}

func checkSize(ctx context.Context, p *podSpec, v spec.Volume, l layout) error {
	object, err := authority.Files{Dir: l.volumes(p.namespace)}.Get(ctx, p.object(v.Name))
	if err != nil || v.Size >= object.Size {
		return nil // a Volume that cannot be read is the sidecar's to report
	}
	size := func(n int64) string { return resource.NewQuantity(n, resource.BinarySI).String() }
	return fmt.Errorf("pod %s: %w", p.title, spec.Problem{
		Key: v.Name + ".remora.dev/size", Value: size(v.Size), HasValue: true,
		What:    fmt.Sprintf("is less than the Volume %s has, and a volume cannot shrink", p.object(v.Name)),
		Allowed: size(object.Size) + " or more", Fix: "write " + spec.Quote(size(object.Size)),
	})
}
