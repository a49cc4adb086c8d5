package node_test

import (
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/remora-storage/remora/api/v1alpha1"
)

// own makes a pod that a controller has made.
func own(apiVersion, kind, name string) func(*corev1.Pod) {
	yes := true
	return func(p *corev1.Pod) {
		p.OwnerReferences = []metav1.OwnerReference{{APIVersion: apiVersion, Kind: kind, Name: name, Controller: &yes}}
		p.Labels = map[string]string{"pod-template-hash": "5d8f"}
	}
}

func (a *fakeAPI) deployment(name string, replicas int32) {
	yes := true
	a.put("/apis/apps/v1/namespaces/default/deployments/"+name, appsv1.Deployment{Spec: appsv1.DeploymentSpec{Replicas: &replicas}})
	a.put("/apis/apps/v1/namespaces/default/replicasets/"+name+"-5d8f", appsv1.ReplicaSet{ObjectMeta: metav1.ObjectMeta{
		OwnerReferences: []metav1.OwnerReference{{APIVersion: "apps/v1", Kind: "Deployment", Name: name, Controller: &yes}}}})
}

// TestSlots: a Deployment's pods take over the volumes of those that are gone, and never get a new one while one is taken or elsewhere.
func TestSlots(t *testing.T) {
	r := newRig(t, nil)
	r.api.deployment("web", 2)
	rs := own("apps/v1", "ReplicaSet", "web-5d8f")
	first := r.api.pod("default", "web-5d8f-aaaaa", "n1", []string{"data"}, rs)
	second := r.api.pod("default", "web-5d8f-bbbbb", "n1", []string{"data"}, rs)
	surge := r.api.pod("default", "web-5d8f-ccccc", "n1", []string{"data"}, rs)
	require.NoError(t, r.publishMount(first, "data"))
	require.NoError(t, r.publishMount(second, "data"))
	require.ErrorContains(t, r.publishMount(surge, "data"), "strategy Recreate")
	require.Equal(t, first.Name, r.api.volume("default", "data-web-0").Status.OwnerPod)
	require.Equal(t, second.Name, r.api.volume("default", "data-web-1").Status.OwnerPod)
	r.eventually("an event says so", func() bool { return contains(r.api.reasons(surge.Name), "VolumeBusy") })

	second.Status.Phase = corev1.PodFailed // its containers have ended for good
	r.api.put(podPath("default", second.Name), second)
	require.NoError(t, r.publishMount(surge, "data"))
	require.Equal(t, surge.Name, r.api.volume("default", "data-web-1").Status.OwnerPod)

	// A replica that is elsewhere is waited for, also where a slot has no Volume yet.
	r.api.deployment("web", 3)
	o := r.api.volume("default", "data-web-0")
	o.Status.Members = []v1alpha1.Member{{Replica: "00000000000000ab", Node: "n2", Disk: "disk-0", Role: "voter"}}
	r.api.put(volumePath("default", "data-web-0"), o)
	r.api.remove(podPath("default", first.Name))
	next := r.api.pod("default", "web-5d8f-ddddd", "n1", []string{"data"}, rs)
	require.ErrorContains(t, r.publishMount(next, "data"), "the only replica of Volume data-web-0 is on node n2, and this is n1")
	r.eventually("an event says so", func() bool { return contains(r.api.reasons(next.Name), "VolumeElsewhere") })
	require.False(t, r.api.get(volumePath("default", "data-web-2"), &v1alpha1.VolumeObject{}))
}

// TestNamesOfVolumes by what made the pod.
func TestNamesOfVolumes(t *testing.T) {
	r := newRig(t, nil)
	two, yes := int32(2), true
	r.api.put("/apis/batch/v1/namespaces/default/jobs/import", batchv1.Job{Spec: batchv1.JobSpec{Parallelism: &two}})
	r.api.put("/apis/batch/v1/namespaces/default/jobs/nightly-123", batchv1.Job{ObjectMeta: metav1.ObjectMeta{
		OwnerReferences: []metav1.OwnerReference{{APIVersion: "batch/v1", Kind: "CronJob", Name: "nightly", Controller: &yes}}}})
	indexed := own("batch/v1", "Job", "import")
	for _, c := range []struct {
		pod    string
		change func(*corev1.Pod)
		volume string
	}{
		{"bare", nil, "data-bare"},
		{"db-0", own("apps/v1", "StatefulSet", "db"), "data-db-0"},
		{"agent-x7k2p", own("apps/v1", "DaemonSet", "agent"), "data-agent-n1"},
		{"import-x7k2p", own("batch/v1", "Job", "import"), "data-import-0"},
		{"import-1-x7k2p", func(p *corev1.Pod) {
			indexed(p)
			p.Annotations = map[string]string{"batch.kubernetes.io/job-completion-index": "1"}
		}, "data-import-1"},
		{"nightly-123-x7k2p", own("batch/v1", "Job", "nightly-123"), "data-nightly-0"},
		{"cluster-1", own("postgresql.example/v1", "Cluster", "cluster"), "data-cluster-1"},
	} {
		p := r.api.pod("default", c.pod, "n1", []string{"data"}, c.change)
		require.NoError(t, r.publishMount(p, "data"), c.pod)
		require.Equal(t, c.pod, r.api.volume("default", c.volume).Status.OwnerPod)
	}
}

