package webhook

import (
	"fmt"
	"path"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"github.com/remora-storage/remora/webhook/spec"
)

// Privileged mode, for clusters in which the node plugin may not be installed: the sidecar's container does the plugin's work for its own pod
// (`remora hold`, docs/privileged.md). Mounts are made below <root>/.mounts/pods/<pod UID>/ of the node, a hostPath, which kubelet never
// looks into and never empties, and from there they are bound into the pod's other containers (docs/decisions/0022).

// DefaultRoot is the node's folder of disk directories where Config names none.
const DefaultRoot = "/var/lib/remora"

// RootPath is where the sidecar of privileged mode sees Config.Root.
const RootPath = "/remora/root"

// PrivilegedSocket is where the sidecar of privileged mode finds who holds its mounts.
const PrivilegedSocket = NodeSocket

// MountsFolder is the folder below Config.Root in which the mounts of pods of privileged mode are. No namespace has such a name.
const MountsFolder = ".mounts/pods"

// LabelPrivileged is the label by which an administrator lets a namespace's pods have privileged sidecars; its value is PrivilegedAllowed.
const (
	LabelPrivileged   = spec.Domain + "/privileged"
	PrivilegedAllowed = "allowed"
)

// uidVariable gives a container its pod's UID, which is part of the path of its mounts.
const uidVariable = "REMORA_POD_UID"

const (
	tokenVolume = "remora-token"
	tokenPath   = "/var/run/secrets/kubernetes.io/serviceaccount"
	tokenTime   = 3607 // seconds; kubelet renews it before
)

// privileged lets the sidecar mount. It must be root whatever the pod's security context says; what serves the volumes gives that up.
func privileged(c *corev1.Container) {
	yes, no, root := true, false, int64(0)
	bidirectional := corev1.MountPropagationBidirectional
	socket := "unix:" + PrivilegedSocket
	c.Args = append(c.Args, "--root="+RootPath, "--holder="+socket, "--authority="+socket, "--keys="+socket, "--listen=:9440")
	c.SecurityContext = &corev1.SecurityContext{Privileged: &yes, RunAsUser: &root, RunAsGroup: &root, RunAsNonRoot: &no}
	c.VolumeMounts = []corev1.VolumeMount{
		{Name: disksVolume, MountPath: RootPath, MountPropagation: &bidirectional},
		{Name: tokenVolume, MountPath: tokenPath, ReadOnly: true},
	}
	c.StartupProbe, c.ReadinessProbe = startupProbe(), readinessProbe()
}

// CheckRoot refuses what cannot be a Config.Root.
func CheckRoot(root string) error {
	if root != "" && (!path.IsAbs(root) || path.Clean(root) != root || root == "/") {
		return fmt.Errorf("--root %q; allowed: an absolute path without . or .. or a / at its end, such as %s", root, DefaultRoot)
	}
	return nil
}

func (c Config) root() string {
	if c.Root == "" {
		return DefaultRoot
	}
	return c.Root
}

func hostPath(name, folder string) corev1.Volume {
	create := corev1.HostPathDirectoryOrCreate
	return corev1.Volume{Name: name, VolumeSource: corev1.VolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: folder, Type: &create}}}
}

// isShelf says whether v is a pod volume of privileged mode.
func isShelf(v corev1.Volume) bool {
	return v.HostPath != nil && strings.HasSuffix(v.HostPath.Path, "/"+MountsFolder)
}

// token is the sidecar's way to the API server: what pods have by default, also where the pod's author wants none for the others.
func token() corev1.Volume {
	seconds, mode := int64(tokenTime), int32(0o644)
	return corev1.Volume{Name: tokenVolume, VolumeSource: corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{DefaultMode: &mode, Sources: []corev1.VolumeProjection{
		{ServiceAccountToken: &corev1.ServiceAccountTokenProjection{ExpirationSeconds: &seconds, Path: "token"}},
		{ConfigMap: &corev1.ConfigMapProjection{LocalObjectReference: corev1.LocalObjectReference{Name: "kube-root-ca.crt"}, Items: []corev1.KeyToPath{{Key: "ca.crt", Path: "ca.crt"}}}},
	}}}}
}

