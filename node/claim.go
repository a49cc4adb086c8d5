package node

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/remora-storage/remora/api/v1alpha1"
	"github.com/remora-storage/remora/node/kube"
	"github.com/remora-storage/remora/webhook/spec"
)

// claimTries is how often a claim begins again when somebody else changed a Volume meanwhile.
const claimTries = 5

// claim gives the pod the Volumes of one slot: its own; or those of a pod that is gone, whose replicas are here; or new ones. It never makes
// a new Volume while one that the pod could have waits on another node.
func (n *node) claim(ctx context.Context, id podID, slots []string, want []spec.Volume) (*admission, error) {
	var err error
	for range claimTries {
		var a *admission
		if a, err = n.tryClaim(ctx, id, slots, want); err == nil || !errors.Is(err, kube.ErrConflict) {
			return a, err
		}
	}
	return nil, status.Errorf(codes.Unavailable, "claim the volumes of pod %s/%s: %v", id.Namespace, id.Name, err)
}

// slot is what is known of the Volumes that go by one name.
type slot struct {
	name    string
	objects []*v1alpha1.VolumeObject // nil: there is none yet
	mine    bool                     // this pod has claimed one of them
	missing bool                     // there are none at all
	busy    error                    // a pod that lives has one of them
	far     error                    // a replica is on another node
}

func (n *node) tryClaim(ctx context.Context, id podID, slots []string, want []spec.Volume) (*admission, error) {
	var here, missing *slot
	var busy, far error
	for _, name := range slots {
		s, err := n.look(ctx, id, name, want)
		if err != nil {
			return nil, err
		}
		switch {
		case s.busy != nil:
			busy = s.busy
		case s.far != nil:
			far = s.far
		case s.mine:
			return n.take(ctx, id, s, want)
		case s.missing && missing == nil:
			missing = s
		case !s.missing && here == nil:
			here = s
		}
		if missing != nil {
			break // slots are made in order: there are none behind it that a pod could be waiting for
		}
	}
	switch {
	case here != nil:
		return n.take(ctx, id, here, want)
	case far != nil:
		return nil, far
	case missing != nil:
		return n.take(ctx, id, missing, want)
	}
	return nil, busy
}

// look reads the Volumes of a slot.
func (n *node) look(ctx context.Context, id podID, name string, want []spec.Volume) (*slot, error) {
	s := &slot{name: name, missing: true}
	for _, v := range want {
		o, err := n.cfg.API.Volume(ctx, id.Namespace, v.Name+"-"+name)
		if errors.Is(err, kube.ErrNotFound) {
			s.objects = append(s.objects, nil)
			continue
		}
		if err != nil {
			return nil, away("read Volume "+v.Name+"-"+name, err)
		}
		s.objects, s.missing = append(s.objects, o), false
		switch lives, err := n.ownerLives(ctx, id, o); {
		case err != nil:
			return nil, err
		case o.Status.OwnerUID == id.UID:
			s.mine = true
		case lives:
			s.busy = refuse("VolumeBusy", codes.FailedPrecondition, "Volume %s belongs to pod %s, which still exists: a volume has one pod at a time; "+
				"the pod starts when that one is gone (a Deployment needs strategy Recreate)", o.Name, o.Status.OwnerPod)
		}
		if node := nodeOf(o); node != "" && node != n.cfg.Node && len(o.Status.Members) > 0 {
			s.far = refuse("VolumeElsewhere", codes.FailedPrecondition, "the only replica of Volume %s is on node %s, and this is %s: the pod must run there; "+
				"delete the pod if that node is back, so that it is scheduled again", o.Name, node, n.cfg.Node)
		}
	}
	return s, nil
}

// nodeOf is where a Volume's replica is, or shall be.
func nodeOf(o *v1alpha1.VolumeObject) string {
	if len(o.Status.Members) > 0 {
		return o.Status.Members[0].Node
	}
	return o.Status.AssignedNode
}

func diskOf(o *v1alpha1.VolumeObject) string {
	if len(o.Status.Members) > 0 {
		return o.Status.Members[0].Disk
	}
	return o.Status.AssignedDisk
}

