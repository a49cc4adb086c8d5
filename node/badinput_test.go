package node_test

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	corev1 "k8s.io/api/core/v1"
	registration "k8s.io/kubelet/pkg/apis/pluginregistration/v1"

	"github.com/remora-storage/remora/api/v1alpha1"
	"github.com/remora-storage/remora/node"
)

// TestForgedRequests: what a pod's author, or a kubelet with another configuration, can put into a call.
func TestForgedRequests(t *testing.T) {
	r := newRig(t, nil)
	p := r.api.pod("default", "db-0", "n1", []string{"data"}, nil)
	other := r.api.pod("default", "web", "n1", []string{"data"}, nil)
	mount := map[string]string{"kind": "mount", "volume": "data"}
	base := r.target(p, "data")
	require.NoError(t, os.MkdirAll(filepath.Dir(base), 0o755))
	for _, c := range []struct {
		name string
		do   func(q *csi.NodePublishVolumeRequest)
		code codes.Code
		want string
	}{
		{"no kind", func(q *csi.NodePublishVolumeRequest) { delete(q.VolumeContext, "kind") }, codes.InvalidArgument, "allowed: mount, disks, local"},
		{"unknown attribute", func(q *csi.NodePublishVolumeRequest) { q.VolumeContext["hostPath"] = "/etc" }, codes.InvalidArgument, `unknown attribute "hostPath"`},
		{"another volume's name", func(q *csi.NodePublishVolumeRequest) { q.VolumeContext["volume"] = "logs" }, codes.InvalidArgument, "allowed: the volume's own name"},
		{"a way out", func(q *csi.NodePublishVolumeRequest) { q.VolumeContext["volume"] = "../../x" }, codes.InvalidArgument, "allowed: the volume's own name"},
		{"disks under another name", func(q *csi.NodePublishVolumeRequest) { q.VolumeContext = with(q, "kind", "disks", "volume", "") }, codes.InvalidArgument, "only remora-disks"},
		{"local of a served volume", func(q *csi.NodePublishVolumeRequest) { q.VolumeContext["kind"] = "local" }, codes.PermissionDenied, "not one of engine local"},
		{"not ephemeral", func(q *csi.NodePublishVolumeRequest) { delete(q.VolumeContext, "csi.storage.k8s.io/ephemeral") }, codes.InvalidArgument, "no PersistentVolumes"},
		{"no pod info", func(q *csi.NodePublishVolumeRequest) { delete(q.VolumeContext, "csi.storage.k8s.io/pod.uid") }, codes.InvalidArgument, "podInfoOnMount"},
		{"another pod's UID", func(q *csi.NodePublishVolumeRequest) {
			q.VolumeContext["csi.storage.k8s.io/pod.uid"] = string(other.UID)
		}, codes.InvalidArgument, "is of pod"},
		{"another pod's name", func(q *csi.NodePublishVolumeRequest) { q.VolumeContext["csi.storage.k8s.io/pod.name"] = "web" }, codes.FailedPrecondition, "by now"},
		{"another namespace", func(q *csi.NodePublishVolumeRequest) {
			q.VolumeContext["csi.storage.k8s.io/pod.namespace"] = "kube-system"
		}, codes.FailedPrecondition, "does not exist"},
		{"a path as namespace", func(q *csi.NodePublishVolumeRequest) {
			q.VolumeContext["csi.storage.k8s.io/pod.namespace"] = "../../nodes"
		}, codes.InvalidArgument, "no names"},
		{"target elsewhere", func(q *csi.NodePublishVolumeRequest) { q.TargetPath = "/etc" }, codes.InvalidArgument, "not below the kubelet's directory"},
		{"target with dots", func(q *csi.NodePublishVolumeRequest) {
			q.TargetPath = strings.Replace(base, "/volumes/", "/../"+string(other.UID)+"/volumes/", 1)
		}, codes.InvalidArgument, "is not pods/"},
		{"UID with dots", func(q *csi.NodePublishVolumeRequest) { q.TargetPath = strings.Replace(base, string(p.UID), "..", 1) }, codes.InvalidArgument, "no UID"},
		{"block device", func(q *csi.NodePublishVolumeRequest) {
			q.VolumeCapability.AccessType = &csi.VolumeCapability_Block{Block: &csi.VolumeCapability_BlockVolume{}}
		}, codes.InvalidArgument, "not block devices"},
		{"read-only", func(q *csi.NodePublishVolumeRequest) { q.Readonly = true }, codes.InvalidArgument, "volumeMounts"},
		{"nothing", func(q *csi.NodePublishVolumeRequest) { *q = csi.NodePublishVolumeRequest{} }, codes.InvalidArgument, "target path"}, //nolint:govet // an empty one
	} {
		q := publishRequest(base, p, mount)
		c.do(q)
		_, err := r.driver.NodePublishVolume(t.Context(), q)
		require.Equal(t, c.code, status.Code(err), "%s: %v", c.name, err)
		require.ErrorContains(t, err, c.want, c.name)
	}
	require.Empty(t, r.mounts())
	require.Empty(t, names(t, filepath.Join(r.cfg.KubeletDir, "plugins/remora.dev/pods")))
	_, err := r.driver.NodeUnpublishVolume(t.Context(), &csi.NodeUnpublishVolumeRequest{TargetPath: "/etc"})
	require.Equal(t, codes.InvalidArgument, status.Code(err))
}

