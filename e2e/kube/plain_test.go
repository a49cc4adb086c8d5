//go:build kube

package kube

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// TestPlainPods: in a namespace that opted in, a pod that does not mention Remora is as it was; so is one that says no.
func TestPlainPods(t *testing.T) {
	s := newSpace(t)
	s.apply(`{apiVersion: v1, kind: Pod, metadata: {name: plain}, spec: {` + podSecurity + `, containers: [` + shell("app", "data", sqliteScript) + `],
		volumes: [{name: data, emptyDir: {}}]}}`)
	s.apply(`{apiVersion: v1, kind: Pod, metadata: {name: says-no, labels: {remora.dev/inject: "false"}, annotations: {remora.dev/volumes: data}},
		spec: {` + podSecurity + `, containers: [` + writerContainer("data") + `], volumes: [{name: data, emptyDir: {}}]}}`)
	for _, name := range []string{"plain", "says-no"} {
		p := s.ready(name)
		require.Empty(t, p.Spec.InitContainers)
		require.NotNil(t, p.Spec.Volumes[0].EmptyDir)
	}
	p := s.ready("says-no")
	s.kill(p, "writer")
	s.until("the writer's restart", func() bool { return restarts(s.pod("says-no"), "writer") == 1 })
}
