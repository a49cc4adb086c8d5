package sidecar

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"

	"github.com/remora-storage/remora/api/v1alpha1"
	"github.com/remora-storage/remora/sidecar/authority"
	"github.com/remora-storage/remora/sidecar/replication/diskdir"
	"github.com/remora-storage/remora/sidecar/status"
)

// claim finds or makes the only replica of a volume of one copy on this node and takes the next epoch. A volume that has members is
// never given others here: an empty disk does not bootstrap (I6).
func (v *volume) claim(ctx context.Context) (*diskdir.Replica, *openDisk, error) {
	var err error
	if v.keys, err = v.openKeys(ctx); err != nil {
		return nil, nil, err
	}
	var replica *diskdir.Replica
	var disk *openDisk
	if v.object.Phase == v1alpha1.VolumePending {
		replica, disk, err = v.bootstrap(ctx)
	} else {
		replica, disk, err = v.findReplica(ctx)
	}
	if err != nil {
		return nil, nil, err
	}
	v.object.Epoch++
	v.object.Incarnation++
	v.object.OwnerPod, v.object.OwnerUID = v.s.cfg.Pod, v.s.cfg.PodUID
	v.object.Size = v.spec.Size
	if err := v.update(ctx); err != nil {
		return nil, nil, errors.Join(fmt.Errorf("take epoch %d: %w", v.object.Epoch, err), replica.Close())
	}
	return replica, disk, nil
}

// prepare reads the Volume object, and refuses what no start can cure.
func (v *volume) prepare(ctx context.Context) error {
	if err := v.ensureObject(ctx); err != nil {
		return err
	}
	v.checkCopies()
	return v.checkSize()
}

// ensureObject reads the Volume object, or makes it.
func (v *volume) ensureObject(ctx context.Context) error {
	have, err := v.s.auth.Get(ctx, v.object.Name)
	if err == nil {
		v.setObject(have)
		return nil
	}
	if !errors.Is(err, authority.ErrNotFound) {
		return err
	}
	uid := make([]byte, 16)
	if _, err := v.s.cfg.rand.Read(uid); err != nil {
		return fmt.Errorf("draw a volume UID: %w", err)
	}
	group, err := diskdir.NewID(v.s.cfg.rand)
	if err != nil {
		return err
	}
	v.object.UID, v.object.Group = hex.EncodeToString(uid), group.String()
	if v.spec.Replicas > 1 {
		v.object.Replicas, v.object.OwnerNode = v.spec.Replicas, v.s.cfg.Node
	}
	return v.update(ctx)
}

// checkCopies tells of a class that asks for another number of copies than the volume has: a class decides that once, when a volume is made.
func (v *volume) checkCopies() {
	if have := v.object.Copies(); have != max(v.spec.Replicas, 1) {
		v.s.cfg.Logger.Info("the volume keeps the number of copies that it was made with", "volume", v.object.Name, "copies", have,
			"class", v.spec.Class, "classCopies", v.spec.Replicas)
	}
}

// openHosted takes the next epoch of a volume of several copies. Its replica here is the host's, which closes it, too.
func (v *volume) openHosted(ctx context.Context) error {
	if v.s.host == nil {
		return fmt.Errorf("the volume has %d copies, which this sidecar cannot keep: it has no certificate (--identity)", v.object.Copies())
	}
	var err error
	if v.keys, err = v.openKeys(ctx); err != nil {
		return err
	}
	v.s.host.owner(v.object.Name, v.trace)
	if v.hosted, err = v.s.host.joinOwn(ctx, v.object.Name, v.keys.ID()); err != nil {
		return err
	}
	v.keys = v.hosted.keys
	group, ok := v.hosted.open().(volumeLog)
	if !ok {
		return fmt.Errorf("replica %s cannot be written by an owner", v.hosted.id)
	}
	v.group = group
	err = v.modify(ctx, func(o *v1alpha1.Volume) {
		o.Epoch++
		o.Incarnation++
		o.OwnerPod, o.OwnerUID, o.OwnerNode = v.s.cfg.Pod, v.s.cfg.PodUID, v.s.cfg.Node
		o.Size = max(o.Size, v.spec.Size)
	})
	if err != nil {
		return fmt.Errorf("take the next epoch: %w", err)
	}
	return v.own(ctx)
}

