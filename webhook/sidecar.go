package webhook

import (
	"fmt"
	"path"
	"strconv"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/remora-storage/remora/api/v1alpha1"
	"github.com/remora-storage/remora/webhook/spec"
)

// ContainerName is the sidecar's name in every pod. It and volumes called "remora-..." are reserved.
const ContainerName = "remora"

// The paths in the sidecar's container. `remora dev` maps them to folders of its own.
const (
	DisksPath   = "/remora/disks"
	RunPath     = "/remora/run"
	VolumesPath = "/remora/volumes"
	KeysPath    = "/remora/keys"
)

// Port is where the sidecar answers /readyz, /status and /metrics in node and privileged mode.
const Port = 9440

// NodeSocket is where the node plugin serves a pod in node mode: mounts, Volume objects and keys of this pod alone.
const NodeSocket = DisksPath + "/run/node.sock"

const (
	disksVolume   = "remora-disks"
	runVolume     = "remora-run"
	volumesVolume = "remora-volumes"
	keysVolume    = "remora-keys"
)

// sidecar makes the native sidecar: an init container that is restarted always, starts before the application and stops
// after it.
func sidecar(s spec.Spec, m Mode, cfg Config, pod *corev1.PodSecurityContext) corev1.Container {
	always := corev1.ContainerRestartPolicyAlways
	c := corev1.Container{
		Name:          ContainerName,
		Image:         cfg.image(),
		Args:          []string{"sidecar", "--mode=" + string(m)},
		Env:           environment(cfg),
		RestartPolicy: &always,
		Resources:     resources(s),
	}
	for _, v := range s.Served() {
		c.Args = append(c.Args, "--volume="+v.Flag())
	}
	if m != Dev && pod != nil && pod.FSGroup != nil && *pod.FSGroup > 0 {
		// kubelet does not do it: it would have to change owners through a mount that nobody serves yet.
		c.Args = append(c.Args, fmt.Sprintf("--fs-group=%d", *pod.FSGroup))
	}
	c.Args = append(c.Args, "--disks="+DisksPath)
	switch m {
	case Node:
		node(&c)
	case Privileged:
		privileged(&c)
	case Dev:
		dev(&c)
	}
	return c
}

// resources are those of the classes; where none says anything, enough to start with.
func resources(s spec.Spec) corev1.ResourceRequirements {
	if r := s.Resources(); r.Requests != nil || r.Limits != nil {
		return r
	}
	return corev1.ResourceRequirements{Requests: corev1.ResourceList{
		corev1.ResourceCPU:    resource.MustParse("50m"),
		corev1.ResourceMemory: resource.MustParse("64Mi"),
	}}
}

func environment(cfg Config) []corev1.EnvVar {
	field := func(name, path string) corev1.EnvVar {
		return corev1.EnvVar{Name: name, ValueFrom: &corev1.EnvVarSource{FieldRef: &corev1.ObjectFieldSelector{FieldPath: path}}}
	}
	env := []corev1.EnvVar{
		field("POD_NAME", "metadata.name"),
		field("POD_NAMESPACE", "metadata.namespace"),
		field("POD_UID", "metadata.uid"),
		field("NODE_NAME", "spec.nodeName"),
	}
	if cfg.OTLPEndpoint != "" {
		env = append(env, corev1.EnvVar{Name: "OTEL_EXPORTER_OTLP_ENDPOINT", Value: cfg.OTLPEndpoint})
	}
	return env
}

// nobody is the uid and gid of the sidecar in node mode: the node plugin gives it directories of this owner.
const nobody = 65534

// node gives the sidecar what the node plugin needs of it, and no rights: it passes Pod Security "restricted".
func node(c *corev1.Container) {
	yes, no, id := true, false, int64(nobody)
	c.Args = append(c.Args, "--holder=unix:"+NodeSocket, "--authority=unix:"+NodeSocket, "--keys=unix:"+NodeSocket, "--listen=:9440")
	c.SecurityContext = &corev1.SecurityContext{
		RunAsUser: &id, RunAsGroup: &id, RunAsNonRoot: &yes,
		Privileged: &no, AllowPrivilegeEscalation: &no, ReadOnlyRootFilesystem: &yes,
		Capabilities:   &corev1.Capabilities{Drop: []corev1.Capability{"ALL"}},
		SeccompProfile: &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeRuntimeDefault},
	}
	c.VolumeMounts = []corev1.VolumeMount{{Name: disksVolume, MountPath: DisksPath}}
	c.Lifecycle = served()
	c.ReadinessProbe = readinessProbe()
}

