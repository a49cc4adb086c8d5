//go:build kube

package kube

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
)

// restricted is the security context that Pod Security "restricted" wants of a container; podSecurity that of a pod.
const (
	restricted  = "securityContext: {allowPrivilegeEscalation: false, capabilities: {drop: [ALL]}}"
	podSecurity = "securityContext: {runAsNonRoot: true, runAsUser: 1000, runAsGroup: 1000, fsGroup: 1000, seccompProfile: {type: RuntimeDefault}}"
)

// writerContainer runs the writer on the volume.
func writerContainer(volume string, args ...string) string {
	return fmt.Sprintf(`{name: writer, image: %s, args: [writer, /data%s], %s, volumeMounts: [{name: %s, mountPath: /data}]}`,
		toolsImage, prefixed(args), restricted, volume)
}

func shell(name, volume, script string) string {
	return fmt.Sprintf(`{name: %s, image: %s, command: [sh, -c, %q], %s, volumeMounts: [{name: %s, mountPath: /data}]}`,
		name, toolsImage, script, restricted, volume)
}

func prefixed(args []string) string {
	if len(args) == 0 {
		return ""
	}
	return ", " + strings.Join(args, ", ")
}

// sqliteScript inserts numbered rows, each its own transaction, until it is told to end, and fails at the first error. When it starts, the
// database that it finds must be whole.
const sqliteScript = `set -e
if [ -e /data/db ]; then r=$(sqlite3 /data/db 'pragma integrity_check'); echo "check: $r"; [ "$r" = ok ]; fi
sqlite3 /data/db 'pragma journal_mode=wal; create table if not exists t (n integer primary key, x blob)'
trap 'echo stopped; exit 0' TERM
while :; do sqlite3 -bail /data/db 'pragma synchronous=full; insert into t (x) values (randomblob(500)); select max(n) from t' >/tmp/n; done`

// annotated are the annotations of a pod with these volumes.
func annotated(volumes ...string) string {
	text := "annotations: {remora.dev/volumes: '" + strings.Join(volumes, ", ") + "'"
	for _, v := range volumes {
		text += ", " + v + ".remora.dev/size: 8Gi"
	}
	return text + "}"
}

// podTemplate is a pod's metadata and spec with one volume, data. The API server refuses a template that mounts a volume which it does not
// declare, before any webhook is asked; injection replaces the emptyDir.
func podTemplate(labels string, containers ...string) string {
	return fmt.Sprintf(`{metadata: {labels: %s, %s},
  spec: {terminationGracePeriodSeconds: 5, %s, volumes: [{name: data, emptyDir: {}}], containers: [%s]}}`, labels, annotated("data"), podSecurity, strings.Join(containers, ",\n"))
}

func statefulSet(name string, replicas int, containers ...string) string {
	return fmt.Sprintf(`{apiVersion: apps/v1, kind: StatefulSet, metadata: {name: %[1]s}, spec: {serviceName: %[1]s, replicas: %[2]d,
selector: {matchLabels: {app: %[1]s}}, template: %[3]s}}`, name, replicas, podTemplate("{app: "+name+"}", containers...))
}

// barePod is a pod without a controller. more are fields of its spec, each with a comma behind it.
func barePod(name, annotations, more string, containers ...string) string {
	return fmt.Sprintf(`{apiVersion: v1, kind: Pod, metadata: {name: %s, %s}, spec: {terminationGracePeriodSeconds: 5, %s, %s containers: [%s]}}`,
		name, annotations, podSecurity, more, strings.Join(containers, ",\n"))
}

// resumed is how many records a pod's writer found when it started; -1 while it has not said.
func (s *space) resumed(pod string) int {
	out, err := s.try("logs", pod, "-c", "writer")
	if err != nil {
		return -1
	}
	n := -1
	_, _ = fmt.Sscanf(out, "resumed at %d,", &n)
	return n
}

// resumes waits until a pod's writer says how many records it found.
func (s *space) resumes(pod string) (n int) {
	s.t.Helper()
	s.until("the writer of "+pod, func() bool { n = s.resumed(pod); return n >= 0 })
	return n
}