// with returns the attributes with other values; "" takes one away.
func with(q *csi.NodePublishVolumeRequest, pairs ...string) map[string]string {
	for i := 0; i < len(pairs); i += 2 {
		if q.VolumeContext[pairs[i]] = pairs[i+1]; pairs[i+1] == "" {
			delete(q.VolumeContext, pairs[i])
		}
	}
	return q.VolumeContext
}

// TestPodsThatGetNothing: what the API server says of a pod decides.
func TestPodsThatGetNothing(t *testing.T) {
	r := newRig(t, nil)
	r.api.put("/api/v1/namespaces/plain", corev1.Namespace{})
	r.api.put("/apis/remora.dev/v1alpha1/volumeclasses/small", v1alpha1.VolumeClass{Spec: v1alpha1.VolumeClassSpec{MaxSize: "512Mi"}})
	remora := func(p *corev1.Pod) *corev1.Container { return &p.Spec.InitContainers[0] }
	for _, c := range []struct {
		name      string
		namespace string
		node      string
		change    func(*corev1.Pod)
		want      string
	}{
		{"other-node", "default", "n2", nil, `is on node "n2", and this is "n1"`},
		{"not-opted-in", "plain", "n1", nil, "kubectl label namespace plain remora.dev/injection=enabled"},
		{"no-sidecar", "default", "n1", func(p *corev1.Pod) { p.Spec.InitContainers = nil }, "has no init container remora"},
		{"stripped", "default", "n1", func(p *corev1.Pod) { remora(p).RestartPolicy = nil }, "has lost its restartPolicy: Always"},
		{"other-mode", "default", "n1", func(p *corev1.Pod) { remora(p).Args[1] = "--mode=dev" }, "not a sidecar in mode node"},
		{"bad-flag", "default", "n1", func(p *corev1.Pod) { remora(p).Args[2] = "--volume=name=data" }, "is missing"},
		{"twice", "default", "n1", func(p *corev1.Pod) { remora(p).Args = append(remora(p).Args, remora(p).Args[2]) }, "twice"},
		{"another", "default", "n1", func(p *corev1.Pod) { remora(p).Args[2] = "--volume=" + flagOf("logs") }, "not one that the pod's sidecar serves"},
		{"too-large", "default", "n1", func(p *corev1.Pod) {
			remora(p).Args[2] = "--volume=name=data,size=1073741824,class=small,replicas=1,sealing=on,trace=off"
		}, "outside the bounds of class small"},
		{"other-class", "default", "n1", func(p *corev1.Pod) {
			remora(p).Args[2] = "--volume=name=data,size=1073741824,class=gold,replicas=1,sealing=on,trace=off"
		}, `no VolumeClass "gold"`},
		{"unsealed", "default", "n1", func(p *corev1.Pod) {
			remora(p).Args[2] = "--volume=name=data,size=1073741824,class=default,replicas=1,sealing=off,trace=off"
		}, "is not what class default says"},
	} {
		p := r.api.pod(c.namespace, c.name, c.node, []string{"data"}, c.change)
		require.ErrorContains(t, r.publishMount(p, "data"), c.want, c.name)
	}
	r.eventually("events tell the pods' owners", func() bool {
		return contains(r.api.reasons("no-sidecar"), "NotInjected") && contains(r.api.reasons("not-opted-in"), "NotOptedIn")
	})
	require.Empty(t, r.mounts())
	require.LessOrEqual(t, len(names(t, r.cfg.Root)), 1)
}