// ownerLives tells whether another pod than id's has the Volume and may still use it.
func (n *node) ownerLives(ctx context.Context, id podID, o *v1alpha1.VolumeObject) (bool, error) {
	if o.Status.OwnerUID == "" || o.Status.OwnerUID == id.UID {
		return false, nil
	}
	pod, err := n.cfg.API.Pod(ctx, id.Namespace, o.Status.OwnerPod)
	if errors.Is(err, kube.ErrNotFound) {
		return false, nil
	}
	if err != nil {
		return false, away("read pod "+o.Status.OwnerPod, err)
	}
	done := pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed
	return string(pod.UID) == o.Status.OwnerUID && !done, nil
}

// take claims the Volumes of a slot, one compare-and-swap each, and makes those that are missing. What was claimed when it fails stays the
// pod's, and is found at the next try.
func (n *node) take(ctx context.Context, id podID, s *slot, want []spec.Volume) (*admission, error) {
	for i, v := range want {
		if err := n.check(ctx, s.objects[i], v); err != nil {
			return nil, err
		}
	}
	disks, err := n.chooseDisks(id.Namespace, s, want)
	if err != nil {
		return nil, err
	}
	a := &admission{}
	for i, v := range want {
		o := s.objects[i]
		if o == nil {
			o, err = n.create(ctx, id, s.name, v, disks[i])
		} else {
			o, err = n.takeOver(ctx, id, o, disks[i])
		}
		if err != nil {
			if errors.Is(err, kube.ErrRefused) { // otherwise it may be done, and only the answer was lost
				n.giveBack(id.Namespace, want[i:], disks[i:])
			}
			return nil, err
		}
		if err := checkDisk(v, diskOf(o)); err != nil {
			return nil, status.Errorf(codes.Internal, "Volume %s: %v", o.Name, err)
		}
		n.assigned(id.Namespace, disks[i])
		a.Volumes = append(a.Volumes, admitted{Volume: v.Name, Name: o.Name, Size: v.Size, Disk: diskOf(o), Local: isLocal(v), Replica: len(o.Status.Members) > 0})
	}
	return a, nil
}

func isLocal(v spec.Volume) bool { return v.Engine == v1alpha1.EngineLocal }

// random is an ID of 16 hexadecimal digits, not all 0.
func random() string {
	var b [8]byte
	for b == [8]byte{} {
		_, _ = rand.Read(b[:]) // never fails (crypto/rand)
	}
	return hex.EncodeToString(b[:])
}

// create makes a Volume, which the pod has from the start. One of engine local is its directory, and nothing comes later.
func (n *node) create(ctx context.Context, id podID, slot string, v spec.Volume, disk string) (*v1alpha1.VolumeObject, error) {
	var o v1alpha1.VolumeObject
	o.Namespace, o.Name = id.Namespace, v.Name+"-"+slot
	o.Labels = map[string]string{}
	for key, value := range map[string]string{"volume": v.Name, "slot": slot} {
		if len(validation.IsValidLabelValue(value)) == 0 {
			o.Labels[spec.Domain+"/"+key] = value
		}
	}
	volume := v1alpha1.Volume{Generation: 1, Class: v.Class, Size: v.Size, Group: random(),
		OwnerPod: id.Name, OwnerUID: id.UID, AssignedNode: n.cfg.Node, AssignedDisk: disk}
	if isLocal(v) {
		volume.Phase = v1alpha1.VolumeReady
		volume.Members = []v1alpha1.Member{{Replica: random(), Node: n.cfg.Node, Disk: disk, Role: v1alpha1.RoleVoter}}
	}
	o.Set(volume)
	made, err := n.cfg.API.CreateVolume(ctx, &o)
	if err != nil {
		return nil, fmt.Errorf("make Volume %s: %w", o.Name, err)
	}
	n.cfg.Logger.Info("made a Volume", "namespace", id.Namespace, "volume", o.Name, "disk", disk)
	n.tell(id, false, "VolumeCreated", fmt.Sprintf("made Volume %s in %s of node %s", o.Name, disk, n.cfg.Node))
	return made, nil
}

