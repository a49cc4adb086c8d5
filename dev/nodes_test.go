package dev

import (
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/remora-storage/remora/api/v1alpha1"
	"github.com/remora-storage/remora/sidecar/authority"
	"github.com/remora-storage/remora/sidecar/identity"
	"github.com/remora-storage/remora/webhook"
)

func replicated(name, namespace string, replicas int) string {
	return strings.Replace(set(name, namespace, replicas), "class: default", "class: replicated", 1)
}

func (r *running) object(namespace, name string) v1alpha1.Volume {
	r.t.Helper()
	o, err := authority.Files{Dir: filepath.Join(r.dir, "volumes", namespace)}.Get(r.t.Context(), name)
	require.NoError(r.t, err)
	return o
}

// processes waits until these pods and keepers run, and no others.
func (r *running) processes(want ...string) {
	r.t.Helper()
	r.eventually("processes "+strings.Join(want, " "), func() bool {
		var running []string
		report, err := Status(r.t.Context(), r.dir)
		if err != nil {
			return false // it is just starting
		}
		for _, p := range report.Pods {
			if p.PID != nil {
				running = append(running, p.Name+"@"+p.Node)
			}
		}
		return strings.Join(running, " ") == strings.Join(want, " ")
	})
}

func TestKeepersRunWhereNoPodDoes(t *testing.T) {
	t.Parallel()
	r := start(t, t.TempDir(), replicated("db", "default", 1)+"---"+replicated("db", "other", 1))
	r.waitReady()
	r.processes("db-0@node-0", "other.db-0@node-1", "keeper-node-1@node-1", "keeper-node-2@node-2", "other.keeper-node-0@node-0", "other.keeper-node-2@node-2")
	o := r.object("default", "data-db-0")
	require.Equal(t, []string{"node-0", "node-1", "node-2"}, o.Nodes)
	require.Equal(t, "node-0", o.OwnerNode)
	require.Equal(t, 3, o.Replicas)
	require.Equal(t, []string{"node-1", "node-2", "node-0"}, r.object("other", "data-db-0").Nodes, "its pod's node comes first")
	files, err := identity.Open(identity.FilesConfig{Dir: filepath.Join(r.dir, "run", "other.keeper-node-2", "identity"), Logger: slog.New(slog.DiscardHandler)})
	require.NoError(t, err)
	require.Equal(t, identity.Identity{Tenant: "other", Pod: "keeper-node-2", Volumes: []string{"data-db-0"}}, files.Identity())

	// A keeper that dies is replaced.
	pid := *r.pod("keeper-node-1").PID
	require.NoError(t, syscall.Kill(pid, syscall.SIGKILL))
	r.eventually("another keeper", func() bool { p := r.pod("keeper-node-1"); return p.PID != nil && *p.PID != pid })
	require.NoError(t, RestartPod(t.Context(), r.dir, "keeper-node-1"))
}

func TestAKeeperMakesWayForAPod(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	release := hold(t, dir, "node-0", "hold")
	r := start(t, dir, replicated("db", "default", 2))
	r.processes("db-0@node-0", "keeper-node-1@node-1", "keeper-node-2@node-2")
	release()
	r.waitReady()
	r.processes("db-0@node-0", "db-1@node-1", "keeper-node-2@node-2")
	require.Contains(t, r.out.String(), "making way for a pod")
	r.stop()

	// Scaled to zero: keepers serve what is there, and the pod's return takes its place again.
	r = start(t, dir, replicated("db", "default", 0))
	r.waitReady()
	r.processes("keeper-node-0@node-0", "keeper-node-1@node-1", "keeper-node-2@node-2")
	require.Empty(t, r.object("default", "data-db-1").OwnerNode)
	r.stop()
	r = start(t, dir, replicated("db", "default", 2))
	r.waitReady()
	r.processes("db-0@node-0", "db-1@node-1", "keeper-node-2@node-2")
	require.Equal(t, "node-1", r.object("default", "data-db-1").OwnerNode)
}

func TestTooFewNodes(t *testing.T) {
	t.Parallel()
	_, err := expand(workloads(t, replicated("db", "default", 1)), 2, &placement{Pods: map[string]string{}}, slog.New(slog.DiscardHandler))
	require.ErrorContains(t, err, "--nodes 2: a volume with 3 copies needs 3 nodes")
	p := &placement{Pods: map[string]string{}}
	_, err = expand(workloads(t, replicated("db", "default", 1)), 0, p, slog.New(slog.DiscardHandler))
	require.NoError(t, err)
	require.Len(t, p.Nodes, 3)
	p.Nodes, p.Failed = []string{"node-0", "node-4"}, []string{"node-1", "node-5"}
	p.grow(3)
	require.Equal(t, []string{"node-0", "node-4", "node-6"}, p.Nodes, "a name is used once")
}

