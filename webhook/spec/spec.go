// Package spec reads what a pod's annotations ask of Remora into a typed Spec. It is the leaf that the webhook, `remora dev`,
// the sidecar and the command line share: it promises that every value is checked, that nothing is ignored in silence, and that
// all problems of a pod are reported at once. It knows annotations and classes; what a pod's containers do with the volumes is
// the webhook's to check.
package spec

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/remora-storage/remora/api/v1alpha1"
)

// Domain is the prefix of every annotation of Remora: "remora.dev/KEY" for the pod, "VOLUME.remora.dev/KEY" for a volume.
const Domain = "remora.dev"

// The annotations of a pod.
const (
	// KeyVolumes lists the pod's volumes that Remora provides, separated by commas.
	KeyVolumes = Domain + "/volumes"
	// KeyInject opts a pod out with "false".
	KeyInject = Domain + "/inject"
	// KeyStatus is written by the injector: what it did.
	KeyStatus = Domain + "/status"
)

// The annotations of a volume, after "VOLUME.remora.dev/".
const (
	AttrSize   = "size"
	AttrClass  = "class"
	AttrMode   = "mode"
	AttrAccess = "access"
	AttrTrace  = "trace"
)

// Spec is what one pod asks for.
type Spec struct {
	// Volumes are in the order of remora.dev/volumes; names are unique.
	Volumes []Volume
	// resources of the sidecar, as the classes of the volumes have them.
	resources corev1.ResourceRequirements
}

// Served returns the volumes that the sidecar serves: all but those of the engine local.
func (s Spec) Served() []Volume {
	return slices.DeleteFunc(slices.Clone(s.Volumes), func(v Volume) bool { return v.Engine == v1alpha1.EngineLocal })
}

// Resources are those of the sidecar: of the classes of the volumes that it serves, the largest requests, and the largest limits
// of what all of them limit. They are empty if no class says anything.
func (s Spec) Resources() corev1.ResourceRequirements { return *s.resources.DeepCopy() }

// Find returns the volume of that name.
func (s Spec) Find(name string) (Volume, bool) {
	for _, v := range s.Volumes {
		if v.Name == name {
			return v, true
		}
	}
	return Volume{}, false
}

// Volume is one volume of a pod.
type Volume struct {
	// Name is the pod volume's name, a DNS label.
	Name string
	// Size in bytes, from MinSize to MaxSize.
	Size int64
	// Class is the name of the VolumeClass whose settings these are.
	Class string
	// Replicas is the number of synchronous copies, at least 1.
	Replicas int
	// Witness adds a voter without content. The Volume object has it; it is not in Flag.
	Witness bool
	// Sealing says whether what leaves the sidecar's memory is encrypted and authenticated, or checksummed only.
	Sealing v1alpha1.Sealing
	// Engine is what serves the volume.
	Engine v1alpha1.Engine
	Mode   Mode
	Access Access
	Trace  Trace
}

// Mode is how a volume is offered to the pod.
type Mode string

// ModeFilesystem is a mounted file system, the only mode for now.
const ModeFilesystem Mode = "filesystem"

// Access is who may mount a volume.
type Access string

// ReadWriteOnce is one pod at a time, the only access for now.
const ReadWriteOnce Access = "ReadWriteOnce"

// Voters is how many nodes the volume needs: one for each copy, and one for the witness.
func (v Volume) Voters() int {
	if v.Witness {
		return v.Replicas + 1
	}
	return v.Replicas
}

// Flag returns the volume as the value of the sidecar's --volume flag, for example
// "name=data,size=2147483648,class=default,replicas=1,sealing=on,trace=every". Engine, Mode and Access have one value each
// for a sidecar and are not in it.
// ParseVolumeFlag reads it back.
func (v Volume) Flag() string {
	return fmt.Sprintf("name=%s,size=%d,class=%s,replicas=%d,sealing=%s,trace=%s", v.Name, v.Size, v.Class, v.Replicas, v.Sealing, v.Trace)
}

// ParseVolumeFlag reads what Flag wrote. Every key must be there, once; the order is free.
func ParseVolumeFlag(s string) (Volume, error) {
	v := Volume{Engine: v1alpha1.EngineReplicated, Mode: ModeFilesystem, Access: ReadWriteOnce}
	seen := map[string]bool{}
	for _, field := range strings.Split(s, ",") {
		key, value, ok := strings.Cut(field, "=")
		if !ok || seen[key] {
			return Volume{}, fmt.Errorf("--volume %q: %q is not KEY=VALUE with a key of its own", s, field)
		}
		seen[key] = true
		if err := v.setFlag(key, value); err != nil {
			return Volume{}, fmt.Errorf("--volume %q: %w", s, err)
		}
	}
	for _, key := range []string{"name", "size", "class", "replicas", "sealing", "trace"} {
		if !seen[key] {
			return Volume{}, fmt.Errorf("--volume %q: %s= is missing", s, key)
		}
	}
	return v, nil
}

func (v *Volume) setFlag(key, value string) (err error) {
	switch key {
	case "name":
		v.Name = value
		if len(validation.IsDNS1123Label(value)) > 0 {
			err = fmt.Errorf("name %q is not a DNS label", value)
		}
	case "size":
		v.Size, err = strconv.ParseInt(value, 10, 64)
		if err == nil && (v.Size < MinSize || v.Size > MaxSize) {
			err = fmt.Errorf("size %d is not between %d and %d", v.Size, int64(MinSize), int64(MaxSize))
		}
	case "class":
		v.Class = value
		if len(validation.IsDNS1123Subdomain(value)) > 0 {
			err = fmt.Errorf("class %q is not the name of a class", value)
		}
	case "replicas":
		v.Replicas, err = strconv.Atoi(value)
		if err == nil && v.Replicas < 1 {
			err = fmt.Errorf("replicas %d is less than 1", v.Replicas)
		}
	case "sealing":
		v.Sealing = v1alpha1.Sealing(value)
		if v.Sealing != v1alpha1.SealingOn && v.Sealing != v1alpha1.SealingOff {
			err = fmt.Errorf("sealing %q is not %q or %q", value, v1alpha1.SealingOn, v1alpha1.SealingOff)
		}
	case "trace":
		v.Trace, err = ParseTrace(value)
	default:
		err = fmt.Errorf("unknown key %q; allowed: name, size, class, replicas, sealing, trace", key)
	}
	return err
}
