package node

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/remora-storage/remora/node/host"
	"github.com/remora-storage/remora/sidecar/session/holder"
)

// NodePublishVolume makes one volume of a pod. Doing it again changes nothing.
func (n *node) NodePublishVolume(ctx context.Context, r *csi.NodePublishVolumeRequest) (*csi.NodePublishVolumeResponse, error) {
	q, err := n.cfg.parsePublish(r)
	if err != nil {
		return nil, err
	}
	p := n.lockPod(q.pod)
	defer n.release(p)
	if err := n.publish(ctx, p, q); err != nil {
		var why *refusal
		if errors.As(err, &why) {
			n.tell(q.pod, true, why.reason, status.Convert(why.err).Message())
		}
		return nil, err
	}
	return &csi.NodePublishVolumeResponse{}, nil
}

// publish makes one volume of a pod that is locked.
func (n *node) publish(ctx context.Context, p *pod, q request) error {
	if done, err := p.published(q); done || err != nil {
		return err
	}
	a := p.admission.Load()
	if a == nil {
		var err error
		if a, err = n.admit(ctx, q.pod); err != nil {
			return err
		}
		p.admission.Store(a)
	}
	place, err := n.place(q.target)
	if err != nil {
		return err
	}
	defer place.Close()
	if q.kind == KindLocal {
		return n.publishLocal(p, q, a, place)
	}
	if err := n.serve(p); err != nil {
		return status.Errorf(codes.Internal, "socket of the pod: %v", err)
	}
	if q.kind == KindDisks {
		return n.publishDisks(p, q, a, place)
	}
	return n.publishMount(p, q, a)
}

// published tells whether the volume is there already, at this target.
func (p *pod) published(q request) (bool, error) {
	at := p.locals[q.target.volume]
	if m := p.mounts[q.target.volume]; m != nil {
		at = m.target
	}
	if q.kind == KindDisks {
		at = p.disks
	}
	if at != "" && at != q.target.path {
		return false, status.Errorf(codes.AlreadyExists, "volume %q of the pod is published at %s", q.target.volume, at)
	}
	return at != "", nil
}

// place opens the target directory, made if need be, with nothing mounted on it.
func (n *node) place(t target) (*host.Dir, error) {
	if err := n.clear(t.path); err != nil {
		return nil, status.Errorf(codes.Internal, "clear what was left at the target: %v", err)
	}
	kubelet, err := host.Root(n.cfg.KubeletDir)
	if err != nil {
		return nil, status.Error(codes.Internal, err.Error())
	}
	defer kubelet.Close()
	parent, err := kubelet.Open(t.parent)
	if err != nil {
		return nil, status.Errorf(codes.Internal, "target: %v", err)
	}
	defer parent.Close()
	d, err := parent.Ensure(lastName, 0o750, 0, 0)
	if err != nil {
		return nil, status.Errorf(codes.Internal, "target: %v", err)
	}
	return d, nil
}

// clear takes away every mount at a path, aborts FUSE connections of ours, and looks at none of them.
func (n *node) clear(path string) error {
	for { // each turn takes one away
		m, err := holder.Adopt(path, holder.MountOptions{})
		if errors.Is(err, os.ErrNotExist) || errors.Is(err, holder.ErrNotMounted) {
			return host.Detach(path)
		}
		if err != nil {
			return err
		}
		n.cfg.Logger.Warn("clearing a mount of which nothing is known", "mount", path)
		if err := m.Close(); err != nil {
			return err
		}
	}
}

func (n *node) publishMount(p *pod, q request, a *admission) error {
	v, ok := a.byVolume(q.target.volume)
	if !ok || v.Local {
		return refuse("NotInjected", codes.PermissionDenied, "volume %q is not one that the pod's sidecar serves", q.target.volume)
	}
	n.fence(p, v.Name)
	m, err := holder.Open(q.target.path, holder.MountOptions{Volume: v.Name, AllowOther: true})
	if err != nil {
		return status.Error(codes.Internal, err.Error())
	}
	p.add(q.target.volume, &mounted{target: q.target.path, name: v.Name, mount: m}, false)
	if err := n.save(p); err != nil {
		return status.Error(codes.Internal, errors.Join(err, p.remove(q.target.volume)).Error())
	}
	n.cfg.Logger.Info("mounted", "namespace", q.pod.Namespace, "pod", q.pod.Name, "volume", v.Name)
	return nil
}

func (n *node) publishDisks(p *pod, q request, a *admission, place *host.Dir) error {
	trees, err := n.openDisks(q.pod, a)
	if err != nil {
		return err
	}
	defer func() { closeTrees(trees) }()
	run, err := host.Root(n.runDir(q.pod.UID))
	if err != nil {
		return status.Error(codes.Internal, err.Error())
	}
	trees = append(trees, host.Tree{Name: "run", Dir: run, Flags: host.ReadOnly | host.NoSUID | host.NoDev | host.NoExec})
	if err := host.Show(place, trees); err != nil {
		return status.Error(codes.Internal, err.Error())
	}
	p.disks = q.target.path
	if err := n.save(p); err != nil {
		p.disks = ""
		return status.Error(codes.Internal, errors.Join(err, host.Detach(q.target.path)).Error())
	}
	n.cfg.Logger.Info("gave disk directories", "namespace", q.pod.Namespace, "pod", q.pod.Name, "disks", a.disks())
	return nil
}

// NodeUnpublishVolume takes one volume of a pod away, whatever state it is in. It never looks at a mount, and removes nothing that it did
// not make: directories outlive pods.
func (n *node) NodeUnpublishVolume(_ context.Context, r *csi.NodeUnpublishVolumeRequest) (*csi.NodeUnpublishVolumeResponse, error) {
	t, err := n.cfg.parseTarget(r.GetTargetPath())
	if err != nil {
		return nil, err
	}
	if p := n.knownPod(t.uid); p != nil {
		err = n.forget(p, t)
		n.release(p)
	}
	if err := errors.Join(err, n.clear(t.path), n.removeTarget(t)); err != nil {
		return nil, status.Error(codes.Internal, err.Error())
	}
	n.cfg.Logger.Info("unpublished", "target", t.path)
	return &csi.NodeUnpublishVolumeResponse{}, nil
}

// forget ends what the pod has at the target. p.mu is held.
func (n *node) forget(p *pod, t target) error {
	var err error
	if m := p.mounts[t.volume]; m != nil && m.target == t.path {
		err = p.remove(t.volume)
	}
	if p.locals[t.volume] == t.path {
		delete(p.locals, t.volume)
	}
	if p.disks == t.path {
		p.disks = ""
	}
	return errors.Join(err, n.save(p))
}

func (n *node) removeTarget(t target) error {
	kubelet, err := host.Root(n.cfg.KubeletDir)
	if err != nil {
		return err
	}
	defer kubelet.Close()
	parent, err := kubelet.Open(t.parent)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("target: %w", err)
	}
	defer parent.Close()
	return parent.Remove(lastName)
}