// served holds the application back until the sidecar serves every mount: kubelet starts the next container when this hook has ended. A
// startup probe does the same, up to a second later: kubelet asks once a second, and not when the container has started
// (docs/decisions/0017).
func served() *corev1.Lifecycle {
	return &corev1.Lifecycle{PostStart: &corev1.LifecycleHandler{
		Exec: &corev1.ExecAction{Command: []string{"/bin/remora-init", "ready", strconv.Itoa(Port)}}}}
}

// readinessProbe takes a pod from its Services when a volume of it is not served for half a minute, and says why in its events. A sidecar
// that is killed is back long before. It costs no time at the start: kubelet asks as soon as the hook has ended.
func readinessProbe() *corev1.Probe {
	return &corev1.Probe{
		ProbeHandler:     corev1.ProbeHandler{HTTPGet: &corev1.HTTPGetAction{Path: "/readyz", Port: intstr.FromInt32(Port)}},
		PeriodSeconds:    10,
		TimeoutSeconds:   5,
		FailureThreshold: 3,
	}
}

// startupProbe is what privileged mode has instead. A kubelet that is restarted while the hook runs forgets the hook, not the probe, and what a container of
// this mode would find before the mount is there is not a mount on which it waits.
func startupProbe() *corev1.Probe {
	return &corev1.Probe{
		ProbeHandler:     corev1.ProbeHandler{HTTPGet: &corev1.HTTPGetAction{Path: "/readyz", Port: intstr.FromInt32(Port)}},
		PeriodSeconds:    1,
		FailureThreshold: 300,
	}
}

func dev(c *corev1.Container) {
	c.Args = append(c.Args,
		"--listen=unix:"+RunPath+"/sidecar.sock", "--holder=unix:"+RunPath+"/holder.sock", "--authority=file:"+VolumesPath, "--keys=file:"+KeysPath)
	c.VolumeMounts = []corev1.VolumeMount{
		{Name: disksVolume, MountPath: DisksPath},
		{Name: runVolume, MountPath: RunPath},
		{Name: volumesVolume, MountPath: VolumesPath},
		{Name: keysVolume, MountPath: KeysPath},
	}
}

// Driver is the CSI driver of the node plugin. Volumes of it are the injector's alone.
const Driver = "remora.dev"

// The attributes of a volume of Driver: what the node plugin is asked for. They are requests, not rights: whose volumes and
// directories a pod gets is decided by who it is.
const (
	AttributeKind   = "kind"   // KindMount, KindLocal or KindDisks
	AttributeVolume = "volume" // of KindMount and KindLocal: the pod volume's name
	AttributeClass  = "class"  // of KindLocal
	AttributeSize   = "size"   // of KindLocal: bytes

	KindMount = "mount" // a file system that the sidecar serves
	KindLocal = "local" // a directory of the node's disk, without a sidecar
	KindDisks = "disks" // the disk directories and the socket of the pod's sidecar
)

// ownVolumes are the pod volumes that the sidecar needs for itself.
func ownVolumes(m Mode, cfg Config) []corev1.Volume {
	switch m {
	case Node:
		return []corev1.Volume{inline(disksVolume, map[string]string{AttributeKind: KindDisks})}
	case Dev:
		return []corev1.Volume{emptyDir(disksVolume), emptyDir(runVolume), emptyDir(volumesVolume), emptyDir(keysVolume)}
	}
	return []corev1.Volume{hostPath(disksVolume, cfg.root()), token()}
}

// podVolume is what a Remora volume is in the pod.
func podVolume(m Mode, cfg Config, v spec.Volume) corev1.Volume {
	switch {
	case m == Privileged:
		return hostPath(v.Name, path.Join(cfg.root(), MountsFolder))
	case m != Node:
		return emptyDir(v.Name)
	case v.Engine == v1alpha1.EngineLocal:
		return inline(v.Name, map[string]string{AttributeKind: KindLocal, AttributeVolume: v.Name, AttributeClass: v.Class, AttributeSize: strconv.FormatInt(v.Size, 10)})
	default:
		return inline(v.Name, map[string]string{AttributeKind: KindMount, AttributeVolume: v.Name})
	}
}

func inline(name string, attributes map[string]string) corev1.Volume {
	return corev1.Volume{Name: name, VolumeSource: corev1.VolumeSource{CSI: &corev1.CSIVolumeSource{Driver: Driver, VolumeAttributes: attributes}}}
}

// isInline says whether v is a volume of the node plugin.
func isInline(v corev1.Volume) bool { return v.CSI != nil && v.CSI.Driver == Driver }

func emptyDir(name string) corev1.Volume {
	return corev1.Volume{Name: name, VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}}
}
