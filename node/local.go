package node

import (
	"errors"
	"os"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/remora-storage/remora/node/host"
)

// publishLocal binds a directory of the node's disk into the pod. It is the pod's as long as its Volume object says so, and its size is
// bounded where the file system has project quotas; where not, an event says that it is not.
func (n *node) publishLocal(p *pod, q request, a *admission, place *host.Dir) error {
	v, ok := a.byVolume(q.target.volume)
	if !ok || !v.Local {
		return refuse("NotInjected", codes.PermissionDenied, "volume %q is not one of engine local", q.target.volume)
	}
	tenant, err := n.tenantDir(q.pod.Namespace, false)
	var dir *host.Dir
	if err == nil {
		defer tenant.Close()
		dir, err = tenant.Open(v.Disk)
	}
	if errors.Is(err, os.ErrNotExist) {
		return refuse("DiskMissing", codes.FailedPrecondition, "directory %s/%s/%s of Volume %s is not there: the node's disk is not mounted, or was replaced; "+
			"an empty directory never takes its place", n.cfg.Root, q.pod.Namespace, v.Disk, v.Name)
	}
	if err != nil {
		return status.Error(codes.Internal, err.Error())
	}
	defer dir.Close()
	if !n.limit(q.pod, dir, v.Disk, v.Size) {
		n.tell(q.pod, true, "VolumeUnlimited", "volume "+v.Volume+" can grow beyond its size: the file system of "+n.cfg.Root+" has no project quotas")
	}
	if err := host.Bind(dir, place, host.NoDev); err != nil {
		return status.Error(codes.Internal, err.Error())
	}
	p.locals[q.target.volume] = q.target.path
	if err := n.save(p); err != nil {
		delete(p.locals, q.target.volume)
		return status.Error(codes.Internal, errors.Join(err, host.Detach(q.target.path)).Error())
	}
	n.cfg.Logger.Info("bound a directory", "namespace", q.pod.Namespace, "pod", q.pod.Name, "volume", v.Name)
	return nil
}