// TestVolumeElsewhere: a pod that lands on a node without its volume's replica waits, and never gets an empty one.
func TestVolumeElsewhere(t *testing.T) {
	r := newRig(t, nil)
	p := r.api.pod("default", "db-0", "n1", []string{"data"}, nil)
	require.NoError(t, r.publishMount(p, "data"))
	r.unpublish(p, "data")
	o := r.api.volume("default", "data-db-0")
	o.Status.AssignedNode = "n2" // chosen, and nothing kept there yet: it may still be made here
	r.api.put(volumePath("default", "data-db-0"), o)
	require.NoError(t, r.publishMount(p, "data"))
	require.Equal(t, "n1", r.api.volume("default", "data-db-0").Status.AssignedNode)
	r.unpublish(p, "data")

	o = r.api.volume("default", "data-db-0")
	o.Status.Members = []v1alpha1.Member{{Replica: "00000000000000ab", Node: "n2", Disk: "disk-0", Role: "voter"}}
	r.api.put(volumePath("default", "data-db-0"), o)
	require.ErrorContains(t, r.publishMount(p, "data"), "is on node n2")
	require.Empty(t, r.mounts())

	o = r.api.volume("default", "data-db-0")
	o.Status.Members[0].Node, o.Status.Members[0].Disk = "n1", "disk-7"
	r.api.put(volumePath("default", "data-db-0"), o)
	require.ErrorContains(t, r.publishDisks(p), "an empty directory never takes its place")
	require.NoDirExists(t, filepath.Join(r.cfg.Root, "default/disk-7"))

	o = r.api.volume("default", "data-db-0")
	o.Status.Members[0].Disk = "../../etc" // by an administrator: pods cannot
	r.api.put(volumePath("default", "data-db-0"), o)
	other := r.api.pod("default", "db-0", "n1", []string{"data"}, nil)
	require.ErrorContains(t, r.publishDisks(other), "not the name of a disk directory")
}

// TestForceDeleted: a pod that was deleted by force still runs, and another of its name starts. The old one's mount ends, and the new one has
// everything that it had written.
func TestForceDeleted(t *testing.T) {
	r := newRig(t, nil)
	p := r.api.pod("default", "db-0", "n1", []string{"data"}, nil)
	r.publishAll(p)
	s := r.sidecar(p)
	writer := r.program(filepath.Join(r.target(p, "data"), "file"))
	next := r.api.pod("default", "db-0", "n1", []string{"data"}, nil)
	r.publishAll(next)
	require.Error(t, writer.wait())
	_ = s.wait() // its mount is gone
	r.eventually("an event says so", func() bool { return contains(r.api.reasons("db-0"), "VolumeFenced") })
	r.sidecar(next)
	b, err := r.read(filepath.Join(r.target(next, "data"), "file"))
	require.NoError(t, err)
	require.Contains(t, string(b), "line 9\n")
	require.Error(t, r.sidecar(p).wait(), "the old one does not come back")
	r.unpublish(p, "data", "remora-disks")
	r.program(filepath.Join(r.target(next, "data"), "file2")).finish()
}

// TestTwoVolumesOfAPod share a disk directory; another pod has one of its own.
func TestTwoVolumesOfAPod(t *testing.T) {
	r := newRig(t, nil)
	p := r.api.pod("default", "db-0", "n1", []string{"data", "logs"}, nil)
	require.NoError(t, r.publishMount(p, "data"))
	require.NoError(t, r.publishMount(p, "logs"))
	require.NoError(t, r.publishDisks(p))
	require.ElementsMatch(t, []string{"run", "disk-0"}, names(t, r.target(p, "remora-disks")))
	s := r.sidecar(p, "data", "logs")
	a := r.program(filepath.Join(r.target(p, "data"), "file"))
	b := r.program(filepath.Join(r.target(p, "logs"), "file"))
	s.kill()
	r.sidecar(p, "data", "logs")
	a.progress()
	b.progress()
	a.finish()
	b.finish()
	r.unpublish(p, "logs")
	r.program(filepath.Join(r.target(p, "data"), "file2")).finish() // the other one is served on
}

