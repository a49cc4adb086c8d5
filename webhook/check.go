package webhook

import (
	"encoding/json"
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"github.com/remora-storage/remora/api/v1alpha1"
	"github.com/remora-storage/remora/webhook/spec"
)

// Check holds a Spec against the pod that asks for it. claims are the names of the volumeClaimTemplates of its workload. The
// keys of the problems are field paths in the pod.
func Check(t corev1.PodTemplateSpec, claims []string, s spec.Spec, m Mode) []spec.Problem {
	c := checker{pod: &t.Spec, spec: s, mode: m}
	c.status(t.Annotations)
	c.reserved()
	if len(s.Volumes) > 0 {
		c.volumes(claims)
		c.engines()
		c.mounts()
		c.platform()
		c.copies()
	}
	return c.problems
}

type checker struct {
	pod      *corev1.PodSpec
	spec     spec.Spec
	mode     Mode
	old      status
	problems []spec.Problem
}

func (c *checker) bad(key, value, what, allowed, fix string) {
	c.problems = append(c.problems, spec.Problem{Key: key, Value: value, HasValue: true, What: what, Allowed: allowed, Fix: fix})
}

// copies refuses more than one where no sidecar keeps them yet.
func (c *checker) copies() {
	for _, v := range c.spec.Volumes {
		if v.Replicas > 1 && c.mode != Dev {
			c.bad(v.Name+"."+spec.Domain+"/"+spec.AttrClass, v.Class, fmt.Sprintf("keeps %d copies, which mode %s cannot do in this release", v.Replicas, c.mode),
				"a class whose spec.replicas is 1", "write "+spec.Quote(spec.DefaultClass)+", or use mode dev")
		}
	}
}

// status refuses a status that this pod's injection cannot have left.
func (c *checker) status(annotations map[string]string) {
	text, ok := annotations[spec.KeyStatus]
	if !ok {
		return
	}
	refuse := func(what string) {
		c.bad(spec.KeyStatus, text, what, "what the injector wrote", "remove the annotation, the init container remora and the volumes remora-..., and inject again")
	}
	err := json.Unmarshal([]byte(text), &c.old)
	if noSidecar := len(c.old.Containers) == 0 && c.old.Mode == Node; err != nil || !noSidecar && !slices.Equal(c.old.Containers, []string{ContainerName}) {
		c.old = status{}
		refuse("was not written by the injector")
		return
	}
	if len(c.old.Containers) > 0 && !slices.ContainsFunc(c.pod.InitContainers, func(k corev1.Container) bool { return k.Name == ContainerName }) {
		refuse("tells of a sidecar that is not there")
	}
	for _, name := range c.old.Added {
		if i := indexVolume(c.pod.Volumes, name); i >= 0 && !spec.Reserved(name) && !isEmptyDir(c.pod.Volumes[i]) && !c.wasOurs(c.pod.Volumes[i]) {
			refuse("claims the volume " + spec.Quote(name) + ", which is not the injector's")
		}
	}
}

// reserved refuses names that are the injector's and did not come from it.
func (c *checker) reserved() {
	const allowed = `names other than "remora" and "remora-..."`
	eachContainer(c.pod, func(list string, k *container) {
		if c.isSidecar(list, k) {
			return
		}
		if spec.Reserved(k.Name) {
			c.bad("spec."+list, k.Name, "is a container name reserved for the injector", allowed, "rename the container")
		}
		for _, m := range k.VolumeMounts {
			if spec.Reserved(m.Name) {
				c.bad(strings.TrimSuffix(mountKey(list, k, m), ".mountPath"), m.Name, "is a volume reserved for the sidecar", "volumes of the pod's own", "remove the mount")
			}
		}
	})
	for _, v := range c.pod.Volumes {
		if spec.Reserved(v.Name) && !slices.Contains(c.old.Added, v.Name) {
			c.bad("spec.volumes", v.Name, "is a volume name reserved for the injector", allowed, "rename the volume")
		} else if isInline(v) && !spec.Reserved(v.Name) && !c.wasOurs(v) {
			c.inline(v)
		}
	}
}

