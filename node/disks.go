package node

import (
	"errors"
	"fmt"
	"os"
	"regexp"
	"strconv"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/remora-storage/remora/node/host"
)

// diskName is what a disk directory is called; localName one of engine local.
var (
	diskName  = regexp.MustCompile(`^disk-(0|[1-9][0-9]{0,8})$`)
	localName = regexp.MustCompile(`^local-(0|[1-9][0-9]{0,8})$`)
)

func checkDisk(name string) error {
	if !diskName.MatchString(name) {
		return fmt.Errorf("%q is not the name of a disk directory", name)
	}
	return nil
}

// tenantDir opens ROOT/<namespace>, and makes it if make says so.
func (n *node) tenantDir(namespace string, make bool) (*host.Dir, error) {
	root, err := host.Root(n.cfg.Root)
	if err != nil {
		return nil, fmt.Errorf("root of the disk directories (--root; is the node's disk mounted there?): %w", err)
	}
	defer root.Close()
	if make {
		return root.Ensure(namespace, 0o700, 0, 0)
	}
	return root.Open(namespace)
}

// chooseDisk is where Volumes of a slot that have no disk directory here get one: with the others, or in a new one. A directory that is
// there is never taken for a Volume that does not name it: it is somebody's, perhaps of a namespace of the same name that is gone.
func (n *node) chooseDisk(namespace string, s *slot) (name string, fresh bool, err error) {
	homeless := false
	for _, o := range s.objects {
		switch {
		case o == nil || nodeOf(o) != n.cfg.Node:
			homeless = true
		default:
			return diskOf(o), false, nil
		}
	}
	if !homeless {
		return "", false, nil
	}
	n.mu.Lock()
	if spare := n.spare[namespace]; len(spare) > 0 {
		name, n.spare[namespace] = spare[0], spare[1:]
	}
	n.mu.Unlock()
	if name == "" {
		name, err = n.newDir(namespace, "disk-", SidecarUID, 0o700)
	}
	return name, true, err
}

// giveBack keeps a directory that was made for a Volume, and surely assigned to none, for the next one.
func (n *node) giveBack(namespace, name string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.spare[namespace] = append(n.spare[namespace], name)
}

// newDir makes the first PREFIX<number> that is not there, durable when it returns.
func (n *node) newDir(namespace, prefix string, uid int, mode uint32) (string, error) {
	tenant, err := n.tenantDir(namespace, true)
	if err != nil {
		return "", status.Error(codes.Internal, err.Error())
	}
	defer tenant.Close()
	for i := 0; ; i++ {
		name := prefix + strconv.Itoa(i)
		d, err := tenant.Make(name, mode, uid, uid)
		if errors.Is(err, os.ErrExist) {
			continue
		}
		if err == nil {
			err = errors.Join(d.Close(), tenant.Sync())
		}
		if err != nil {
			return "", status.Error(codes.Internal, err.Error())
		}
		return name, nil
	}
}

// openDisks opens the disk directories of an admission as the trees that the sidecar sees. One that holds a replica must be there.
func (n *node) openDisks(id podID, a *admission) (trees []host.Tree, err error) {
	defer func() {
		if err != nil {
			closeTrees(trees)
		}
	}()
	tenant, err := n.tenantDir(id.Namespace, true)
	if err != nil {
		return nil, status.Error(codes.Internal, err.Error())
	}
	defer tenant.Close()
	for _, name := range a.disks() {
		d, err := tenant.Open(name)
		if errors.Is(err, os.ErrNotExist) && !a.replicaOn(name) {
			d, err = tenant.Ensure(name, 0o700, SidecarUID, SidecarUID)
		}
		if errors.Is(err, os.ErrNotExist) {
			err = refuse("DiskMissing", codes.FailedPrecondition, "disk directory %s is not there: the node's disk is not mounted at %s, or was replaced; an empty directory never takes its place",
				tenant.Path()+"/"+name, n.cfg.Root)
		}
		if err != nil {
			return trees, err
		}
		trees = append(trees, host.Tree{Name: name, Dir: d, Flags: host.NoSUID | host.NoDev | host.NoExec})
		n.limit(id, d, name, a.bytes(name))
	}
	return trees, nil
}

func closeTrees(trees []host.Tree) {
	for _, t := range trees {
		t.Dir.Close()
	}
}

// replicaOn tells whether a Volume has a replica in the directory.
func (a *admission) replicaOn(disk string) bool {
	_, ok := a.find(func(v admitted) bool { return v.Disk == disk && v.Replica })
	return ok
}

// bytes is what a disk directory may hold: its volumes, a quarter for seals, metadata and what waits to be punched, and the journal.
func (a *admission) bytes(disk string) int64 {
	const journal = 1 << 30
	sum := int64(journal)
	for _, v := range a.Volumes {
		if v.Disk == disk {
			sum += v.Size + v.Size/4
		}
	}
	return sum
}

// limit sets a project quota where the file system has them. Where not, a volume's own size still bounds what its pod can write through
// it, and nothing bounds a tenant that writes into its sidecar's directory by hand.
func (n *node) limit(id podID, d *host.Dir, name string, bytes int64) bool {
	err := host.Limit(d, host.ProjectID(id.Namespace+"/"+name), bytes)
	switch {
	case err == nil:
		return true
	case errors.Is(err, host.ErrNoQuota):
		n.metrics.noQuota.Inc()
		n.warnNoQuota.Do(func() {
			n.cfg.Logger.Warn("disk directories have no limit of their own", "root", n.cfg.Root, "err", err)
		})
	default:
		n.cfg.Logger.Error("cannot limit a disk directory", "namespace", id.Namespace, "disk", name, "err", err)
	}
	return false
}
