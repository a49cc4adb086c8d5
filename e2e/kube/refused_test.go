//go:build kube

package kube

import (
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestRefused: what a tenant may not have is refused at once, with a message that names the key.
func TestRefused(t *testing.T) {
	s := newSpace(t)
	pod := func(annotations string) string {
		return barePod("p", "annotations: {remora.dev/volumes: data"+annotations+"}", "", writerContainer("data"))
	}
	for name, c := range map[string]struct{ manifest, want string }{
		"no size that is one":     {pod(", data.remora.dev/size: much"), "data.remora.dev/size"},
		"a class that is not":     {pod(", data.remora.dev/size: 1Gi, data.remora.dev/class: gold"), "gold"},
		"an unknown key":          {pod(", data.remora.dev/size: 1Gi, data.remora.dev/colour: red"), "data.remora.dev/colour"},
		"another image":           {pod(", data.remora.dev/size: 1Gi, remora.dev/image: evil"), "remora.dev/image"},
		"privileged mode":         {pod(", data.remora.dev/size: 1Gi, remora.dev/mode: privileged"), "remora.dev/mode"},
		"a path of the node":      {pod(", data.remora.dev/size: 1Gi, data.remora.dev/path: /etc"), "data.remora.dev/path"},
		"another tenant's volume": {pod(", data.remora.dev/size: 1Gi, data.remora.dev/volume: other/data-db-0"), "data.remora.dev/volume"},
	} {
		require.ErrorContains(t, s.tryApply(c.manifest), c.want, name)
	}
	workload := strings.Replace(statefulSet("db", 1, writerContainer("data")), "size: 8Gi", "size: much", 1)
	require.ErrorContains(t, s.tryApply(workload), "data.remora.dev/size", "a workload is told when it is applied")
	driver := func(labels, attributes string) string {
		return fmt.Sprintf(`{apiVersion: v1, kind: Pod, metadata: {name: p, labels: {%s}}, spec: {%s, containers: [%s],
			volumes: [{name: data, csi: {driver: remora.dev, volumeAttributes: {%s}}}]}}`, labels, podSecurity, writerContainer("data"), attributes)
	}
	for _, labels := range []string{"a: b", `remora.dev/inject: "false"`} {
		for _, attributes := range []string{"kind: disks", "kind: mount, volume: data", `kind: local, volume: data, class: default, size: "1048576"`} {
			require.ErrorContains(t, s.tryApply(driver(labels, attributes)), "remora", "%s, %s", labels, attributes)
		}
	}
}

// TestNotOptedIn: in a namespace without the label nothing is injected, and the driver gives a pod nothing whatever it says.
func TestNotOptedIn(t *testing.T) {
	s := newSpace(t)
	_, err := s.k.run(t.Context(), "", "label", "namespace", s.name, "remora.dev/injection-")
	require.NoError(t, err)
	s.apply(`{apiVersion: v1, kind: Pod, metadata: {name: annotated, ` + annotated("data") + `}, spec: {` + podSecurity + `, containers: [` + writerContainer("data") + `],
		volumes: [{name: data, emptyDir: {}}]}}`)
	require.Empty(t, s.ready("annotated").Spec.InitContainers)
	s.apply(`{apiVersion: v1, kind: Pod, metadata: {name: helps-itself}, spec: {` + podSecurity + `, containers: [` + writerContainer("data") + `],
		volumes: [{name: data, csi: {driver: remora.dev, volumeAttributes: {kind: mount, volume: data}}}]}}`)
	s.until("an event that says why", func() bool {
		out, err := s.try("get", "events", "--field-selector=involvedObject.name=helps-itself", "-o", "jsonpath={.items[*].message}")
		return err == nil && strings.Contains(out, "remora.dev/injection")
	})
	require.NotEqual(t, "Running", string(s.pod("helps-itself").Status.Phase))
}
