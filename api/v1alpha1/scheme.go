package v1alpha1

import (
	"slices"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// AddToScheme lets clients of Kubernetes read and write the objects.
func AddToScheme(s *runtime.Scheme) error {
	version := schema.GroupVersion{Group: Group, Version: Version}
	s.AddKnownTypeWithName(version.WithKind(KindVolume), &VolumeObject{})
	s.AddKnownTypeWithName(version.WithKind(KindVolume+"List"), &VolumeObjectList{})
	metav1.AddToGroupVersion(s, version)
	return nil
}

// VolumeObjectList is what a list of Volumes is read into.
type VolumeObjectList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`

	Items []VolumeObject `json:"items"`
}

// DeepCopyInto copies the object.
func (o *VolumeObject) DeepCopyInto(to *VolumeObject) {
	*to = *o
	o.ObjectMeta.DeepCopyInto(&to.ObjectMeta)
	to.Status.Nodes = slices.Clone(o.Status.Nodes)
	to.Status.Members = slices.Clone(o.Status.Members)
}

// DeepCopyObject copies the object.
func (o *VolumeObject) DeepCopyObject() runtime.Object {
	to := &VolumeObject{}
	o.DeepCopyInto(to)
	return to
}

// DeepCopyObject copies the list.
func (l *VolumeObjectList) DeepCopyObject() runtime.Object {
	to := &VolumeObjectList{TypeMeta: l.TypeMeta, Items: make([]VolumeObject, len(l.Items))}
	l.ListMeta.DeepCopyInto(&to.ListMeta)
	for i := range l.Items {
		l.Items[i].DeepCopyInto(&to.Items[i])
	}
	return to
}