// reach leads the containers' mounts to those that the sidecar makes, and undoes that of an earlier injection.
func reach(p *corev1.PodSpec, s spec.Spec, m Mode, old status) {
	eachContainer(p, func(_ string, c *container) {
		if c.Name == ContainerName {
			return
		}
		ours := false
		for i := range c.VolumeMounts {
			mount := &c.VolumeMounts[i]
			if old.Mode == Privileged && slices.Contains(old.Volumes, mount.Name) {
				leadBack(mount)
			}
			if _, ok := s.Find(mount.Name); ok && m == Privileged {
				lead(mount)
				ours = true
			}
		}
		at := slices.IndexFunc(c.Env, func(e corev1.EnvVar) bool { return e.Name == uidVariable })
		switch {
		case ours && at < 0:
			c.Env = append(c.Env, uidOf())
		case !ours && at >= 0 && old.Mode == Privileged:
			if c.Env = slices.Delete(c.Env, at, at+1); len(c.Env) == 0 {
				c.Env = nil
			}
		}
	})
}

func uidOf() corev1.EnvVar {
	return corev1.EnvVar{Name: uidVariable, ValueFrom: &corev1.EnvVarSource{FieldRef: &corev1.ObjectFieldSelector{FieldPath: "metadata.uid"}}}
}

// leadsTo is the way to a volume's mount below the folder of all pods' mounts.
func leadsTo(volume string) string { return "$(" + uidVariable + ")/" + volume }

// lead makes a mount of a volume one of what the sidecar mounts there, or of the same folder in it as before.
func lead(m *corev1.VolumeMount) {
	below := m.SubPathExpr
	if m.SubPath != "" {
		below = strings.ReplaceAll(m.SubPath, "$", "$$") // nothing in it is a variable
	}
	m.SubPath, m.SubPathExpr = "", leadsTo(m.Name)
	if below != "" {
		m.SubPathExpr += "/" + below
	}
}

// leadBack undoes lead.
func leadBack(m *corev1.VolumeMount) {
	below, ok := strings.CutPrefix(m.SubPathExpr, leadsTo(m.Name))
	if !ok || below != "" && below[0] != '/' {
		return
	}
	below = strings.TrimPrefix(below, "/")
	if m.SubPathExpr = below; !strings.Contains(strings.ReplaceAll(below, "$$", ""), "$") {
		m.SubPath, m.SubPathExpr = strings.ReplaceAll(below, "$$", "$"), ""
	}
}

// uid refuses a variable of the injector's name that says something else.
func (c *checker) uid(list string, k *container) {
	if c.mode != Privileged {
		return
	}
	for _, e := range k.Env {
		if e.Name == uidVariable && !sameSource(e, uidOf()) {
			c.bad("spec."+list+"["+k.Name+"].env", uidVariable, "is a variable reserved for the injector", "other names", "rename the variable")
		}
	}
}

// led refuses mounts that another webhook led elsewhere: the container would see other pods' mounts, or an empty folder of the node.
func (v *verifier) led() {
	if v.mode != Privileged {
		return
	}
	eachContainer(v.pod, func(list string, k *container) {
		for _, m := range k.VolumeMounts {
			way := leadsTo(m.Name)
			if _, ours := v.spec.Find(m.Name); ours && k.Name != ContainerName && m.SubPathExpr != way && !strings.HasPrefix(m.SubPathExpr, way+"/") {
				v.changed("spec."+list+"["+k.Name+"].volumeMounts["+m.Name+"].subPathExpr", m.SubPathExpr, "was changed", way)
			}
		}
		v.uid(list, k)
	})
}

// podSecurity is the label by which a namespace enforces a Pod Security level.
const podSecurity = "pod-security.kubernetes.io/enforce"

// Permit says why pods of a namespace with these labels may not have the sidecar of a mode: a privileged one is the administrator's to allow, for
// a namespace as a whole. No annotation of a pod does it.
func Permit(m Mode, namespace string, labels map[string]string) []spec.Problem {
	if m != Privileged {
		return nil
	}
	var problems []spec.Problem
	if value := labels[LabelPrivileged]; value != PrivilegedAllowed {
		problems = append(problems, spec.Problem{Key: "namespace " + namespace + ": label " + LabelPrivileged, Value: value, HasValue: true,
			What: "does not allow the privileged sidecar that this cluster's injector gives (--mode=privileged)", Allowed: PrivilegedAllowed,
			Fix: "ask the administrator, who may run: kubectl label namespace " + namespace + " " + LabelPrivileged + "=" + PrivilegedAllowed})
	}
	if level := labels[podSecurity]; level != "" && level != "privileged" {
		problems = append(problems, spec.Problem{Key: "namespace " + namespace + ": label " + podSecurity, Value: level, HasValue: true,
			What: "is a Pod Security level that refuses privileged containers and hostPath volumes, and the sidecar of this cluster needs both", Allowed: "privileged, or no level",
			Fix: "use another namespace for pods with volumes of Remora, or have the node plugin installed (--mode=node), whose sidecars pass restricted"})
	}
	return problems
}
