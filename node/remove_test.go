package node_test

import (
	"maps"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/remora-storage/remora/api/v1alpha1"
	"github.com/remora-storage/remora/node"
)

// order labels a Volume, as an administrator does.
func (r *rig) order(name, replica string) {
	r.t.Helper()
	o := r.api.volume("default", name)
	if o.Labels == nil {
		o.Labels = map[string]string{}
	}
	o.Labels["remora.dev/delete-replica"] = replica
	r.api.put(volumePath("default", name), o)
}

// ready waits until Volumes have a replica that is served.
func (r *rig) ready(names ...string) {
	r.t.Helper()
	for _, name := range names {
		r.eventually(name+" is ready", func() bool { return r.api.volume("default", name).Status.Phase == v1alpha1.VolumeReady })
	}
}

// TestDeleteReplica: a directory goes by an order that names the replica in it, when nobody uses it, and not before; then no pod gets a new volume
// of that name until somebody deletes the Volume.
func TestDeleteReplica(t *testing.T) {
	r := newRig(t, func(c *node.Config) { c.Orders = 20 * time.Millisecond })
	p := r.api.pod("default", "db-0", "n1", []string{"data", "logs"}, nil)
	r.publishAll(p)
	require.NoError(t, r.publishMount(p, "logs"))
	s := r.sidecar(p, "data", "logs")
	r.ready("data-db-0", "logs-db-0")
	r.api.remove(podPath("default", "db-0")) // by force: its sidecar still runs
	replica := r.api.volume("default", "data-db-0").Status.Members[0].Replica
	logs := r.api.volume("default", "logs-db-0").Status.Members[0].Replica
	disk := filepath.Join(r.cfg.Root, "default/disk-0")
	outside := filepath.Join(r.dir, "outside")
	require.NoError(t, os.Mkdir(outside, 0o755))
	require.NoError(t, os.WriteFile(filepath.Join(outside, "file"), nil, 0o644))
	require.NoError(t, os.Symlink(outside, filepath.Join(disk, "link")), "a tenant writes what it likes")
	why := func(volume string, times int) {
		t.Helper()
		r.eventually("an event that says why not", func() bool { return len(r.api.reasons(volume)) >= times })
		require.DirExists(t, filepath.Join(disk, "replicas", replica))
		require.Equal(t, v1alpha1.VolumeReady, r.api.volume("default", volume).Status.Phase)
	}

	r.order("data-db-0", "0123456789abcdef")
	why("data-db-0", 1) // another replica's ID
	r.order("data-db-0", replica)
	why("data-db-0", 2) // the pod's sidecar has the directory still
	s.end(syscall.SIGTERM)
	r.unpublish(p, "data", "logs", "remora-disks")
	why("data-db-0", 3) // the replica of the other volume is in it
	owner := r.api.pod("default", "db-0", "n2", []string{"data", "logs"}, nil)
	for _, name := range []string{"data-db-0", "logs-db-0"} {
		o := r.api.volume("default", name)
		o.Status.OwnerUID = string(owner.UID)
		r.api.put(volumePath("default", name), o)
	}
	r.order("logs-db-0", logs)
	why("logs-db-0", 1) // its owner lives
	r.api.remove(podPath("default", "db-0"))

	r.eventually("the directory is gone", func() bool {
		_, err := os.Stat(disk)
		return os.IsNotExist(err)
	})
	r.eventually("the orders are done", func() bool {
		return len(r.api.volume("default", "data-db-0").Labels) == len(r.api.volume("default", "logs-db-0").Labels) &&
			!slices.Contains(slices.Collect(maps.Keys(r.api.volume("default", "data-db-0").Labels)), "remora.dev/delete-replica")
	})
	require.FileExists(t, filepath.Join(outside, "file"), "links are not followed")
	require.Equal(t, v1alpha1.VolumeDeleted, r.api.volume("default", "data-db-0").Status.Phase)
	require.Empty(t, r.api.volume("default", "data-db-0").Status.Members)

	next := r.api.pod("default", "db-0", "n1", []string{"data", "logs"}, nil)
	require.ErrorContains(t, r.publishMount(next, "data"), "was deleted by an order")
	r.eventually("the pod's event", func() bool { return slices.Contains(r.api.reasons("db-0"), "VolumeDeleted") })
	r.api.remove(volumePath("default", "data-db-0"))
	r.api.remove(volumePath("default", "logs-db-0"))
	r.publishAll(next)
	require.NoError(t, r.publishMount(next, "logs"))
	s = r.sidecar(next, "data", "logs")
	r.ready("data-db-0", "logs-db-0")
	require.NotEqual(t, replica, r.api.volume("default", "data-db-0").Status.Members[0].Replica)
	s.end(syscall.SIGTERM)
	r.unpublish(next, "data", "logs", "remora-disks")
}

// TestDeleteIsResumed: the plugin dies, or the API server goes away, between the mark and the deletion; the next plugin goes on. A local
// volume's directory goes the same way.
func TestDeleteIsResumed(t *testing.T) {
	r := newRig(t, func(c *node.Config) { c.Orders = 20 * time.Millisecond })
	dir := filepath.Join(r.cfg.Root, "default/local-0")
	require.NoError(t, os.MkdirAll(filepath.Join(dir, "sub"), 0o755))
	var o v1alpha1.VolumeObject
	o.Namespace, o.Name, o.UID = "default", "data-p", "u"
	o.Labels = map[string]string{"remora.dev/delete-replica": "00000000000000aa", "remora.dev/slot": "p"}
	o.Set(v1alpha1.Volume{Generation: 7, Class: "scratch", Size: 1 << 20, Phase: v1alpha1.VolumeDeleted, AssignedNode: "n1", AssignedDisk: "local-0",
		Members: []v1alpha1.Member{{Replica: "00000000000000aa", Node: "n1", Disk: "local-0", Role: v1alpha1.RoleVoter}}})
	other := o
	other.Name, other.Labels = "data-q", map[string]string{"remora.dev/delete-replica": "00000000000000bb"}
	other.Set(v1alpha1.Volume{Class: "scratch", Size: 1 << 20, Phase: v1alpha1.VolumeReady,
		Members: []v1alpha1.Member{{Replica: "00000000000000bb", Node: "n2", Disk: "local-0", Role: v1alpha1.RoleVoter}}})
	r.api.put(volumePath("default", "data-q"), other)
	r.api.put(volumePath("default", "data-p"), o)
	r.eventually("the order is done", func() bool { return r.api.volume("default", "data-p").Labels["remora.dev/delete-replica"] == "" })
	require.NoDirExists(t, dir)
	require.Equal(t, "p", r.api.volume("default", "data-p").Labels["remora.dev/slot"])
	require.NotEmpty(t, r.api.volume("default", "data-q").Labels, "that is another node's")
}