// podOf waits for the one pod of a label that is not one of these and is not going, and returns its name.
func (s *space) podOf(label string, not ...string) (name string) {
	s.t.Helper()
	s.until("a pod of "+label, func() bool {
		out, err := s.try("get", "pods", "-l", label, "-o", "json")
		if err != nil {
			return false
		}
		var list corev1.PodList
		require.NoError(s.t, json.Unmarshal([]byte(out), &list))
		var names []string
		for _, p := range list.Items {
			if p.DeletionTimestamp == nil && !slices.Contains(not, p.Name) {
				names = append(names, p.Name)
			}
		}
		if len(names) == 0 {
			return false
		}
		name = names[0]
		return true
	})
	return name
}

// TestDeployment: a rollout with Recreate gives the new pod the old one's volume.
func TestDeployment(t *testing.T) {
	s := newSpace(t)
	s.apply(`{apiVersion: apps/v1, kind: Deployment, metadata: {name: web}, spec: {replicas: 1, strategy: {type: Recreate}, selector: {matchLabels: {app: web}},
		template: ` + podTemplate("{app: web}", writerContainer("data")) + `}}`)
	first := s.podOf("app=web")
	s.ready(first)
	require.Zero(t, s.resumes(first))
	s.kubectl("rollout", "restart", "deployment/web")
	second := s.podOf("app=web", first)
	s.ready(second)
	require.Positive(t, s.resumes(second))
}

// TestJob: it completes, although its sidecar would run for ever; and so do two runs of a CronJob, the second with the data of the first.
func TestJob(t *testing.T) {
	s := newSpace(t)
	spec := `{template: {metadata: {` + annotated("data") + `}, spec: {restartPolicy: Never, ` + podSecurity + `, volumes: [{name: data, emptyDir: {}}], containers: [` +
		writerContainer("data", "-records", `"100"`) + `]}}}`
	s.apply(`{apiVersion: batch/v1, kind: Job, metadata: {name: once}, spec: ` + spec + `}`)
	s.kubectl("wait", "--for=condition=complete", "job/once", "--timeout=120s")
	s.apply(`{apiVersion: batch/v1, kind: CronJob, metadata: {name: nightly}, spec: {schedule: "0 3 1 1 *", jobTemplate: {spec: ` + spec + `}}}`)
	for i, name := range []string{"run-1", "run-2"} {
		s.kubectl("create", "job", "--from=cronjob/nightly", name)
		s.kubectl("wait", "--for=condition=complete", "job/"+name, "--timeout=120s")
		pod := s.podOf("job-name=" + name)
		require.Equal(t, i*100, s.resumed(pod), "records that run %d found", i+1)
	}
}

// TestBarePod: it is deleted and made again, and finds its data; two volumes; its own init container uses one.
func TestBarePod(t *testing.T) {
	s := newSpace(t)
	pod := barePod("p", annotated("data", "logs"), "initContainers: ["+shell("prepare", "data", "echo prepared >> /data/prepared")+"],",
		writerContainer("data"), shell("other", "logs", "cat /data/mark; echo first > /data/mark; sleep 100000"))
	s.apply(pod)
	s.ready("p")
	require.Zero(t, s.resumes("p"))
	require.Equal(t, "prepared\n", s.kubectl("exec", "p", "-c", "writer", "--", "cat", "/data/prepared"))
	require.Equal(t, "1000", strings.TrimSpace(s.kubectl("exec", "p", "-c", "writer", "--", "stat", "-c", "%g", "/data")), "fsGroup")
	s.until("the mark", func() bool {
		out, _ := s.try("exec", "p", "-c", "other", "--", "cat", "/data/mark")
		return out == "first\n"
	})
	s.kubectl("delete", "pod", "p")
	s.apply(pod)
	s.ready("p")
	require.Positive(t, s.resumes("p"))
	s.until("the mark", func() bool { return strings.HasPrefix(s.logs("p", "other"), "first\n") })
	require.Equal(t, "prepared\nprepared\n", s.kubectl("exec", "p", "-c", "writer", "--", "cat", "/data/prepared"))
}