func (c *checker) inline(v corev1.Volume) {
	c.bad("spec.volumes["+v.Name+"].csi.driver", Driver, "is the driver of volumes that the injector makes", "emptyDir, or no volume of that name",
		fmt.Sprintf("remove the volume, and name it in the annotation %s", spec.KeyVolumes))
}

// wasOurs says whether v is a volume that an earlier injection gave the pod.
func (c *checker) wasOurs(v corev1.Volume) bool {
	return (isInline(v) || isShelf(v) && c.old.Mode == Privileged) && slices.Contains(c.old.Volumes, v.Name)
}

// isSidecar says whether k is the sidecar of an earlier injection, which Patch replaces.
func (c *checker) isSidecar(list string, k *container) bool {
	return len(c.old.Containers) > 0 && list == "initContainers" && k.Name == ContainerName
}

// volumes refuses Remora volumes whose name stands for something else already.
func (c *checker) volumes(claims []string) {
	for _, v := range c.spec.Volumes {
		if i := indexVolume(c.pod.Volumes, v.Name); i >= 0 && !isEmptyDir(c.pod.Volumes[i]) && !isInline(c.pod.Volumes[i]) && !c.wasOurs(c.pod.Volumes[i]) {
			c.bad("spec.volumes", v.Name, "is a Remora volume, and a volume of another type has its name", "an emptyDir of that name, which is replaced, or none",
				fmt.Sprintf("remove the volume, or take %q out of %s", v.Name, spec.KeyVolumes))
		}
		if slices.Contains(claims, v.Name) {
			c.bad("spec.volumeClaimTemplates", v.Name, "is a Remora volume, and a volumeClaimTemplate has its name", "no claim of that name",
				fmt.Sprintf("remove the volumeClaimTemplate, or take %q out of %s", v.Name, spec.KeyVolumes))
		}
		mounted := false
		eachContainer(c.pod, func(list string, k *container) {
			mounted = mounted || !c.isSidecar(list, k) && slices.ContainsFunc(k.VolumeMounts, func(m corev1.VolumeMount) bool { return m.Name == v.Name })
		})
		if !mounted {
			c.bad(spec.KeyVolumes, v.Name, "is mounted by no container", "volumes that a container mounts",
				fmt.Sprintf("add {name: %s, mountPath: /PATH} to the volumeMounts of a container, or take it out of the list", v.Name))
		}
	}
}

// isEmptyDir says whether v is an emptyDir, also by default: a volume that names no source is one.
func isEmptyDir(v corev1.Volume) bool {
	other := v.VolumeSource
	other.EmptyDir = nil
	return other == corev1.VolumeSource{}
}

// engines refuses volumes that this mode cannot give.
func (c *checker) engines() {
	for _, v := range c.spec.Volumes {
		if v.Engine == v1alpha1.EngineLocal && c.mode != Node {
			c.bad(v.Name+"."+spec.Domain+"/"+spec.AttrClass, v.Class, "has the engine local, which needs the node plugin", "classes of the engine replicated",
				"choose another class, or inject with --mode=node")
		}
	}
}

func (c *checker) mounts() {
	eachContainer(c.pod, func(list string, k *container) {
		if c.isSidecar(list, k) {
			return
		}
		c.uid(list, k)
		byPath := map[string]corev1.VolumeMount{}
		for _, m := range k.VolumeMounts {
			_, ours := c.spec.Find(m.Name)
			clean := path.Clean(m.MountPath)
			first, twice := byPath[clean]
			_, firstOurs := c.spec.Find(first.Name)
			if twice && (ours || firstOurs) {
				c.bad(mountKey(list, k, m), m.MountPath, fmt.Sprintf("is the mount path of volume %q already", first.Name), "a mount path once in a container", "choose another mountPath for one of the two")
			}
			if !twice {
				byPath[clean] = m
			}
			if ours {
				c.mountPath(mountKey(list, k, m), m.MountPath)
				c.propagation(mountKey(list, k, m), m)
			}
		}
		for _, d := range k.VolumeDevices {
			if _, ours := c.spec.Find(d.Name); ours {
				c.bad(fmt.Sprintf("spec.%s[%s].volumeDevices[%s]", list, k.Name, d.Name), d.DevicePath, "asks for a Remora volume as a block device",
					"volumeMounts", "mount the volume instead")
			}
		}
	})
}

