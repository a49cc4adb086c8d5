package sidecar

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/remora-storage/remora/api/v1alpha1"
	"github.com/remora-storage/remora/sidecar/authority"
	"github.com/remora-storage/remora/sidecar/replication/diskdir"
)

// claimDisks opens the disk directories that this process shall serve for the object's sake: those of its members here, and the first
// one for a replica to come. What another process serves stays its own.
func (h *host) claimDisks(o *v1alpha1.Volume) {
	names := []string{h.hostDisk()}
	for i := range o.Members {
		if m := &o.Members[i]; m.Node == h.cfg.Node && !m.Lost && !slices.Contains(names, m.Disk) && (h.owns(o.Name) || h.cfg.Keeper) {
			names = append(names, m.Disk)
		}
	}
	for _, name := range names {
		if h.disks.served(name) != nil || !h.free(name) {
			continue
		}
		err := h.disks.take(name)
		h.sayInUse(name, err)
		if errors.Is(err, diskdir.ErrInUse) {
			err = nil // another sidecar of this node has it
		}
		h.say("disk directory "+name, err)
	}
}

// free tells whether a disk directory is nobody's but a host's: no pod that may start here has the replica of a volume of its own in it.
func (h *host) free(disk string) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	for i := range h.all {
		o := &h.all[i]
		if h.owns(o.Name) || o.Several() && (o.OwnerNode != h.cfg.Node || h.cfg.Keeper) {
			continue
		}
		if slices.ContainsFunc(o.Members, func(m v1alpha1.Member) bool { return m.Node == h.cfg.Node && m.Disk == disk && !m.Lost }) {
			return false
		}
	}
	return true
}

// join makes an empty replica in a disk directory of ours and adds it to the object as a member. also is done in the same change. If the
// object does not want it any more by then, the replica goes again: it is empty, and nobody knows it.
func (h *host) join(ctx context.Context, volume string, also func(*v1alpha1.Volume) error) (v1alpha1.Volume, error) {
	h.joining.Lock() // the volume itself and the host's look both join
	defer h.joining.Unlock()
	o, err := h.auth.Get(ctx, volume)
	if err != nil {
		return o, err
	}
	disk, err := h.disks.forNew(ctx)
	if err != nil {
		return o, err
	}
	witness := h.witnessHere(&o)
	may := func(o *v1alpha1.Volume) error {
		if also != nil {
			if err := also(o); err != nil {
				return err
			}
		}
		if err := h.mayJoin(o, disk.name); err != nil {
			return err
		}
		if h.witnessHere(o) != witness {
			return authority.ErrUnchanged // what was made is not what is wanted any more
		}
		return nil
	}
	if now := o.Clone(); errors.Is(may(&now), authority.ErrUnchanged) {
		return o, nil
	}
	id, err := h.newReplica(disk, &o, witness)
	if err != nil {
		return o, err
	}
	was := o.Phase
	o, err = h.modify(ctx, volume, func(o *v1alpha1.Volume) error {
		if err := may(o); err != nil {
			return err
		}
		o.Members = append(o.Members, v1alpha1.Member{Replica: id.String(), Node: h.cfg.Node, Disk: disk.name, Role: v1alpha1.RoleLearner, Pod: h.cfg.Pod, Witness: h.witnessHere(o)})
		h.complete(o)
		return nil
	})
	if err == nil && was != v1alpha1.VolumePending && o.Member(id.String()) == nil { // while Pending, the next one takes it
		if err := disk.dir.RemoveUnused(id, sessionFile); err != nil {
			h.cfg.Logger.Warn("an empty replica that is not wanted any more stays where it is", "volume", volume, "replica", id.String(), "err", err)
		}
	}
	return o, err
}

// newReplica makes an empty replica, durable; one of the same volume that a crash left behind before the object knew it is taken instead.
func (h *host) newReplica(disk *openDisk, o *v1alpha1.Volume, witness bool) (diskdir.ID, error) {
	infos, err := disk.dir.Replicas()
	if err != nil {
		return 0, err
	}
	for _, info := range infos {
		if info.VolumeUID == o.UID && info.Group.String() == o.Group && o.Phase == v1alpha1.VolumePending && o.Member(info.Replica.String()) == nil && info.Witness == witness {
			return info.Replica, nil
		}
	}
	id, err := diskdir.NewID(h.cfg.rand)
	if err != nil {
		return 0, err
	}
	group, err := diskdir.ParseID(o.Group)
	if err != nil {
		return 0, fmt.Errorf("volume object: %w", err)
	}
	r, err := disk.dir.CreateReplica(diskdir.ReplicaInfo{Replica: id, Group: group, VolumeUID: o.UID, Volume: o.Name, Witness: witness})
	if err != nil {
		return 0, err
	}
	if err := writeSession(h.cfg.fs, r.Path(), "0"); err != nil {
		return 0, errors.Join(fmt.Errorf("make replica: %w", err), r.Close())
	}
	return id, r.Close()
}

// mayJoin looks again, at the object that is about to be changed.
func (h *host) mayJoin(o *v1alpha1.Volume, disk string) error {
	if !slices.Contains(o.Nodes, h.cfg.Node) || o.Survivor != "" {
		return authority.ErrUnchanged
	}
	for i := range o.Members {
		m := &o.Members[i]
		if m.Node != h.cfg.Node || m.Lost || m.Witness != h.witnessHere(o) {
			continue
		}
		if m.Disk == disk || !h.owns(o.Name) {
			return authority.ErrUnchanged // it is there already
		}
		if m.Votes() { // in a directory that another sidecar serves: the pod's own takes its place
			m.Role = v1alpha1.RoleLeaving
		}
	}
	return nil
}

