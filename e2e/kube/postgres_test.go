//go:build kube

package kube

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestPostgres: a StatefulSet of PostgreSQL with pgbench beside it; the sidecar is killed under load, and no transaction fails.
func TestPostgres(t *testing.T) {
	s := newSpace(t)
	container := func(name, script string) string {
		return fmt.Sprintf(`{name: %s, image: %s, command: [sh, -c, %q], %s, env: [{name: PGHOST, value: /sock}, {name: PGUSER, value: app}],
			volumeMounts: [{name: data, mountPath: /data}, {name: sock, mountPath: /sock}]}`, name, postgresImage, script, restricted)
	}
	s.apply(fmt.Sprintf(`{apiVersion: apps/v1, kind: StatefulSet, metadata: {name: pg}, spec: {serviceName: pg, replicas: 1, selector: {matchLabels: {app: pg}},
		template: {metadata: {labels: {app: pg}, %s}, spec: {terminationGracePeriodSeconds: 10, %s, volumes: [{name: data, emptyDir: {}}, {name: sock, emptyDir: {}}], containers: [%s, %s]}}}}`,
		annotated("data"), podSecurity,
		container("server", `set -e
[ -e /data/pg/PG_VERSION ] || initdb -D /data/pg -A trust --no-locale -E UTF8 >/tmp/initdb 2>&1 || { cat /tmp/initdb; exit 1; }
exec postgres -D /data/pg -k /sock -c listen_addresses= -c dynamic_shared_memory_type=mmap -c shared_memory_type=mmap`),
		container("bench", `set -e
until psql -d postgres -c 'select 1' >/dev/null 2>&1; do sleep 0.2; done
psql -d postgres -Atc "select 1 from pg_database where datname='bench'" | grep -q 1 || { psql -d postgres -c 'create database bench'; pgbench -i -q -s 2 bench 2>&1; }
while :; do pgbench -c 4 -T 5 bench 2>&1 | grep -E 'tps|failed|abort|error'; psql -d bench -c 'select count(*) from pgbench_history'; done`)))
	s.ready("pg-0")
	s.until("pgbench", func() bool { out, _ := s.try("logs", "pg-0", "-c", "bench"); return len(out) > 0 })
	for range min(*kills, 5) {
		s.killAndReturn("pg-0")
	}
	s.until("a round after the last kill", func() bool { return len(s.kubectl("logs", "pg-0", "-c", "bench", "--since=6s")) > 0 })
	p := s.ready("pg-0")
	require.Zero(t, restarts(p, "server"))
	require.Zero(t, restarts(p, "bench"))
	require.NotContains(t, s.logs("pg-0", "server"), "PANIC")
	t.Log(tail(s.logs("pg-0", "bench"), 6))
}

// killAndReturn kills a pod's sidecar and waits until the next one serves.
func (s *space) killAndReturn(name string) {
	s.t.Helper()
	p := s.ready(name)
	before := s.processes(p, "remora")
	s.kill(p, "remora")
	s.until("another sidecar", func() bool {
		p := s.ready(name)
		now := s.processes(p, "remora")
		return len(now) == len(before) && now[len(now)-1] != before[len(before)-1]
	})
	s.served(name)
}

// served waits until the volume answers, which is when a sidecar serves it.
func (s *space) served(name string) {
	s.t.Helper()
	_, err := s.try("exec", name, "-c", s.pod(name).Spec.Containers[0].Name, "--", "stat", "/data")
	require.NoError(s.t, err)
}

// killContainerAndReturn kills all of a pod's sidecar at once, and waits until kubelet has started it again.
func (s *space) killContainerAndReturn(name string) {
	s.t.Helper()
	p := s.ready(name)
	before := restarts(p, "remora")
	s.killContainer(p, "remora")
	s.until("the container's restart", func() bool {
		p := s.pod(name)
		return p != nil && restarts(p, "remora") > before && containerID(p, "remora") != ""
	})
	s.ready(name)
	s.served(name)
}
