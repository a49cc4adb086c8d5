package webhook

import (
	"encoding/json"
	"slices"

	corev1 "k8s.io/api/core/v1"

	"github.com/remora-storage/remora/webhook/spec"
)

// Revision is raised when the injection changes; the status annotation carries it.
const Revision = "1"

// status is the value of remora.dev/status: what the injector did, so that the next one can bring it up to date or undo it.
type status struct {
	Revision string `json:"revision"`
	Mode     Mode   `json:"mode"`
	// Containers are the containers added; none where the node plugin serves all volumes by itself.
	Containers []string `json:"containers"`
	// Volumes are the Remora volumes.
	Volumes []string `json:"volumes"`
	// Added are the pod volumes that were not there before, the sidecar's own among them.
	Added []string `json:"added"`
	// Nodes are those to which the pod was pinned.
	Nodes []string `json:"nodes,omitempty"`
	// Injector is Config.Revision.
	Injector string `json:"injector,omitempty"`
}

// readStatus returns the zero status if there is none, or one that cannot be read: Check has refused those.
func readStatus(annotations map[string]string) (s status) {
	_ = json.Unmarshal([]byte(annotations[spec.KeyStatus]), &s)
	return s
}

// Live is what an injector in a cluster knows of a pod, and the command line does not.
type Live struct {
	// Nodes are those on which alone the pod may run, because its volumes are there. None: anywhere.
	Nodes []string
	// Keep says that the pod went through admission already: the sidecar keeps what the API server gave it there.
	Keep bool
}

// Patch returns the pod template with what s asks for, and takes away what an earlier injection added and s no longer asks for:
// with an empty Spec it undoes the injection. The template must have passed Check; it is not changed. Patch is a pure function,
// and Patch of its own result is the same.
func Patch(t corev1.PodTemplateSpec, s spec.Spec, m Mode, cfg Config, live Live) corev1.PodTemplateSpec {
	out := *t.DeepCopy()
	old := readStatus(t.Annotations)
	var granted granted
	if live.Keep {
		granted = grants(out.Spec)
	}
	out.Spec.InitContainers = slices.DeleteFunc(out.Spec.InitContainers, func(c corev1.Container) bool { return c.Name == ContainerName })
	added := placeVolumes(&out.Spec, s, m, cfg, old)
	reach(&out.Spec, s, m, old)
	if len(s.Volumes) == 0 {
		live.Nodes = nil
	}
	pin(&out.Spec, live.Nodes, old.Nodes)
	delete(out.Annotations, spec.KeyStatus)
	if len(s.Volumes) == 0 {
		return out
	}
	now := status{Revision: Revision, Mode: m, Containers: []string{}, Added: added, Nodes: live.Nodes, Injector: cfg.Revision}
	if len(s.Served()) > 0 {
		c := sidecar(s, m, cfg, out.Spec.SecurityContext)
		granted.keep(&c)
		out.Spec.InitContainers = append([]corev1.Container{c}, out.Spec.InitContainers...)
		now.Containers = []string{ContainerName}
	}
	for _, v := range s.Volumes {
		now.Volumes = append(now.Volumes, v.Name)
	}
	text, err := json.Marshal(now)
	if err != nil {
		panic(err) // strings only
	}
	if out.Annotations == nil {
		out.Annotations = map[string]string{}
	}
	out.Annotations[spec.KeyStatus] = string(text)
	return out
}

// placeVolumes makes the pod's volumes those of the injection. It returns the names of those that no pod author wrote: they stand
// at the end, or stay where they are if they are the same as before.
func placeVolumes(p *corev1.PodSpec, s spec.Spec, m Mode, cfg Config, old status) (added []string) {
	var want []corev1.Volume
	if len(s.Served()) > 0 {
		want = ownVolumes(m, cfg)
	}
	for _, v := range s.Volumes {
		want = append(want, podVolume(m, cfg, v))
	}
	for _, v := range want {
		if indexVolume(p.Volumes, v.Name) < 0 || slices.Contains(old.Added, v.Name) {
			added = append(added, v.Name)
		}
	}
	stay := slices.Equal(added, old.Added)
	var volumes []corev1.Volume
	for _, v := range p.Volumes {
		if slices.Contains(old.Added, v.Name) && !stay {
			continue
		}
		if i := indexVolume(want, v.Name); i >= 0 {
			v = want[i]
		} else if isInline(v) || isShelf(v) && old.Mode == Privileged && slices.Contains(old.Volumes, v.Name) {
			v = emptyDir(v.Name) // as it was before the injection that is taken away
		}
		volumes = append(volumes, v)
	}
	for _, v := range want {
		if indexVolume(volumes, v.Name) < 0 {
			volumes = append(volumes, v)
		}
	}
	p.Volumes = volumes
	return added
}

func indexVolume(volumes []corev1.Volume, name string) int {
	return slices.IndexFunc(volumes, func(v corev1.Volume) bool { return v.Name == name })
}

// container is what all kinds of containers have in common.
type container = corev1.EphemeralContainerCommon

// eachContainer visits the containers of a pod with the name of their list. Changes of a container's fields stay.
func eachContainer(p *corev1.PodSpec, visit func(list string, c *container)) {
	for i := range p.InitContainers {
		visit("initContainers", (*container)(&p.InitContainers[i]))
	}
	for i := range p.Containers {
		visit("containers", (*container)(&p.Containers[i]))
	}
	for i := range p.EphemeralContainers {
		visit("ephemeralContainers", &p.EphemeralContainers[i].EphemeralContainerCommon)
	}
}