// TestManyPods start at once; each gets its own.
func TestManyPods(t *testing.T) {
	r := newRig(t, nil)
	var all sync.WaitGroup
	const count = 20
	pods := make([]*corev1.Pod, count)
	for i := range pods {
		pods[i] = r.api.pod("default", "p-"+string(rune('a'+i)), "n1", []string{"data"}, nil)
		for _, v := range []string{"data", "remora-disks"} {
			require.NoError(t, os.MkdirAll(filepath.Dir(r.target(pods[i], v)), 0o755))
		}
	}
	errs := make([]error, 2*count)
	for i, p := range pods {
		all.Go(func() { errs[2*i] = r.publishMount(p, "data") })
		all.Go(func() { errs[2*i+1] = r.publishDisks(p) })
	}
	all.Wait()
	seen := map[string]bool{}
	for i, p := range pods {
		require.NoError(t, errs[2*i])
		require.NoError(t, errs[2*i+1])
		seen[r.api.volume("default", "data-"+p.Name).Status.AssignedDisk] = true
	}
	require.Len(t, seen, count)
	require.EqualValues(t, count, r.metric("remora_node_mounts"))
}

// TestConflicts: somebody else changes Volumes at the same time, and the API server refuses for a while.
func TestConflicts(t *testing.T) {
	r := newRig(t, nil)
	p := r.api.pod("default", "db-0", "n1", []string{"data"}, nil)
	left := 3
	r.api.failing(func(method, path string) int {
		if method == http.MethodPost && strings.Contains(path, "/volumes") && left > 0 {
			left--
			return http.StatusConflict
		}
		return 0
	})
	require.NoError(t, r.publishMount(p, "data"))
	require.Equal(t, "disk-0", r.api.volume("default", "data-db-0").Status.AssignedDisk, "a directory that nobody names is used again")
	r.api.failing(func(string, string) int { return http.StatusForbidden })
	other := r.api.pod("default", "db-1", "n1", []string{"data"}, nil)
	require.ErrorContains(t, r.publishMount(other, "data"), "403")
	r.api.failing(nil)
	require.NoError(t, r.publishMount(other, "data"))
	require.Equal(t, []string{"disk-0", "disk-1"}, names(t, filepath.Join(r.cfg.Root, "default")))
}

// TestEngineLocal: a directory of the node's disk, which outlives the pod and is never exchanged for an empty one.
func TestEngineLocal(t *testing.T) {
	r := newRig(t, nil)
	r.api.put("/apis/remora.dev/v1alpha1/volumeclasses/scratch", v1alpha1.VolumeClass{Spec: v1alpha1.VolumeClassSpec{Engine: v1alpha1.EngineLocal, MaxSize: "2Gi"}})
	make := func(name, class, size string) (*corev1.Pod, error) {
		attributes := map[string]string{"kind": "local", "volume": "data", "class": class, "size": size}
		p := r.api.pod("default", name, "n1", nil, func(p *corev1.Pod) {
			p.Spec.InitContainers = nil
			p.Spec.Volumes = []corev1.Volume{{Name: "data", VolumeSource: corev1.VolumeSource{CSI: &corev1.CSIVolumeSource{Driver: "remora.dev", VolumeAttributes: attributes}}}}
		})
		return p, r.publish(p, "data", attributes)
	}
	_, err := make("greedy", "scratch", "1099511627776")
	require.ErrorContains(t, err, "outside the bounds of class scratch")
	_, err = make("wrong", "default", "1073741824")
	require.ErrorContains(t, err, "class default has engine replicated")
	_, err = make("odd", "scratch", "1Gi")
	require.ErrorContains(t, err, `size "1Gi"`)

	p, err := make("p", "scratch", "1073741824")
	require.NoError(t, err)
	file := filepath.Join(r.target(p, "data"), "file")
	require.NoError(t, os.WriteFile(file, []byte("x"), 0o600))
	r.plugin.kill()
	r.start()
	require.NoError(t, r.publish(p, "data", map[string]string{"kind": "local", "volume": "data", "class": "scratch", "size": "1073741824"}))
	require.Len(t, r.mounts(), 1)
	r.unpublish(p, "data")
	require.Empty(t, r.mounts())
	r.api.remove(podPath("default", "p"))
	p, err = make("p", "scratch", "1073741824")
	require.NoError(t, err)
	_, err = os.Stat(filepath.Join(r.target(p, "data"), "file"))
	require.NoError(t, err)
	var st unix.Stat_t
	require.NoError(t, unix.Stat(r.target(p, "data"), &st))
	require.EqualValues(t, unix.S_IFDIR|0o777, st.Mode, "as an emptyDir's")
	r.unpublish(p, "data")
	require.NoError(t, os.RemoveAll(filepath.Join(r.cfg.Root, "default")))
	require.ErrorContains(t, r.publish(p, "data", map[string]string{"kind": "local", "volume": "data", "class": "scratch", "size": "1073741824"}),
		"an empty directory never takes its place")
}
