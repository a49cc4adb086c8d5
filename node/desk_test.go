package node_test

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"

	"github.com/remora-storage/remora/api/v1alpha1"
	"github.com/remora-storage/remora/sidecar/authority"
	"github.com/remora-storage/remora/sidecar/session/holder"
)

func holderCall(ctx context.Context, socket string, request, answer any) error {
	return holder.Call(ctx, socket, request, answer)
}

// TestDesk: whoever runs commands in a sidecar's container can ask its socket anything, and gets its own pod's volumes only.
func TestDesk(t *testing.T) {
	r := newRig(t, nil)
	p := r.api.pod("default", "db-0", "n1", []string{"data"}, nil)
	victim := r.api.pod("default", "db-1", "n1", []string{"data"}, nil)
	r.publishAll(p)
	r.publishAll(victim)
	desk := authority.Node{Socket: r.socket(p)}
	ctx := t.Context()

	got, err := desk.Names(ctx)
	require.NoError(t, err)
	require.Equal(t, map[string]string{"data": "data-db-0"}, got)
	v, err := desk.Get(ctx, "data-db-0")
	require.NoError(t, err)
	for _, name := range []string{"data-db-1", "../default/data-db-1", "", "data-db-0/../data-db-1"} {
		_, err = desk.Get(ctx, name)
		require.ErrorIs(t, err, authority.ErrRefused, name)
		_, err = desk.Key(ctx, name)
		require.ErrorIs(t, err, authority.ErrRefused, name)
		other := v
		other.Name = name
		_, err = desk.Update(ctx, other)
		require.ErrorIs(t, err, authority.ErrRefused, name)
	}

	member := []v1alpha1.Member{{Replica: "00000000000000ab", Node: "n1", Disk: v.AssignedDisk, Role: v1alpha1.RoleVoter}}
	born := func(change func(*v1alpha1.Volume)) v1alpha1.Volume {
		n := v.Clone()
		n.Members, n.Phase = append([]v1alpha1.Member(nil), member...), v1alpha1.VolumeBootstrapping
		change(&n)
		return n
	}
	for what, now := range map[string]v1alpha1.Volume{
		"another pod's directory":  born(func(n *v1alpha1.Volume) { n.Members[0].Disk = "disk-1" }),
		"a way out":                born(func(n *v1alpha1.Volume) { n.Members[0].Disk = "../kube-system/disk-0" }),
		"another node":             born(func(n *v1alpha1.Volume) { n.Members[0].Node = "n2" }),
		"two members":              born(func(n *v1alpha1.Volume) { n.Members = append(n.Members, n.Members[0]) }),
		"no replica's name":        born(func(n *v1alpha1.Volume) { n.Members[0].Replica = "x" }),
		"another UID":              born(func(n *v1alpha1.Volume) { n.UID = "x" }),
		"another class":            born(func(n *v1alpha1.Volume) { n.Class = "gold" }),
		"another owner":            born(func(n *v1alpha1.Volume) { n.OwnerUID = string(victim.UID) }),
		"another directory to be":  born(func(n *v1alpha1.Volume) { n.AssignedDisk = "disk-1" }),
		"larger than was admitted": born(func(n *v1alpha1.Volume) { n.Size = 1 << 40 }),
		"smaller":                  born(func(n *v1alpha1.Volume) { n.Size = 1 << 20 }),
		"an epoch far away":        born(func(n *v1alpha1.Volume) { n.Epoch = 100 }),
		"ready at once":            born(func(n *v1alpha1.Volume) { n.Phase = v1alpha1.VolumeReady }),
		"more copies":              born(func(n *v1alpha1.Volume) { n.Replicas = 3 }),
	} {
		_, err = desk.Update(ctx, now)
		require.ErrorIs(t, err, authority.ErrRefused, what)
	}
	key, err := desk.Key(ctx, "data-db-0")
	require.NoError(t, err)
	again, err := desk.Key(ctx, "data-db-0")
	require.NoError(t, err)
	require.Equal(t, key, again)

	now, err := desk.Update(ctx, born(func(n *v1alpha1.Volume) { n.KeyID = "abc" }))
	require.NoError(t, err)
	_, err = desk.Update(ctx, born(func(*v1alpha1.Volume) {}))
	require.ErrorIs(t, err, authority.ErrConflict, "a compare-and-swap")
	now.Members[0].Disk = "disk-1"
	_, err = desk.Update(ctx, now)
	require.ErrorIs(t, err, authority.ErrRefused, "members stay")
	r.api.remove("/api/v1/namespaces/remora-system/secrets/volume-" + v.UID)
	_, err = desk.Key(ctx, "data-db-0")
	require.ErrorContains(t, err, "put the Secret back", "a volume that has a key never gets another")

	require.ErrorContains(t, r.call(p, map[string]any{"op": "attach", "volume": "logs"}, &struct{}{}), `unknown volume "logs"`)
	require.ErrorContains(t, r.call(p, map[string]any{"op": "format"}, &struct{}{}), `unknown op "format"`)

	// The owner's place is taken: the old pod's socket is of no use any more.
	o := r.api.volume("default", "data-db-0")
	o.Status.OwnerUID, o.Status.OwnerPod = "another", "db-0"
	r.api.put(volumePath("default", "data-db-0"), o)
	_, err = desk.Get(ctx, "data-db-0")
	require.ErrorContains(t, err, "belongs to pod db-0 (another) by now")
}

