package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// KindVolume is the kind of a Volume in Kubernetes, and VolumeResource its plural in URLs.
const (
	KindVolume     = "Volume"
	VolumeResource = "volumes"
)

// VolumeObject is a Volume as Kubernetes keeps it: namespaced, and changed as a whole, so that its resourceVersion is the compare-and-swap.
// metadata.uid is the volume's UID. Users read it; only the node plugin (and later the controller) writes it.
type VolumeObject struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	Spec   VolumeObjectSpec   `json:"spec"`
	Status VolumeObjectStatus `json:"status,omitempty"`
}

// VolumeObjectSpec is what was asked for.
type VolumeObjectSpec struct {
	Class string `json:"class"`
	Size  int64  `json:"size"` // bytes; grows only
}

// VolumeObjectStatus is what is true of a volume whoever serves it. The fields are Volume's.
type VolumeObjectStatus struct {
	Generation   uint64   `json:"generation"`
	Group        string   `json:"group,omitempty"`
	KeyID        string   `json:"keyID,omitempty"`
	Phase        Phase    `json:"phase,omitempty"`
	Replicas     int      `json:"replicas,omitempty"`
	Grouped      bool     `json:"grouped,omitempty"`
	Nodes        []string `json:"nodes,omitempty"`
	Witness      string   `json:"witness,omitempty"`
	Members      []Member `json:"members,omitempty"`
	ConfIndex    uint64   `json:"confIndex,omitempty"`
	Survivor     string   `json:"survivor,omitempty"`
	Epoch        uint64   `json:"epoch,omitempty"`
	Incarnation  uint32   `json:"incarnation,omitempty"`
	OwnerPod     string   `json:"ownerPod,omitempty"`
	OwnerUID     string   `json:"ownerUID,omitempty"`
	OwnerNode    string   `json:"ownerNode,omitempty"`
	AssignedNode string   `json:"assignedNode,omitempty"`
	AssignedDisk string   `json:"assignedDisk,omitempty"`
}

// Volume returns the object as sidecars know it.
func (o *VolumeObject) Volume() Volume {
	return Volume{
		Generation: o.Status.Generation, UID: string(o.UID), Namespace: o.Namespace, Name: o.Name, Class: o.Spec.Class, Size: o.Spec.Size,
		Group: o.Status.Group, KeyID: o.Status.KeyID, Phase: o.Status.Phase, Members: o.Status.Members, Epoch: o.Status.Epoch,
		Replicas: o.Status.Replicas, Grouped: o.Status.Grouped, Nodes: o.Status.Nodes, Witness: o.Status.Witness, ConfIndex: o.Status.ConfIndex, Survivor: o.Status.Survivor,
		Incarnation: o.Status.Incarnation, OwnerPod: o.Status.OwnerPod, OwnerUID: o.Status.OwnerUID, OwnerNode: o.Status.OwnerNode,
		AssignedNode: o.Status.AssignedNode, AssignedDisk: o.Status.AssignedDisk,
	}
}

// Set makes the object say what v says. Its identity (name, namespace, UID) stays its own.
func (o *VolumeObject) Set(v Volume) {
	o.APIVersion, o.Kind = APIVersion, KindVolume
	o.Spec = VolumeObjectSpec{Class: v.Class, Size: v.Size}
	o.Status = VolumeObjectStatus{
		Generation: v.Generation, Group: v.Group, KeyID: v.KeyID, Phase: v.Phase, Members: v.Members, Epoch: v.Epoch,
		Replicas: v.Replicas, Grouped: v.Grouped, Nodes: v.Nodes, Witness: v.Witness, ConfIndex: v.ConfIndex, Survivor: v.Survivor,
		Incarnation: v.Incarnation, OwnerPod: v.OwnerPod, OwnerUID: v.OwnerUID, OwnerNode: v.OwnerNode,
		AssignedNode: v.AssignedNode, AssignedDisk: v.AssignedDisk,
	}
}
