package node

import (
	"errors"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strconv"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/remora-storage/remora/node/host"
	"github.com/remora-storage/remora/webhook/spec"
)

// diskName is what a disk directory is called; localName one of engine local.
var (
	diskName  = regexp.MustCompile(`^disk-(0|[1-9][0-9]{0,8})$`)
	localName = regexp.MustCompile(`^local-(0|[1-9][0-9]{0,8})$`)
)

// checkDisk refuses a name that somebody wrote into a Volume object and that is no directory of its kind.
func checkDisk(v spec.Volume, name string) error {
	pattern := diskName
	if isLocal(v) {
		pattern = localName
	}
	if !pattern.MatchString(name) {
		return fmt.Errorf("%q is not the name of a disk directory of engine %s", name, v.Engine)
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

// disks are the directories that the Volumes of a slot get that have none here, in their order; "" for one that has.
type disks []string

// chooseDisks is where Volumes of a slot that have no directory here get one: a sidecar's together, with those that have one; each of
// engine local alone. A directory that is there is never taken for a Volume that does not name it: it is somebody's, perhaps of a namespace
// of the same name that is gone.
func (n *node) chooseDisks(namespace string, s *slot, want []spec.Volume) (disks, error) {
	chosen := make(disks, len(want))
	shared := ""
	for i, o := range s.objects {
		if o != nil && nodeOf(o) == n.cfg.Node && !isLocal(want[i]) {
			shared = diskOf(o)
		}
	}
	for i, o := range s.objects {
		if o != nil && nodeOf(o) == n.cfg.Node {
			continue
		}
		if !isLocal(want[i]) && shared != "" {
			chosen[i] = shared
			continue
		}
		name, err := n.freshDir(namespace, isLocal(want[i]))
		if err != nil {
			n.giveBack(namespace, want, chosen)
			return nil, err
		}
		if chosen[i] = name; !isLocal(want[i]) {
			shared = name
		}
	}
	return chosen, nil
}

// freshDir returns a directory that no Volume has ever named.
func (n *node) freshDir(namespace string, local bool) (string, error) {
	key := spareKey{namespace, local}
	n.mu.Lock()
	if spare := n.spare[key]; len(spare) > 0 {
		n.spare[key] = spare[1:]
		n.mu.Unlock()
		return spare[0], nil
	}
	n.mu.Unlock()
	if local {
		return n.newDir(namespace, "local-", 0, 0o777) // as an emptyDir
	}
	return n.newDir(namespace, "disk-", SidecarUID, 0o700)
}

// spareKey is what a spare directory is good for.
type spareKey struct {
	namespace string
	local     bool
}

// assigned says that a Volume names the directory now.
func (n *node) assigned(namespace, name string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	delete(n.made, namespace+"/"+name)
}

// giveBack keeps directories that were made for Volumes, and surely assigned to none, for the next ones.
func (n *node) giveBack(namespace string, want []spec.Volume, chosen disks) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for i, name := range chosen {
		if key := (spareKey{namespace, isLocal(want[i])}); name != "" && !slices.Contains(n.spare[key], name) && n.made[namespace+"/"+name] {
			n.spare[key] = append(n.spare[key], name)
		}
	}
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
		n.mu.Lock()
		n.made[namespace+"/"+name] = true
		n.mu.Unlock()
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
