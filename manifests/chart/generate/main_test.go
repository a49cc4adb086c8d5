package main

import (
	"bytes"
	"fmt"
	"os"
	"testing"
	"text/template"

	"github.com/stretchr/testify/require"
	"sigs.k8s.io/yaml"
)

// render does what Helm does with templates that use nothing of its own.
func render(t *testing.T, text, certificate, mode string) map[string]map[string]any {
	parsed, err := template.New("chart").Option("missingkey=error").Parse(text)
	require.NoError(t, err)
	var out bytes.Buffer
	require.NoError(t, parsed.Execute(&out, map[string]any{
		"Values":  map[string]any{"image": "remora-storage/remora:0.1.0", "certificate": certificate, "mode": mode},
		"Release": map[string]any{"Namespace": "remora-system"},
	}))
	all := map[string]map[string]any{}
	for _, o := range objects(out.String()) {
		var value map[string]any
		require.NoError(t, yaml.Unmarshal([]byte(o.text), &value), o.text)
		if len(value) > 0 {
			all[o.id] = value
		}
	}
	return all
}

// TestChart: rendered again, the chart is what the overlays were.
func TestChart(t *testing.T) {
	const both = "kind: Namespace\nmetadata:\n  name: remora-system\n---\nkind: CustomResourceDefinition\nmetadata:\n  name: volumes\n---\n" +
		"kind: Role\nmetadata:\n  name: r\n  namespace: remora-system\n---\n"
	selfSigned := both + "kind: Deployment\nmetadata:\n  name: w\nspec:\n  args: [--self-signed, --image=remora-storage/remora:0.1.0]\n---\nkind: Role\nmetadata:\n  name: own\n"
	certManager := both + "kind: Deployment\nmetadata:\n  name: w\nspec:\n  args: [--tls-dir=/tls]\n---\nkind: Issuer\nmetadata:\n  name: i\n"
	crds, templates := chart(selfSigned, certManager, modes{})
	require.Contains(t, crds, "name: volumes")
	require.NotContains(t, templates, "remora-storage/remora")
	require.NotContains(t, templates, "remora-system")
	for certificate, stream := range map[string]string{"self-signed": selfSigned, "cert-manager": certManager} {
		want := render(t, stream, certificate, "node")
		for id := range want {
			if id == "Namespace /remora-system" || id == "CustomResourceDefinition /volumes" {
				delete(want, id)
			}
		}
		require.Equal(t, want, render(t, templates, certificate, "node"), certificate)
	}
}

// TestChartRenders: the chart that is here is YAML with either certificate. `make e2e` checks that it is what the overlays make.
func TestChartRenders(t *testing.T) {
	text, err := os.ReadFile("../templates/remora.yaml")
	require.NoError(t, err)
	selfSigned, certManager := render(t, string(text), "self-signed", "node"), render(t, string(text), "cert-manager", "node")
	require.Contains(t, selfSigned, "DaemonSet remora-system/remora-node")
	require.Contains(t, selfSigned, "ClusterRole /remora-webhook-self-signed")
	require.NotContains(t, certManager, "ClusterRole /remora-webhook-self-signed")
	require.Contains(t, certManager, "Certificate remora-system/remora-webhook")

	privileged := render(t, string(text), "cert-manager", "privileged")
	require.NotContains(t, privileged, "DaemonSet remora-system/remora-node")
	require.NotContains(t, privileged, "CSIDriver /remora.dev")
	require.Contains(t, privileged, "ClusterRole /remora-pod")
	require.NotContains(t, certManager, "ClusterRole /remora-pod")
	require.Contains(t, fmt.Sprint(privileged["Deployment remora-system/remora-webhook"]), "--mode=privileged")
	require.Contains(t, fmt.Sprint(certManager["Deployment remora-system/remora-webhook"]), "--mode=node")
}

// TestModes: what differs in privileged mode is whole objects and the webhook's argument, or it is refused.
func TestModes(t *testing.T) {
	const node = "kind: Deployment\nmetadata:\n  name: w\nspec: [--mode=node]\n---\nkind: DaemonSet\nmetadata:\n  name: n\n"
	const privileged = "kind: Deployment\nmetadata:\n  name: w\nspec: [--mode=privileged]\n---\nkind: Role\nmetadata:\n  name: r\n"
	m, err := compareModes(node, privileged)
	require.NoError(t, err)
	_, templates := chart(node, node, m)
	for mode, stream := range map[string]string{"node": node, "privileged": privileged} {
		require.Equal(t, render(t, stream, "self-signed", mode), render(t, templates, "self-signed", mode))
	}
	_, err = compareModes(node, privileged+"---\nkind: DaemonSet\nmetadata:\n  name: n\nspec: 1\n")
	require.ErrorContains(t, err, "DaemonSet /n differs")
}