func mountKey(list string, k *container, m corev1.VolumeMount) string {
	return fmt.Sprintf("spec.%s[%s].volumeMounts[%s].mountPath", list, k.Name, m.Name)
}

const pathAllowed = "an absolute path without . or .. or a slash too many, not / and not at or below /proc, /sys, /dev, /etc, /run/secrets"

// mountPath refuses paths that hide what a container needs, and spellings that hide the path.
func (c *checker) mountPath(key, p string) {
	const other = `choose another path, for example "/data"`
	if !path.IsAbs(p) {
		c.bad(key, p, "is not absolute", pathAllowed, "write "+spec.Quote(path.Clean("/"+p)))
		return
	}
	clean := path.Clean(p)
	if clean == "/" {
		c.bad(key, p, "would hide the whole container", pathAllowed, other)
		return
	}
	for _, dir := range []string{"/proc", "/sys", "/dev", "/etc", "/run/secrets", "/var/run/secrets"} {
		if clean == dir || strings.HasPrefix(clean, dir+"/") {
			c.bad(key, p, "is in a directory of the system", pathAllowed, other)
			return
		}
	}
	if clean != p {
		c.bad(key, p, "is not a clean path", pathAllowed, "write "+spec.Quote(clean))
	}
}

// propagation refuses settings that would keep the sidecar's mount from the container: they would be overwritten in silence.
func (c *checker) propagation(key string, m corev1.VolumeMount) {
	if c.mode != Privileged {
		return
	}
	key = strings.TrimSuffix(key, ".mountPath")
	if p := m.MountPropagation; p != nil && *p != corev1.MountPropagationHostToContainer {
		c.bad(key+".mountPropagation", string(*p), "would keep the volume from the container", string(corev1.MountPropagationHostToContainer), "remove mountPropagation")
	}
	if r := m.RecursiveReadOnly; r != nil && *r != corev1.RecursiveReadOnlyDisabled {
		c.bad(key+".recursiveReadOnly", string(*r), "does not go together with a mount that the sidecar makes", string(corev1.RecursiveReadOnlyDisabled), "remove recursiveReadOnly")
	}
}

// platform refuses pods in which the sidecar cannot run.
func (c *checker) platform() {
	if os := c.pod.OS; os != nil && os.Name != corev1.Linux {
		c.bad("spec.os.name", string(os.Name), "cannot run the sidecar", string(corev1.Linux), "remove the annotations, or run the pod on Linux")
	}
	if u := c.pod.HostUsers; c.mode != Dev && u != nil && !*u {
		what := "needs mounts that map user IDs, and these do not"
		if c.mode == Privileged {
			what = "forbids the mounts of a privileged sidecar"
		}
		c.bad("spec.hostUsers", "false", what, "true", "remove hostUsers")
	}
	if c.mode == Dev || len(c.spec.Served()) == 0 {
		return
	}
	if c.pod.HostNetwork {
		c.bad("spec.hostNetwork", "true", fmt.Sprintf("would give the sidecar's port %d of the node to one pod", Port), "false", "remove hostNetwork")
	}
	eachContainer(c.pod, func(list string, k *container) {
		for _, p := range k.Ports {
			if p.ContainerPort == Port && p.Protocol != corev1.ProtocolUDP && p.Protocol != corev1.ProtocolSCTP && !c.isSidecar(list, k) {
				c.bad(fmt.Sprintf("spec.%s[%s].ports.containerPort", list, k.Name), strconv.Itoa(Port), "is the sidecar's port in every pod", "another port", "choose another port for the container")
			}
		}
	})
}