// TestLinksAreNotFollowed: whatever somebody managed to put there, nothing is mounted, made or removed behind it.
func TestLinksAreNotFollowed(t *testing.T) {
	r := newRig(t, nil)
	trap := filepath.Join(r.dir, "trap")
	require.NoError(t, os.MkdirAll(filepath.Join(trap, "mount"), 0o755))
	require.NoError(t, os.WriteFile(filepath.Join(trap, "mount", "precious"), nil, 0o600))

	p := r.api.pod("default", "db-0", "n1", []string{"data"}, nil)
	parent := filepath.Dir(r.target(p, "data"))
	require.NoError(t, os.MkdirAll(filepath.Dir(parent), 0o755))
	require.NoError(t, os.Symlink(trap, parent))
	_, err := r.driver.NodePublishVolume(t.Context(), publishRequest(r.target(p, "data"), p, map[string]string{"kind": "mount", "volume": "data"}))
	require.ErrorContains(t, err, "not a directory")
	_, err = r.driver.NodeUnpublishVolume(t.Context(), &csi.NodeUnpublishVolumeRequest{TargetPath: r.target(p, "data")})
	require.ErrorContains(t, err, "not a directory")
	require.NoError(t, os.Remove(parent))

	require.NoError(t, os.MkdirAll(parent, 0o755))
	require.NoError(t, os.Symlink(filepath.Join(trap, "mount"), r.target(p, "data")))
	require.ErrorContains(t, r.publishMount(p, "data"), "not a directory")
	require.NoError(t, os.Remove(r.target(p, "data")))

	require.NoError(t, r.publishMount(p, "data"))
	disk := filepath.Join(r.cfg.Root, "default", "disk-0")
	require.NoError(t, os.Remove(disk))
	require.NoError(t, os.Symlink(trap, disk))
	require.ErrorContains(t, r.publishDisks(p), "not a directory")
	require.Equal(t, []string{"fuse.remora " + strings.TrimPrefix(r.target(p, "data"), r.cfg.KubeletDir)}, r.mounts())
	require.Equal(t, []string{"mount"}, names(t, trap))
	require.Equal(t, []string{"precious"}, names(t, filepath.Join(trap, "mount")))
}

// TestTargets: missing, busy, and with a mount on it of which nobody knows.
func TestTargets(t *testing.T) {
	r := newRig(t, nil)
	p := r.api.pod("default", "db-0", "n1", []string{"data"}, nil)
	r.unpublish(p, "data") // never published: nothing to do

	require.NoError(t, os.MkdirAll(r.target(p, "data"), 0o755))
	require.NoError(t, unix.Mount("stale", r.target(p, "data"), "tmpfs", 0, ""))
	require.NoError(t, r.publishMount(p, "data"))
	require.Len(t, r.mounts(), 1, "what was left is cleared away")
	require.NoError(t, r.publishDisks(p))
	r.sidecar(p)
	file := filepath.Join(r.target(p, "data"), "file")
	writer := r.program(file) // has it open: unpublish is never busy
	r.unpublish(p, "data", "remora-disks")
	require.Error(t, writer.wait())
	require.Empty(t, r.mounts())

	r.publishAll(p)
	r.plugin.kill() // the state file is lost as well: the kubelet's calls are enough
	require.NoError(t, os.RemoveAll(filepath.Join(r.cfg.KubeletDir, "plugins/remora.dev/state")))
	r.start()
	r.unpublish(p, "data", "remora-disks")
	require.Empty(t, r.mounts())
}

// TestConfiguration: what an administrator can get wrong.
func TestConfiguration(t *testing.T) {
	err := node.Run(t.Context(), node.Config{KubeletDir: "kubelet", Root: "/a/../b", HangBudget: -1})
	for _, want := range []string{"--node", `--kubelet-dir "kubelet"`, `--root "/a/../b"`, "--hang-budget"} {
		require.ErrorContains(t, err, want)
	}
}

// TestRegistration is the kubelet's way to the driver.
func TestRegistration(t *testing.T) {
	r := newRig(t, nil)
	info, c := r.register()
	require.Equal(t, node.Driver, info.Name)
	require.Equal(t, registration.CSIPlugin, info.Type)
	require.Equal(t, filepath.Join(r.cfg.KubeletDir, "plugins/remora.dev/csi.sock"), info.Endpoint)
	id, err := r.driver.NodeGetInfo(t.Context(), &csi.NodeGetInfoRequest{})
	require.NoError(t, err)
	require.Equal(t, "n1", id.NodeId)
	_, err = c.NotifyRegistrationStatus(t.Context(), &registration.RegistrationStatus{PluginRegistered: true})
	require.NoError(t, err)
	_, err = c.NotifyRegistrationStatus(t.Context(), &registration.RegistrationStatus{Error: "no"})
	require.NoError(t, err)
	require.Error(t, r.plugin.wait(), "a plugin that is not taken ends, so that the kubelet sees a new socket")
}

// call asks a pod's socket as a tenant in the sidecar's container can.
func (r *rig) call(p *corev1.Pod, request any, answer any) error {
	ctx, cancel := context.WithTimeout(r.t.Context(), patience)
	defer cancel()
	return holderCall(ctx, r.socket(p), request, answer)
}
