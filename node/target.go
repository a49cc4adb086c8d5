package node

import (
	"regexp"
	"strings"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"k8s.io/apimachinery/pkg/util/validation"
)

// Kind is what a pod's inline volume asks for.
type Kind string

// The kinds.
const (
	KindMount Kind = "mount" // a volume that the sidecar serves
	KindDisks Kind = "disks" // what the sidecar needs for that
	KindLocal Kind = "local" // a directory of the node's disk
)

// disksVolume is the only pod volume that may be of kind disks.
const disksVolume = "remora-disks"

// The attributes of an inline volume, and what the kubelet adds to them (podInfoOnMount). The kubelet's own win over the pod's.
const (
	attrKind   = "kind"
	attrVolume = "volume"
	attrClass  = "class"
	attrSize   = "size"

	infoName      = "csi.storage.k8s.io/pod.name"
	infoNamespace = "csi.storage.k8s.io/pod.namespace"
	infoUID       = "csi.storage.k8s.io/pod.uid"
	infoEphemeral = "csi.storage.k8s.io/ephemeral"
)

// target is where the kubelet wants a volume: <kubelet>/pods/<uid>/volumes/kubernetes.io~csi/<volume>/mount.
type target struct {
	path   string
	parent string // relative to the kubelet's directory
	uid    string
	volume string
}

// lastName is the target's own name below its parent.
const lastName = "mount"

var podUID = regexp.MustCompile(`^[0-9A-Za-z][0-9A-Za-z-]{0,127}$`)

func (c *Config) parseTarget(path string) (target, error) {
	bad := func(why string) (target, error) {
		return target{}, status.Errorf(codes.InvalidArgument, "target path %q: %s", path, why)
	}
	rel, ok := strings.CutPrefix(path, c.KubeletDir+"/")
	if !ok {
		return bad("is not below the kubelet's directory " + c.KubeletDir + "; set --kubelet-dir to the kubelet's --root-dir")
	}
	parts := strings.Split(rel, "/")
	if len(parts) != 6 || parts[0] != "pods" || parts[2] != "volumes" || parts[3] != "kubernetes.io~csi" || parts[5] != lastName {
		return bad("is not pods/<uid>/volumes/kubernetes.io~csi/<volume>/mount")
	}
	if !podUID.MatchString(parts[1]) {
		return bad("has no UID of a pod")
	}
	if len(validation.IsDNS1123Label(parts[4])) > 0 {
		return bad("has no name of a pod's volume")
	}
	return target{path: path, parent: strings.Join(parts[:5], "/"), uid: parts[1], volume: parts[4]}, nil
}

// podID is who the kubelet says a pod is.
type podID struct{ Namespace, Name, UID string }

// request is a checked NodePublishVolumeRequest.
type request struct {
	pod    podID
	target target
	kind   Kind
	class  string
	size   string
}

// parsePublish checks everything that can be checked without asking anybody.
func (c *Config) parsePublish(r *csi.NodePublishVolumeRequest) (request, error) {
	t, err := c.parseTarget(r.GetTargetPath())
	if err != nil {
		return request{}, err
	}
	a := r.GetVolumeContext()
	q := request{target: t, kind: Kind(a[attrKind]), class: a[attrClass], size: a[attrSize],
		pod: podID{Namespace: a[infoNamespace], Name: a[infoName], UID: a[infoUID]}}
	bad := func(format string, args ...any) (request, error) {
		return request{}, status.Errorf(codes.InvalidArgument, format, args...)
	}
	switch {
	case a[infoEphemeral] != "true":
		return bad("driver %s has inline volumes of pods only (csi: in a pod), no PersistentVolumes", Driver)
	case q.pod.Name == "" || q.pod.Namespace == "" || q.pod.UID == "":
		return bad("the kubelet does not say which pod it is: CSIDriver %s needs podInfoOnMount: true", Driver)
	case len(validation.IsDNS1123Label(q.pod.Namespace)) > 0 || len(validation.IsDNS1123Subdomain(q.pod.Name)) > 0:
		return bad("pod %q in namespace %q: these are no names", q.pod.Name, q.pod.Namespace)
	case q.pod.UID != t.uid:
		return bad("target path %q is of pod %s, not of %s", t.path, t.uid, q.pod.UID)
	case r.GetVolumeCapability().GetBlock() != nil:
		return bad("volumes of driver %s are file systems, not block devices", Driver)
	case r.GetReadonly():
		return bad("volume %q: readOnly: true of the volume is not supported; set it at the container's volumeMounts", t.volume)
	}
	return q, q.checkAttributes(a)
}

// checkAttributes refuses what does not fit together. Attributes are the pod author's: they say what is asked for, never what is given.
func (q *request) checkAttributes(a map[string]string) error {
	known := map[Kind]string{KindMount: " kind volume ", KindDisks: " kind ", KindLocal: " kind volume class size "}[q.kind]
	if known == "" {
		return status.Errorf(codes.InvalidArgument, "volume %q: attribute kind %q; allowed: mount, disks, local (the injector writes it)", q.target.volume, q.kind)
	}
	for key := range a {
		if !strings.HasPrefix(key, "csi.storage.k8s.io/") && !strings.Contains(known, " "+key+" ") {
			return status.Errorf(codes.InvalidArgument, "volume %q: unknown attribute %q; allowed for kind %s:%s", q.target.volume, key, q.kind, known)
		}
	}
	want := q.target.volume
	if q.kind == KindDisks {
		if want != disksVolume {
			return status.Errorf(codes.InvalidArgument, "volume %q: only %s may be of kind disks", want, disksVolume)
		}
		return nil
	}
	if a[attrVolume] != want || strings.HasPrefix(want, "remora-") {
		return status.Errorf(codes.InvalidArgument, "volume %q: attribute volume %q; allowed: the volume's own name, which must not begin with remora-", want, a[attrVolume])
	}
	return nil
}