// TestOffersOfAStranger: what a sidecar brings instead of its descriptor.
func TestOffersOfAStranger(t *testing.T) {
	r := newRig(t, nil)
	p := r.api.pod("default", "db-0", "n1", []string{"data"}, nil)
	r.publishAll(p)
	s := r.sidecar(p)
	writer := r.program(filepath.Join(r.target(p, "data"), "file"))
	require.NoError(t, s.Process.Signal(unix.SIGSTOP))
	r.plugin.kill()
	r.start()
	null, err := os.Open("/dev/null")
	require.NoError(t, err)
	defer null.Close()
	offer := `{"op":"offer","volume":"data","session":"1","init":"AA==","reply":"AA=="}` + "\n"
	require.Contains(t, r.send(p, offer, int(null.Fd())), "not of /dev/fuse")
	require.Contains(t, r.send(p, offer, -1), "comes with a descriptor")
	require.Contains(t, r.send(p, strings.Replace(offer, `"session":"1"`, `"session":"x"`, 1), int(null.Fd())), "is not a number")
	require.Contains(t, r.send(p, strings.Replace(offer, "data", "logs", 1), int(null.Fd())), "unknown volume")
	stays, err := holder.Dial(t.Context(), r.socket(p)) // refused, and still there: it must not be in the way
	require.NoError(t, err)
	defer stays.Close()
	_, _, err = stays.WriteMsgUnix([]byte(offer), unix.UnixRights(int(null.Fd())), nil)
	require.NoError(t, err)
	_, err = stays.Read(make([]byte, 1))
	require.NoError(t, err)
	require.NoError(t, s.Process.Signal(unix.SIGCONT))
	r.serves(p, 1)
	writer.progress()
	writer.finish()
}

// send sends a line and a descriptor to a pod's socket and returns the answer.
func (r *rig) send(p *corev1.Pod, line string, fd int) string {
	r.t.Helper()
	conn, err := holder.Dial(r.t.Context(), r.socket(p))
	require.NoError(r.t, err)
	defer conn.Close()
	var rights []byte
	if fd >= 0 {
		rights = unix.UnixRights(fd)
	}
	_, _, err = conn.WriteMsgUnix([]byte(line), rights, nil)
	require.NoError(r.t, err)
	b := make([]byte, 4096)
	n, err := conn.Read(b)
	require.NoError(r.t, err)
	return string(b[:n])
}

// TestWhatAPodSees: its own directories and socket, nothing of others, and nothing to write but its own directory.
func TestWhatAPodSees(t *testing.T) {
	r := newRig(t, nil)
	p := r.api.pod("default", "db-0", "n1", []string{"data"}, nil)
	other := r.api.pod("default", "db-1", "n1", []string{"data"}, nil)
	r.publishAll(p)
	r.publishAll(other)
	disks := r.target(other, "remora-disks")
	require.ElementsMatch(t, []string{"run", "disk-1"}, names(t, disks))
	require.Equal(t, []string{"node.sock"}, names(t, filepath.Join(disks, "run")))
	require.ErrorIs(t, os.Mkdir(filepath.Join(disks, "x"), 0o700), unix.EROFS)
	require.ErrorIs(t, os.WriteFile(filepath.Join(disks, "run", "x"), nil, 0o600), unix.EROFS)
	require.ErrorIs(t, os.Remove(filepath.Join(disks, "run", "node.sock")), unix.EROFS)
	var st unix.Stat_t
	require.NoError(t, unix.Stat(filepath.Join(disks, "disk-1"), &st))
	require.Equal(t, [3]uint32{65534, 65534, unix.S_IFDIR | 0o700}, [3]uint32{st.Uid, st.Gid, st.Mode})
	require.NoError(t, unix.Stat(filepath.Join(disks, "run", "node.sock"), &st))
	require.Equal(t, [2]uint32{65534, unix.S_IFSOCK | 0o600}, [2]uint32{st.Uid, st.Mode})
}