// modify changes the object as it is now, whatever others have changed meanwhile.
func (v *volume) modify(ctx context.Context, change func(*v1alpha1.Volume)) error {
	o, err := authority.Modify(ctx, v.s.auth, v.object.Name, func(o *v1alpha1.Volume) error { change(o); return nil })
	if err == nil {
		v.setObject(o)
	}
	return err
}

func (v *volume) setObject(o v1alpha1.Volume) {
	v.mu.Lock()
	v.object = o
	v.mu.Unlock()
}

func (v *volume) update(ctx context.Context) error {
	o, err := v.s.auth.Update(ctx, v.object)
	if err == nil {
		v.setObject(o)
	}
	return err
}

// checkSize lets a volume grow and refuses to shrink it.
func (v *volume) checkSize() error {
	if v.spec.Size < v.object.Size {
		return fmt.Errorf("size %d is below the volume's %d: a volume cannot shrink; set %s.remora.dev/size to at least %d",
			v.spec.Size, v.object.Size, v.spec.Name, v.object.Size)
	}
	return nil
}

// bootstrap makes the first replica, durable, and then records it as the member: only it may ever initialise the volume.
func (v *volume) bootstrap(ctx context.Context) (*diskdir.Replica, *openDisk, error) {
	disk, err := v.newDisk(ctx)
	if err != nil {
		return nil, nil, err
	}
	id, err := diskdir.NewID(v.s.cfg.rand)
	if err != nil {
		return nil, nil, err
	}
	group, err := diskdir.ParseID(v.object.Group)
	if err != nil {
		return nil, nil, fmt.Errorf("volume object: %w", err)
	}
	replica, err := disk.dir.CreateReplica(diskdir.ReplicaInfo{Replica: id, Group: group, VolumeUID: v.object.UID, Volume: v.object.Name})
	if err != nil {
		return nil, nil, err
	}
	v.object.Members = []v1alpha1.Member{{Replica: id.String(), Node: v.s.cfg.Node, Disk: disk.name, Role: status.Voter}}
	v.object.KeyID = v.keys.ID()
	v.object.Phase = v1alpha1.VolumeBootstrapping
	if err := v.update(ctx); err != nil {
		return nil, nil, errors.Join(fmt.Errorf("record the first member: %w", err), replica.Close())
	}
	return replica, disk, nil
}

// newDisk is where a new replica goes.
func (v *volume) newDisk(ctx context.Context) (*openDisk, error) {
	if v.s.cfg.held() {
		return v.s.disks.assigned(ctx, v.object.AssignedDisk)
	}
	return v.s.disks.forNew(ctx)
}

// findReplica opens the member that the object names.
func (v *volume) findReplica(ctx context.Context) (*diskdir.Replica, *openDisk, error) {
	m := v.object.Members[0]
	if m.Node != v.s.cfg.Node {
		return nil, nil, fmt.Errorf("its only replica %s is on node %s, and this is %s: run the pod there", m.Replica, m.Node, v.s.cfg.Node)
	}
	id, err := diskdir.ParseID(m.Replica)
	if err != nil {
		return nil, nil, fmt.Errorf("volume object: %w", err)
	}
	disk, err := v.s.disks.get(ctx, m.Disk)
	if err != nil {
		return nil, nil, fmt.Errorf("the volume exists and its replica %s cannot be opened: %w; an empty disk never takes its place", m.Replica, err)
	}
	replica, err := disk.dir.OpenReplica(id)
	if err != nil {
		return nil, nil, fmt.Errorf("the volume exists and its replica cannot be opened: %w; an empty disk never takes its place", err)
	}
	if info := replica.Info(); info.VolumeUID != v.object.UID || info.Group.String() != v.object.Group {
		return nil, nil, errors.Join(fmt.Errorf("replica %s belongs to volume %s (%s), not to %s (%s)", m.Replica, info.Volume, info.VolumeUID,
			v.object.Name, v.object.UID), replica.Close())
	}
	return replica, disk, nil
}

// becomeReady says that the volume has its file system. Nothing was answered before.
func (v *volume) becomeReady(ctx context.Context) error {
	if v.object.Phase == v1alpha1.VolumeReady {
		return nil
	}
	if v.hosted != nil {
		return v.modify(ctx, func(o *v1alpha1.Volume) { o.Phase = v1alpha1.VolumeReady })
	}
	v.object.Phase = v1alpha1.VolumeReady
	return v.update(ctx)
}
