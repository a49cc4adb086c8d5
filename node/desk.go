package node

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"reflect"
	"regexp"

	"github.com/remora-storage/remora/api/v1alpha1"
	"github.com/remora-storage/remora/node/kube"
	"github.com/remora-storage/remora/sidecar/authority"
)

// desk answers one pod's sidecar. Whoever can run a command in the sidecar's container can ask anything here, so everything is held
// against what the pod was admitted for.
type desk struct {
	n *node
	p *pod
}

// keySize is AES-256's.
const keySize = 32

func refused(format string, args ...any) error {
	return fmt.Errorf("%w: "+format, append([]any{authority.ErrRefused}, args...)...)
}

func knownOp(op string) string {
	switch op {
	case "names", "get", "update", "key":
		return op
	}
	return "other"
}

// Names returns the Volume objects' names by the pod's names for its volumes.
func (d *desk) Names(context.Context) (map[string]string, error) {
	a := d.p.admission.Load()
	if a == nil {
		return nil, refused("this pod has no volumes")
	}
	names := map[string]string{}
	for _, v := range a.Volumes {
		names[v.Volume] = v.Name
	}
	return names, nil
}

// read returns a Volume of this pod, which must own it still.
func (d *desk) read(ctx context.Context, name string) (*v1alpha1.VolumeObject, admitted, error) {
	v, ok := d.p.admission.Load().byName(name)
	if !ok {
		return nil, v, refused("Volume %q is not one of this pod's", name)
	}
	o, err := d.n.cfg.API.Volume(ctx, d.p.id.Namespace, name)
	switch {
	case errors.Is(err, kube.ErrNotFound):
		return nil, v, refused("Volume %s was deleted", name)
	case err != nil:
		return nil, v, err
	case o.Status.OwnerUID != d.p.id.UID:
		return nil, v, refused("Volume %s belongs to pod %s (%s) by now", name, o.Status.OwnerPod, o.Status.OwnerUID)
	}
	return o, v, nil
}

// Get reads a Volume.
func (d *desk) Get(ctx context.Context, name string) (v1alpha1.Volume, error) {
	o, _, err := d.read(ctx, name)
	if err != nil {
		return v1alpha1.Volume{}, err
	}
	return o.Volume(), nil
}

// Update changes a Volume, if the change is one that a sidecar makes.
func (d *desk) Update(ctx context.Context, now v1alpha1.Volume) (v1alpha1.Volume, error) {
	o, v, err := d.read(ctx, now.Name)
	if err != nil {
		return now, err
	}
	was := o.Volume()
	if was.Generation != now.Generation {
		return now, fmt.Errorf("%w: %s is at generation %d, not %d", authority.ErrConflict, now.Name, was.Generation, now.Generation)
	}
	if err := checkChange(was, now, v.Size, d.n.cfg.Node); err != nil {
		return now, err
	}
	now.Generation++
	o.Set(now)
	updated, err := d.n.cfg.API.UpdateVolume(ctx, o)
	if errors.Is(err, kube.ErrConflict) {
		return now, fmt.Errorf("%w: %w", authority.ErrConflict, err)
	}
	if err != nil {
		return now, err
	}
	return updated.Volume(), nil
}

var replicaID = regexp.MustCompile(`^[0-9a-f]{16}$`)

// checkChange lets through what a sidecar does when it makes the first replica, opens an epoch, becomes ready, or grows to the size that
// its pod was admitted with; nothing else.
func checkChange(was, now v1alpha1.Volume, size int64, node string) error {
	allowed := was.Clone()
	if was.Phase == v1alpha1.VolumePending && now.Phase == v1alpha1.VolumeBootstrapping {
		if len(now.Members) != 1 {
			return refused("a new Volume gets one replica here, not %d", len(now.Members))
		}
		m := now.Members[0]
		if m.Node != node || m.Disk != was.AssignedDisk || m.Role != v1alpha1.RoleVoter || !replicaID.MatchString(m.Replica) || m.Lost || m.Filled {
			return refused("replica %q in %s of node %s, as %s: a new Volume's replica is a voter in %s of node %s", m.Replica, m.Disk, m.Node, m.Role, was.AssignedDisk, node)
		}
		allowed.Phase, allowed.KeyID, allowed.Members = now.Phase, now.KeyID, now.Members
	}
	if was.Phase == v1alpha1.VolumeBootstrapping && now.Phase == v1alpha1.VolumeReady {
		allowed.Phase = now.Phase
	}
	if now.Epoch == was.Epoch+1 && now.Incarnation == was.Incarnation+1 {
		allowed.Epoch, allowed.Incarnation = now.Epoch, now.Incarnation
	}
	if now.Size > was.Size && now.Size <= size {
		allowed.Size = now.Size
	}
	if now.OwnerNode == node {
		allowed.OwnerNode = node
	}
	if len(now.Members) == len(allowed.Members) {
		for i := range now.Members { // who serves it, and where
			if allowed.Members[i].Node == node && len(now.Members[i].Pod)+len(now.Members[i].Address) < 512 {
				allowed.Members[i].Pod, allowed.Members[i].Address = now.Members[i].Pod, now.Members[i].Address
			}
		}
	}
	if len(allowed.Members) == 0 && len(now.Members) == 0 {
		allowed.Members = now.Members // nil or empty
	}
	if !reflect.DeepEqual(allowed, now) {
		return refused("a sidecar may not change Volume %s like that", was.Name)
	}
	return nil
}

// Key returns the volume's key. A volume that was never served gets one; one that was never gets another.
func (d *desk) Key(ctx context.Context, name string) ([]byte, error) {
	o, _, err := d.read(ctx, name)
	if err != nil {
		return nil, err
	}
	v := o.Volume()
	key, err := d.n.cfg.Keys.Key(ctx, v)
	if !errors.Is(err, kube.ErrNotFound) {
		return key, err
	}
	if v.Phase != v1alpha1.VolumePending || v.KeyID != "" {
		return nil, refused("the key of Volume %s is gone, and without it so is its content: put the Secret back; %w", name, err)
	}
	fresh := make([]byte, keySize)
	_, _ = rand.Read(fresh) // never fails (crypto/rand)
	return d.n.cfg.Keys.Make(ctx, v, fresh)
}
