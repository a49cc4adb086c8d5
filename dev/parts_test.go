package dev

import (
	"bytes"
	"log/slog"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"

	"github.com/remora-storage/remora/sidecar/status"
	"github.com/remora-storage/remora/webhook"
	"github.com/remora-storage/remora/webhook/spec"
)

func workload(kind, namespace, name string, replicas int) webhook.Workload {
	return webhook.Workload{Kind: kind, Namespace: namespace, Name: name, Replicas: replicas, Spec: spec.Spec{Volumes: []spec.Volume{{Name: "data"}}}}
}

// places maps titles to nodes, in the order of start.
func places(t *testing.T, nodes int, placed *placement, workloads ...webhook.Workload) (titles []string, node map[string]string) {
	t.Helper()
	groups, err := expand(workloads, nodes, placed, slog.New(slog.DiscardHandler))
	require.NoError(t, err)
	node = map[string]string{}
	for _, g := range groups {
		for _, p := range g.pods {
			titles = append(titles, p.title)
			node[p.title] = p.node
		}
	}
	return titles, node
}

func TestExpand(t *testing.T) {
	titles, node := places(t, 0, &placement{Pods: map[string]string{}},
		workload("StatefulSet", "default", "db", 2), workload("DaemonSet", "default", "agent", 1), workload("Job", "default", "once", 1),
		workload("CronJob", "default", "nightly", 1), workload("Pod", "other", "single", 1), workload("Deployment", "default", "web", 0))
	require.Equal(t, []string{"db-0", "db-1", "once-0", "other.single", "agent-node-0", "agent-node-1", "agent-node-2", "agent-node-3"}, titles)
	require.Equal(t, "node-1", node["db-1"])
	require.Equal(t, "node-3", node["agent-node-3"])

	_, err := expand([]webhook.Workload{workload("Pod", "default", "a.b", 1), workload("Pod", "a", "b", 1)}, 0, &placement{Pods: map[string]string{}}, nil)
	require.ErrorContains(t, err, "two pods are called a.b")
}

func TestVolumesAreUnique(t *testing.T) {
	a, b := workload("Pod", "default", "b-c", 1), workload("Pod", "default", "c", 1)
	a.Spec.Volumes[0].Name, b.Spec.Volumes[0].Name = "a", "a-b"
	_, err := expand([]webhook.Workload{a, b}, 0, &placement{Pods: map[string]string{}}, nil)
	require.ErrorContains(t, err, "pods b-c and c would both have the Volume default/a-b-c")
}

func TestAPodKeepsItsNode(t *testing.T) {
	path := filepath.Join(t.TempDir(), "placement.json")
	placed, err := loadPlacement(path)
	require.NoError(t, err)
	_, before := places(t, 2, placed, workload("StatefulSet", "default", "db", 3))
	require.Equal(t, map[string]string{"db-0": "node-0", "db-1": "node-1", "db-2": "node-0"}, before)
	require.NoError(t, placed.save(path))

	placed, err = loadPlacement(path)
	require.NoError(t, err)
	_, after := places(t, 4, placed, workload("StatefulSet", "default", "a", 1), workload("StatefulSet", "default", "db", 3))
	require.Equal(t, before["db-2"], after["db-2"])
	require.Equal(t, "node-2", after["a-0"])
}

func TestSidecarCommand(t *testing.T) {
	w := workload("StatefulSet", "shop", "db", 1)
	field := func(path string) *corev1.EnvVarSource {
		return &corev1.EnvVarSource{FieldRef: &corev1.ObjectFieldSelector{FieldPath: path}}
	}
	w.Template.Annotations = map[string]string{"a/b": "c"}
	w.Template.Spec.InitContainers = []corev1.Container{{
		Name: webhook.ContainerName,
		Args: []string{"sidecar", "--listen=unix:/remora/run/sidecar.sock", "--disks=/remora/disks", "--x=/remora/diskset", "--me=$(POD_NAME)$$(X)$(Y)"},
		Env: []corev1.EnvVar{
			{Name: "POD_NAME", ValueFrom: field("metadata.name")}, {Name: "UID_", ValueFrom: field("metadata.uid")},
			{Name: "NODE", ValueFrom: field("spec.nodeName")}, {Name: "A", ValueFrom: field("metadata.annotations['a/b']")},
			{Name: "PATHS", Value: "/remora/volumes:/remora/run/x:/etc/remora/run"},
		},
	}}
	p := newPodSpec(w, "db-0")
	p.node = "node-0"
	cmd, err := sidecarCommand(p, "/d", "uid-1", "file:/t")
	require.NoError(t, err)
	require.Equal(t, []string{
		"sidecar", "--listen=unix:/d/run/shop.db-0/sidecar.sock", "--disks=/d/nodes/node-0/shop", "--x=/remora/diskset", "--me=db-0$(X)$(Y)",
	}, cmd.Args)
	require.Equal(t, []string{
		"POD_NAME=db-0", "UID_=uid-1", "NODE=node-0", "A=c", "PATHS=/d/volumes/shop:/d/run/shop.db-0/x:/etc/remora/run", otlpVariable + "=file:/t",
	}, cmd.Env[2:])

	p.template.Spec.InitContainers[0].Env[0].ValueFrom = field("status.phase")
	_, err = sidecarCommand(p, "/d", "uid-1", "")
	require.ErrorContains(t, err, "pod shop.db-0: environment variable POD_NAME: dev does not know the field status.phase")
}