func TestANodeFails(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	r := start(t, dir, replicated("db", "default", 1))
	r.waitReady()
	pid := r.pid("db-0", 0)
	file := filepath.Join(dir, "nodes", "node-0", "default", "on-the-disk")
	require.NoError(t, os.WriteFile(file, nil, 0o600))
	_, err := FailNode(t.Context(), dir, "node-9", 0, false)
	require.ErrorContains(t, err, `unknown node "node-9"; there are: node-0, node-1, node-2`)

	f, err := FailNode(t.Context(), dir, "node-0", 0, true)
	require.NoError(t, err)
	require.Equal(t, "node-3", f.New)
	require.Len(t, f.Pods, 1)
	require.Positive(t, f.Pods[0].Mounted)
	require.Error(t, syscall.Kill(pid, 0))
	require.NoError(t, r.look("db-0"))
	require.Len(t, mountsBelow(t, dir), 1)
	require.NoFileExists(t, file)
	require.FileExists(t, filepath.Join(f.Kept, "default", "on-the-disk"))
	r.processes("db-0@node-3", "keeper-node-1@node-1", "keeper-node-2@node-2")
	o := r.object("default", "data-db-0")
	require.Equal(t, []string{"node-3", "node-1", "node-2"}, o.Nodes)
	require.Equal(t, "node-3", o.OwnerNode)

	require.NoError(t, ReturnNode(t.Context(), dir, "node-0"))
	require.FileExists(t, file)
	require.ErrorContains(t, ReturnNode(t.Context(), dir, "node-0"), "has not failed")

	f, err = FailNode(t.Context(), dir, "node-1", 0, false)
	require.NoError(t, err)
	require.Equal(t, "node-4", f.New)
	require.Empty(t, f.Kept)
	require.ErrorContains(t, ReturnNode(t.Context(), dir, "node-1"), "were not kept")
	r.stop()

	r = start(t, dir, replicated("db", "default", 1))
	r.waitReady()
	require.Equal(t, "node-3", r.pod("db-0").Node)
	require.Equal(t, []string{"node-3", "node-4", "node-2"}, r.object("default", "data-db-0").Nodes)
}

// TestWhatVolumesHearOfAFailure is tellVolumes, on objects alone.
func TestWhatVolumesHearOfAFailure(t *testing.T) {
	s := &supervisor{layout: layout(t.TempDir()), placed: &placement{Nodes: []string{"a", "b", "c", "d"}}}
	member := func(node, role string) v1alpha1.Member { return v1alpha1.Member{Replica: node, Node: node, Role: role} }
	make := func(name string, o v1alpha1.Volume) {
		o.Namespace, o.Name, o.Phase = "default", name, v1alpha1.VolumeReady
		require.NoError(t, os.MkdirAll(s.layout.volumes("default"), 0o700))
		_, err := s.auth("default").Update(t.Context(), o)
		require.NoError(t, err)
	}
	voters := []v1alpha1.Member{member("a", "voter"), member("b", "voter"), member("c", "voter")}
	make("here", v1alpha1.Volume{Replicas: 3, Nodes: []string{"a", "b", "c"}, OwnerNode: "a", Members: voters})
	make("there", v1alpha1.Volume{Replicas: 3, Nodes: []string{"b", "c", "a"}, OwnerNode: "b", Members: voters})
	make("filling", v1alpha1.Volume{Replicas: 3, Nodes: []string{"b", "c", "a"}, OwnerNode: "b",
		Members: []v1alpha1.Member{member("a", "learner"), member("b", "voter"), member("c", "voter"), member("x", "leaving")}})
	make("single", v1alpha1.Volume{OwnerNode: "a", Members: voters[:1]})
	make("elsewhere", v1alpha1.Volume{Replicas: 3, Nodes: []string{"b", "c", "d"}, OwnerNode: "b", Members: []v1alpha1.Member{member("d", "voter")}})
	get := func(name string) v1alpha1.Volume {
		o, err := s.auth("default").Get(t.Context(), name)
		require.NoError(t, err)
		return o
	}

	require.NoError(t, s.tellVolumes(t.Context(), "a", "e", false, false))
	here := get("here")
	require.Equal(t, []string{"e", "b", "c"}, here.Nodes, "a pod needs a replica where it runs, whatever the delay is")
	require.Equal(t, "e", here.OwnerNode)
	require.Equal(t, v1alpha1.Member{Replica: "a", Node: "a", Role: v1alpha1.RoleLeaving, Lost: true}, here.Members[0])
	there := get("there")
	require.Equal(t, []string{"b", "c", "a"}, there.Nodes, "the delay is not over")
	require.Equal(t, v1alpha1.Member{Replica: "a", Node: "a", Role: v1alpha1.RoleVoter, Lost: true}, there.Members[0])
	single := get("single")
	require.True(t, single.MajorityLost())
	require.Equal(t, get("elsewhere").Generation, uint64(1))

	require.NoError(t, s.tellVolumes(t.Context(), "a", "e", true, false))
	there = get("there")
	require.Equal(t, []string{"b", "c", "e"}, there.Nodes)
	require.Equal(t, v1alpha1.RoleLeaving, there.Members[0].Role)
	filling := get("filling")
	require.Equal(t, []string{"b", "c", "e"}, filling.Nodes)
	require.Len(t, filling.Members, 3, "a learner that is gone does not count, and needs no exchange")
	require.False(t, filling.MajorityLost())
}

func TestReplacementWaitsForItsTime(t *testing.T) {
	s := &supervisor{layout: layout(t.TempDir()), placed: &placement{Nodes: []string{"a", "b"}, Pods: map[string]string{"default/p": "a"}}}
	s.cfg.Log = slog.New(slog.DiscardHandler)
	name, err := s.replaceNode("a", time.Hour, true)
	require.NoError(t, err)
	require.Equal(t, "node-0", name)
	require.Equal(t, name, s.placed.Pods["default/p"])
	s.replaceDue(t.Context())
	require.Len(t, s.placed.Faults, 1)
	again, err := loadPlacement(s.layout.placement())
	require.NoError(t, err)
	require.Len(t, again.Faults, 1, "a restart of dev forgets nothing")
	s.placed.Faults[0].Due = time.Now().Add(-time.Second)
	s.replaceDue(t.Context())
	require.Empty(t, s.placed.Faults)
}

func workloads(t *testing.T, manifest string) []webhook.Workload {
	injected, err := webhook.Inject([]webhook.File{{Name: "test", Data: []byte(manifest)}}, webhook.Options{Mode: webhook.Dev})
	require.NoError(t, err)
	return injected.Workloads
}
