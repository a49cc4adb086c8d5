package node

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/remora-storage/remora/api/v1alpha1"
	"github.com/remora-storage/remora/node/host"
	"github.com/remora-storage/remora/node/kube"
	"github.com/remora-storage/remora/webhook/spec"
)

// labelDelete on a Volume is the order to delete a replica: its value is the replica's ID, so that an order that was meant for another life
// of the volume deletes nothing. Users of a namespace may not write Volumes; administrators and the controller may.
//
//	kubectl label volumes.remora.dev data-db-0 remora.dev/delete-replica=4f0c6f2be1a86b0d
const labelDelete = spec.Domain + "/delete-replica"

// obey looks for orders until ctx ends.
func (n *node) obey(ctx context.Context) {
	tick := time.NewTicker(n.cfg.Orders)
	defer tick.Stop()
	for {
		if err := n.deleteOrdered(ctx); err != nil && ctx.Err() == nil {
			n.cfg.Logger.Warn("cannot delete replicas now; trying again", "err", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// order is one of a replica on this node.
type order struct {
	volume  *v1alpha1.VolumeObject
	replica string
	disk    string // directory of the tenant
}

// deleteOrdered deletes the disk directories all of whose replicas are ordered to be deleted, in three steps that a successor can go on
// with:
//
//  1. Nobody uses the directory: no pod that lives owns one of its Volumes, and none on this node is shown it.
//  2. The Volumes become Deleted, by compare-and-swap: no pod can claim one any more, and a pod that did so just now lets the step fail.
//  3. The directory goes, and with it the order.
func (n *node) deleteOrdered(ctx context.Context) error {
	all, err := n.cfg.API.LabelledVolumes(ctx, labelDelete)
	if err != nil {
		return err
	}
	byDisk := map[string][]order{}
	for i := range all {
		o := &all[i]
		m, why := n.orderedMember(o)
		if why != "" {
			n.tellVolume(o, "ReplicaNotDeleted", why)
		}
		if m != nil && why == "" {
			key := o.Namespace + "/" + m.Disk
			byDisk[key] = append(byDisk[key], order{o, m.Replica, m.Disk})
		}
	}
	var errs []error
	for _, orders := range byDisk {
		why, err := n.deleteDisk(ctx, orders)
		if err != nil {
			errs = append(errs, err)
		}
		for _, o := range orders {
			if why != "" {
				n.tellVolume(o.volume, "ReplicaNotDeleted", why)
			}
		}
	}
	return errors.Join(errs...)
}

// orderedMember is the member that the order names, if it is on this node; nil and a reason if nobody can obey it.
func (n *node) orderedMember(o *v1alpha1.VolumeObject) (*v1alpha1.Member, string) {
	id := o.Labels[labelDelete]
	if !slices.ContainsFunc(o.Status.Members, func(m v1alpha1.Member) bool { return m.Node == n.cfg.Node }) {
		return nil, ""
	}
	if len(o.Status.Members) > 1 {
		return nil, "the volume has other replicas: this one is taken out of the group first, not deleted"
	}
	m := &o.Status.Members[0]
	if m.Replica != id {
		return nil, fmt.Sprintf("the order names replica %q, and the volume's is %s: nothing was deleted", id, m.Replica)
	}
	if !diskName.MatchString(m.Disk) && !localName.MatchString(m.Disk) {
		return nil, fmt.Sprintf("%q is not the name of a disk directory", m.Disk)
	}
	return m, ""
}

// deleteDisk deletes one directory and says why not, if somebody uses it.
func (n *node) deleteDisk(ctx context.Context, orders []order) (why string, err error) {
	namespace, disk := orders[0].volume.Namespace, orders[0].disk
	tenant, err := n.tenantDir(namespace, true)
	if err != nil {
		return "", err
	}
	defer tenant.Close()
	if why, err := n.inUse(ctx, tenant, orders); why != "" || err != nil {
		return why, err
	}
	for i := range orders {
		if err := n.markDeleted(ctx, &orders[i]); err != nil {
			return "", err
		}
	}
	if n.shown(namespace, disk) { // claimed before the mark, and published since
		return "a pod on this node has just been given the directory", nil
	}
	if err := errors.Join(tenant.RemoveAll(disk), tenant.Sync()); err != nil {
		return "", fmt.Errorf("delete %s/%s: %w", tenant.Path(), disk, err)
	}
	for _, o := range orders {
		n.cfg.Logger.Info("deleted a replica, as ordered", "namespace", namespace, "volume", o.volume.Name, "replica", o.replica, "disk", disk)
		n.tellVolume(o.volume, "ReplicaDeleted", fmt.Sprintf("replica %s in %s of node %s was deleted, as ordered", o.replica, disk, n.cfg.Node))
		v := o.volume.Volume()
		v.Members, v.AssignedNode, v.AssignedDisk = nil, "", ""
		v.Generation++
		o.volume.Set(v)
		delete(o.volume.Labels, labelDelete)
		if _, err := n.cfg.API.UpdateVolume(ctx, o.volume); err != nil {
			return "", fmt.Errorf("replica %s is deleted, and Volume %s does not say so yet: %w", o.replica, o.volume.Name, err)
		}
	}
	return "", nil
}

// inUse tells who uses the directory or what is in it that no order names.
func (n *node) inUse(ctx context.Context, tenant *host.Dir, orders []order) (string, error) {
	for _, o := range orders {
		lives, err := n.ownerLives(ctx, podID{Namespace: o.volume.Namespace}, o.volume)
		if err != nil {
			return "", err
		}
		if lives {
			return fmt.Sprintf("pod %s, which has Volume %s, still exists", o.volume.Status.OwnerPod, o.volume.Name), nil
		}
	}
	if n.shown(orders[0].volume.Namespace, orders[0].disk) {
		return "a pod on this node still has the directory", nil
	}
	if localName.MatchString(orders[0].disk) {
		return "", nil
	}
	replicas, err := tenant.Names(orders[0].disk + "/replicas")
	if err != nil {
		return "", err
	}
	var others []string
	for _, name := range replicas {
		if replicaID.MatchString(name) && !slices.ContainsFunc(orders, func(o order) bool { return o.replica == name }) {
			others = append(others, name)
		}
	}
	if len(others) > 0 {
		return "the directory also holds " + strings.Join(others, ", ") + ", which no order names; the volumes of one pod share a directory and its journal", nil
	}
	return "", nil
}

// shown tells whether a pod on this node is shown the directory. Of a pod that was deleted by force the kubelet may not have unpublished it yet.
func (n *node) shown(namespace, disk string) bool {
	for _, p := range n.allPods() {
		if p.id.Namespace != namespace {
			continue
		}
		if _, ok := p.admission.Load().find(func(v admitted) bool { return v.Disk == disk }); ok {
			return true
		}
	}
	return false
}

// markDeleted lets no pod claim the Volume any more.
func (n *node) markDeleted(ctx context.Context, o *order) error {
	if o.volume.Status.Phase == v1alpha1.VolumeDeleted {
		return nil // an earlier try
	}
	v := o.volume.Volume()
	v.Phase, v.OwnerPod, v.OwnerUID = v1alpha1.VolumeDeleted, "", ""
	v.Generation++
	o.volume.Set(v)
	updated, err := n.cfg.API.UpdateVolume(ctx, o.volume)
	if err != nil {
		return fmt.Errorf("mark Volume %s as deleted: %w", o.volume.Name, err)
	}
	o.volume = updated
	return nil
}

// tellVolume has an event of a Volume written.
func (n *node) tellVolume(o *v1alpha1.VolumeObject, reason, message string) {
	select {
	case n.events <- kube.Event{Namespace: o.Namespace, Pod: o.Name, UID: string(o.UID), Volume: true, Warning: reason != "ReplicaDeleted", Reason: reason, Message: message}:
	default:
		n.metrics.eventsDropped.Inc()
	}
}