// check tells whether the pod may have the Volume as it asks for it; o is nil for a new one.
func (n *node) check(ctx context.Context, o *v1alpha1.VolumeObject, v spec.Volume) error {
	switch {
	case o != nil && o.DeletionTimestamp != nil:
		return refuse("VolumeDeleted", codes.FailedPrecondition, "Volume %s is being deleted", o.Name)
	case o != nil && o.Status.Phase == v1alpha1.VolumeDeleted:
		return refuse("VolumeDeleted", codes.FailedPrecondition, "the only replica of Volume %s was deleted by an order, and its content with it; "+
			"to begin with an empty volume of that name: kubectl delete volumes.remora.dev %[1]s", o.Name)
	case o == nil || v.Size > o.Spec.Size:
		return n.checkClass(ctx, v)
	case v.Size < o.Spec.Size:
		return refuse("VolumeRefused", codes.FailedPrecondition, "Volume %s has %d bytes, and the pod asks for %d: a volume cannot shrink; set %s.remora.dev/size to at least %[2]d",
			o.Name, o.Spec.Size, v.Size, v.Name)
	}
	return nil
}

// takeOver makes the pod the owner of a Volume that is there, if it is not.
func (n *node) takeOver(ctx context.Context, id podID, o *v1alpha1.VolumeObject, disk string) (*v1alpha1.VolumeObject, error) {
	now := o.Volume()
	now.OwnerPod, now.OwnerUID = id.Name, id.UID
	if len(now.Members) == 0 && (now.AssignedNode != n.cfg.Node || now.AssignedDisk == "") {
		now.AssignedNode, now.AssignedDisk = n.cfg.Node, disk // nothing was ever kept where it was to be
	}
	was := o.Volume()
	if was.OwnerUID == now.OwnerUID && was.AssignedNode == now.AssignedNode && was.AssignedDisk == now.AssignedDisk {
		return o, nil
	}
	now.Generation++
	o.Set(now)
	updated, err := n.cfg.API.UpdateVolume(ctx, o)
	if err != nil {
		return nil, fmt.Errorf("claim Volume %s: %w", o.Name, err)
	}
	n.cfg.Logger.Info("claimed a Volume", "namespace", id.Namespace, "volume", o.Name, "pod", id.Name, "before", was.OwnerPod)
	return updated, nil
}

// checkClass holds a new volume, or a new size, against the class once more: not every pod comes by way of the webhook.
func (n *node) checkClass(ctx context.Context, v spec.Volume) error {
	class, err := n.class(ctx, v.Class)
	if err != nil {
		return err
	}
	switch {
	case isLocal(v) != (class.Engine == v1alpha1.EngineLocal):
		return refuse("VolumeRefused", codes.PermissionDenied, "volume %q: class %s has engine %s, and the pod was made for another; delete the pod", v.Name, v.Class, class.Engine)
	case v.Size < class.MinSize || v.Size > class.MaxSize:
		return refuse("VolumeRefused", codes.PermissionDenied, "volume %q: size %d is outside the bounds of class %s, %d to %d", v.Name, v.Size, v.Class, class.MinSize, class.MaxSize)
	case !isLocal(v) && (v.Sealing != class.Sealing || v.Replicas != class.Replicas):
		return refuse("VolumeRefused", codes.PermissionDenied, "volume %q: sealing=%s, replicas=%d is not what class %s says (sealing=%s, replicas=%d): "+
			"the class was changed after the pod was made; delete the pod", v.Name, v.Sealing, v.Replicas, v.Class, class.Sealing, class.Replicas)
	}
	return nil
}

func (n *node) class(ctx context.Context, name string) (spec.Class, error) {
	o, err := n.cfg.API.Class(ctx, name)
	if errors.Is(err, kube.ErrNotFound) {
		if c, ok := spec.BuiltIn()[name]; ok {
			return c, nil
		}
		return spec.Class{}, refuse("VolumeRefused", codes.FailedPrecondition, "there is no VolumeClass %q", name)
	}
	if err != nil {
		return spec.Class{}, away("read VolumeClass "+name, err)
	}
	c, problems := spec.NewClass(name, o.Spec)
	if len(problems) > 0 {
		return c, refuse("VolumeRefused", codes.FailedPrecondition, "VolumeClass %q: %v", name, problems[0])
	}
	return c, nil
}
