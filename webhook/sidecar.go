package webhook

import (
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/remora-storage/remora/webhook/spec"
)

// ContainerName is the sidecar's name in every pod. It and volumes called "remora-..." are reserved.
const ContainerName = "remora"

// The paths in the sidecar's container. `remora dev` maps them to folders of its own.
const (
	DisksPath   = "/remora/disks"
	MountsPath  = "/remora/mounts"
	RunPath     = "/remora/run"
	VolumesPath = "/remora/volumes"
	KeysPath    = "/remora/keys"
)

// Port is where the sidecar answers /readyz, /status and /metrics in privileged mode.
const Port = 9440

const (
	disksVolume   = "remora-disks"
	runVolume     = "remora-run"
	volumesVolume = "remora-volumes"
	keysVolume    = "remora-keys"
	// hostDisks is the node's folder with a folder of disk directories for each tenant.
	hostDisks = "/var/lib/remora"
)

// sidecar makes the native sidecar: an init container that is restarted always, starts before the application and stops
// after it.
func sidecar(s spec.Spec, m Mode, cfg Config) corev1.Container {
	always := corev1.ContainerRestartPolicyAlways
	c := corev1.Container{
		Name:          ContainerName,
		Image:         cfg.image(),
		Args:          []string{"sidecar", "--mode=" + string(m)},
		Env:           environment(cfg),
		RestartPolicy: &always,
		Resources: corev1.ResourceRequirements{Requests: corev1.ResourceList{
			corev1.ResourceCPU:    resource.MustParse("50m"),
			corev1.ResourceMemory: resource.MustParse("64Mi"),
		}},
	}
	for _, v := range s.Volumes {
		c.Args = append(c.Args, "--volume="+v.Flag())
	}
	c.Args = append(c.Args, "--disks="+DisksPath)
	switch m {
	case Privileged:
		privileged(&c, s)
	case Dev:
		dev(&c)
	}
	return c
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

// privileged lets the sidecar mount. It must be root whatever the pod's security context says.
func privileged(c *corev1.Container, s spec.Spec) {
	yes, no, root := true, false, int64(0)
	bidirectional := corev1.MountPropagationBidirectional
	c.Args = append(c.Args, "--mounts="+MountsPath, "--listen=:9440", "--authority=kubernetes")
	c.SecurityContext = &corev1.SecurityContext{Privileged: &yes, RunAsUser: &root, RunAsGroup: &root, RunAsNonRoot: &no}
	c.VolumeMounts = []corev1.VolumeMount{{Name: disksVolume, MountPath: DisksPath, SubPathExpr: "$(POD_NAMESPACE)"}}
	for _, v := range s.Volumes {
		c.VolumeMounts = append(c.VolumeMounts, corev1.VolumeMount{
			Name: v.Name, MountPath: MountsPath + "/" + v.Name, MountPropagation: &bidirectional,
		})
	}
	c.StartupProbe = &corev1.Probe{
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

// ownVolumes are the pod volumes that the sidecar needs for itself.
func ownVolumes(m Mode) []corev1.Volume {
	if m == Dev {
		return []corev1.Volume{emptyDir(disksVolume), emptyDir(runVolume), emptyDir(volumesVolume), emptyDir(keysVolume)}
	}
	create := corev1.HostPathDirectoryOrCreate
	return []corev1.Volume{{
		Name:         disksVolume,
		VolumeSource: corev1.VolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: hostDisks, Type: &create}},
	}}
}

func emptyDir(name string) corev1.Volume {
	return corev1.Volume{Name: name, VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}}
}
