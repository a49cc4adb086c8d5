//go:build kube

package kube

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// TestStatefulSet: a writer and SQLite in one pod, under Pod Security "restricted"; the sidecar is killed again and again, and neither
// sees an error. Then the pod is deleted, and its successor finds everything.
func TestStatefulSet(t *testing.T) {
	s := newSpace(t)
	s.apply(statefulSet("db", 1, writerContainer("data"), shell("sqlite", "data", sqliteScript)))
	s.ready("db-0")
	for i := range *kills {
		s.killAndReturn("db-0")
		p := s.ready("db-0")
		require.Zero(t, restarts(p, "writer"), "kill %d: the writer saw an error", i)
		require.Zero(t, restarts(p, "sqlite"), "kill %d: SQLite saw an error", i)
	}
	s.killContainerAndReturn("db-0") // once, at which kubelet does not hesitate yet
	t.Logf("%d kills; the writer: %s", *kills, tail(s.logs("db-0", "writer"), 1))

	uid := s.pod("db-0").UID
	s.kubectl("delete", "pod", "db-0")
	s.until("the next pod", func() bool { p := s.pod("db-0"); return p != nil && p.UID != uid })
	s.ready("db-0")
	s.until("the next writer", func() bool { return len(s.logs("db-0", "writer")) > 0 })
	require.NotContains(t, s.logs("db-0", "writer"), "resumed at 0,")
	require.Contains(t, s.logs("db-0", "sqlite"), "check: ok")
}