// complete lets the first members begin, once all of them are there.
func (h *host) complete(o *v1alpha1.Volume) {
	if o.Phase != v1alpha1.VolumePending || len(o.Members) < o.Voters() || len(o.Nodes) < o.Voters() {
		return
	}
	for _, node := range o.Nodes {
		if !slices.ContainsFunc(o.Members, func(m v1alpha1.Member) bool { return m.Node == node }) {
			return
		}
	}
	for i := range o.Members {
		o.Members[i].Role, o.Members[i].Filled = v1alpha1.RoleVoter, true
	}
	o.Phase = v1alpha1.VolumeBootstrapping
}

// joinOwn makes the replica of the pod's own volume here, if there is none that this process can serve, and returns it when the volume's
// first members are all there and it is open. keyID goes into a new volume's object.
func (h *host) joinOwn(ctx context.Context, volume, keyID string) (*hosted, error) {
	for said := false; ; said = true {
		if err := h.refresh(ctx); err != nil {
			return nil, err
		}
		o, ok := h.object(volume)
		if !ok {
			return nil, fmt.Errorf("%w: %s", authority.ErrNotFound, volume)
		}
		if o.MajorityLost() {
			return nil, &MajorityLostError{o}
		}
		here, err := h.ownHere(ctx, &o)
		if err != nil {
			return nil, err
		}
		if !here && slices.Contains(o.Nodes, h.cfg.Node) {
			if o, err = h.join(ctx, volume, func(o *v1alpha1.Volume) error { return decideKey(o, keyID) }); err != nil {
				return nil, err
			}
		}
		h.look()
		if r := h.hostedNow(volume); r != nil {
			done, err := r.opened(ctx, pollEvery)
			if done || err != nil && !damaged(err) {
				return r, err
			}
			if err != nil && h.mend(ctx, &o, r, err) != nil {
				return r, err
			}
		} else if err := pause(ctx, pollEvery/4); err != nil {
			return nil, err
		}
		if !said && o.Phase == v1alpha1.VolumePending {
			h.cfg.Logger.Info("waiting for the volume's first replicas", "volume", volume, "nodes", o.Nodes)
		}
	}
}

// decideKey names the key of a new volume, before the volume can begin.
func decideKey(o *v1alpha1.Volume, keyID string) error {
	switch {
	case o.Phase == v1alpha1.VolumePending:
		o.KeyID = keyID
	case o.KeyID != keyID:
		return fmt.Errorf("the volume is sealed with key %q, and this process has %q", o.KeyID, keyID)
	}
	return nil
}

// ownHere tells whether a member of the pod's own volume is in a disk directory that this process serves, and takes the directory if need
// be. One that another sidecar serves does not count.
func (h *host) ownHere(ctx context.Context, o *v1alpha1.Volume) (bool, error) {
	h.claimDisks(o)
	for i := range o.Members {
		m := &o.Members[i]
		if m.Node != h.cfg.Node || m.Lost || m.Witness {
			continue
		}
		_, err := h.disks.get(ctx, m.Disk)
		if err == nil {
			return true, nil
		}
		if damaged(err) {
			if gone, giveErr := h.giveUp(ctx, o, m.Replica, err); gone || giveErr != nil {
				return false, giveErr
			}
		}
		if !errors.Is(err, diskdir.ErrInUse) {
			return false, fmt.Errorf("replica %s cannot be opened: %w; an empty disk never takes its place", m.Replica, err)
		}
	}
	return false, nil
}

func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}

// MajorityLostError: too many disks are gone for the volume ever to decide anything again by itself.
type MajorityLostError struct{ Volume v1alpha1.Volume }

func (e *MajorityLostError) Error() string {
	var lost, left, others []string
	for _, m := range e.Volume.Members {
		if !m.Votes() {
			continue
		}
		if name := m.Replica + " on " + m.Node; m.Witness {
			others = append(others, m.Node)
		} else if m.Lost {
			lost = append(lost, name)
		} else {
			left = append(left, name)
		}
	}
	if len(left) == 0 {
		return fmt.Sprintf("every disk with a copy is lost (%s): nothing is left of the volume; restore it from elsewhere under another name", strings.Join(lost, ", "))
	}
	if len(others) > 0 {
		return fmt.Sprintf("the volume has lost the majority of its two copies and its witness (lost copies: %s; witness: on %s), and one copy alone cannot tell whether "+
			"it has everything that was acknowledged; it is not served. Bring a lost disk back, or go on with what %s has and lose what it lacks: "+
			"`remora dev accept-loss %s --accept-data-loss`", cmp.Or(strings.Join(lost, ", "), "none"), strings.Join(others, ", "), strings.Join(left, " or "), e.Volume.Name)
	}
	return fmt.Sprintf("%d of %d disks are lost (%s), and one disk alone cannot tell whether it has everything that was acknowledged; it is not served. "+
		"Bring a lost disk back, or go on with what %s has and lose what it lacks: `remora dev accept-loss %s --accept-data-loss`",
		len(lost), len(lost)+len(left), strings.Join(lost, ", "), strings.Join(left, " or "), e.Volume.Name)
}
