package node_test

import (
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/remora-storage/remora/api/v1alpha1"
)

// TestLifeOfAPodsVolume: publish, serve, kill the sidecar under a program that writes, serve on, unpublish; and the content is there for the
// next pod of that name.
func TestLifeOfAPodsVolume(t *testing.T) {
	r := newRig(t, nil)
	p := r.api.pod("default", "db-0", "n1", []string{"data"}, nil)
	r.publishAll(p)
	r.publishAll(p) // once more is the same
	require.ElementsMatch(t, []string{"run", "disk-0"}, names(t, r.target(p, "remora-disks")))

	s := r.sidecar(p)
	file := filepath.Join(r.target(p, "data"), "file")
	writer := r.program(file)
	for epoch := range 3 {
		s.kill()
		s = r.sidecar(p)
		r.serves(p, epoch+2)
		writer.progress()
	}
	writer.finish()
	o := r.api.volume("default", "data-db-0")
	require.Equal(t, v1alpha1.VolumeReady, o.Status.Phase)
	require.EqualValues(t, 4, o.Status.Epoch)
	require.Equal(t, []v1alpha1.Member{{Replica: o.Status.Members[0].Replica, Node: "n1", Disk: "disk-0", Role: "voter"}}, o.Status.Members)
	require.NotEmpty(t, o.Status.KeyID, "it is sealed, with a key of the plugin's")

	s.end(syscall.SIGTERM)
	r.unpublish(p, "data", "remora-disks")
	r.unpublish(p, "data", "remora-disks") // once more is the same
	require.Empty(t, r.mounts())
	require.Empty(t, names(t, filepath.Join(r.cfg.KubeletDir, "plugins/remora.dev/pods")))
	require.Empty(t, names(t, filepath.Join(r.cfg.KubeletDir, "plugins/remora.dev/state")))
	require.DirExists(t, filepath.Join(r.cfg.Root, "default/disk-0/replicas"), "directories outlive pods")

	r.api.remove(podPath("default", "db-0"))
	next := r.api.pod("default", "db-0", "n1", []string{"data"}, nil)
	r.publishAll(next)
	r.sidecar(next)
	b, err := r.read(filepath.Join(r.target(next, "data"), "file"))
	require.NoError(t, err)
	require.Contains(t, string(b), "line 0\n")
	require.Equal(t, string(next.UID), r.api.volume("default", "data-db-0").Status.OwnerUID)
}

func names(t *testing.T, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	require.NoError(t, err)
	var all []string
	for _, e := range entries {
		all = append(all, e.Name())
	}
	return all
}