func TestBackoff(t *testing.T) {
	var b backoff
	var pauses []time.Duration
	for range 6 {
		pauses = append(pauses, b.next(history{started: time.Now()}))
	}
	ms := time.Millisecond
	require.Equal(t, []time.Duration{500 * ms, 1000 * ms, 2000 * ms, 4000 * ms, 5000 * ms, 5000 * ms}, pauses)
	require.Zero(t, b.next(history{once: true, started: time.Now().Add(-time.Second)}))
	require.Positive(t, b.next(history{once: true, started: time.Now()}))
	for died, want := range []time.Duration{50 * ms, 50 * ms, 100 * ms, 200 * ms, 400 * ms, 800 * ms, 1000 * ms, 1000 * ms} {
		require.InDelta(t, want, b.next(history{once: true, started: time.Now(), died: died}), float64(40*ms), died)
	}
}

func TestTable(t *testing.T) {
	pid := 42
	var b bytes.Buffer
	require.NoError(t, WriteTable(&b, status.Report{Pods: []status.Pod{
		{Name: "db-0", Node: "node-0", PID: &pid, Volumes: []status.Volume{{
			Name: "data", Volume: "data-db-0", State: status.Mounted, Used: 1536, Size: 20 << 30, Mount: "/d/pods/db-0/data",
			Replicas: []status.Replica{
				{ID: "a", Pod: "db-0", Node: "node-0", Role: status.Voter, State: status.InSync, MatchIndex: 70},
				{ID: "b", Pod: "keeper-node-1", Node: "node-1", Role: status.Leaving, State: status.Offline},
				{ID: "c", Pod: "keeper-node-2", Node: "node-2", Role: status.Learner, State: status.InSync, MatchIndex: 65, Missing: 3 << 20},
			},
		}}, Hosted: []status.Hosted{
			{Volume: "data-db-0", ID: "a", Leader: "a", Term: 3}, {Volume: "data-db-0", ID: "b", Leader: "b", Term: 2}, {Volume: "data-db-0", ID: "c", Term: 4},
		}},
		{Name: "keeper-node-1", Node: "node-1", Volumes: []status.Volume{}},
		// Another tenant: its volume has the same name, and no pod now; another process' word on its leader is none on ours.
		{Name: "other.keeper-node-1", Node: "node-1", Hosted: []status.Hosted{
			{Volume: "data-x-0", ID: "x", Role: status.Voter, State: status.InSync, Applied: 1},
			{Volume: "data-db-0", ID: "d", Role: status.Voter, State: status.Syncing, Leader: "e", Term: 9, Applied: 5, Missing: 4096},
		}},
		{Name: "other.db-1", Node: "node-2", Volumes: []status.Volume{{Name: "data", Volume: "data-db-1", State: status.Mounted, Replicas: []status.Replica{{State: status.InSync}}, Mount: "/m"}},
			Hosted: []status.Hosted{{Volume: "data-db-0", ID: "e", Role: status.Voter, State: status.InSync, Leader: "e", Term: 9, Applied: 6}}},
	}}))
	require.Equal(t, `POD                  NODE    PID  VOLUME           STATE    USED   SIZE  COPIES           MOUNT
db-0                 node-0  42   data-db-0        Mounted  1.5Ki  20Gi  2/3 (1 Offline)  /d/pods/db-0/data
keeper-node-1        node-1  -    -                -        -      -     -                -
other.keeper-node-1  node-1  -    -                -        -      -     -                -
other.db-1           node-2  -    other.data-db-1  Mounted  0      0     1/1              /m

VOLUME           REPLICA  NODE    SERVED BY            ROLE           STATE    INDEX  TO COME
data-db-0        a        node-0  db-0                 voter (leads)  InSync   70     -
data-db-0        b        node-1  keeper-node-1        leaving        Offline  0      -
data-db-0        c        node-2  keeper-node-2        learner        InSync   65     3Mi
other.data-db-0  d        node-1  other.keeper-node-1  voter          Syncing  5      4Ki
other.data-db-0  e        node-2  other.db-1           voter (leads)  InSync   6      -
other.data-x-0   x        node-1  other.keeper-node-1  voter          InSync   1      -
`, b.String())
	b.Reset()
	require.NoError(t, WriteTable(&b, status.Report{Pods: []status.Pod{{Name: "db-0", Volumes: []status.Volume{{
		Name: "data", Volume: "data-db-0", State: status.Mounted, Replicas: []status.Replica{{State: status.Syncing}, {State: status.Offline}, {State: status.Offline}},
	}}, Hosted: []status.Hosted{{Volume: "data-db-0", Term: 7}}}}}))
	require.Contains(t, b.String(), "  0/3 (1 Syncing, 2 Offline), no leader: changes wait  ")
	b.Reset()
	require.NoError(t, WriteTable(&b, status.Report{Pods: []status.Pod{{Name: "db-0", Volumes: []status.Volume{{
		Name: "data", Volume: "data-db-0", State: status.Mounted, Replicas: []status.Replica{
			{ID: "a", Node: "node-0", Role: status.Voter, State: status.InSync}, {ID: "b", Node: "node-1", Role: status.Voter, State: status.InSync, Full: true},
			{ID: "c", Node: "node-2", Role: status.Learner, State: status.InSync, Full: true}},
	}}, Hosted: []status.Hosted{{Volume: "data-db-0", Leader: "a", Term: 7}}}}}))
	require.Contains(t, b.String(), "  3/3, no room on node-1: ENOSPC  ")
	require.Equal(t, []string{"0", "1023", "1Ki", "1Mi", "16Ei"}, []string{
		humanSize(0), humanSize(1023), humanSize(1024), humanSize(1<<20 - 1), humanSize(1<<64 - 1),
	})
}
