package dev

import (
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"github.com/remora-storage/remora/dev/process"
	"github.com/remora-storage/remora/webhook"
)

// sidecarCommand turns the injected container into a command on this machine: paths of its mounts become paths in DIR, and the
// downward API is resolved.
func sidecarCommand(p *podSpec, l layout, uid, otlp string) (process.Command, error) {
	i := slices.IndexFunc(p.template.Spec.InitContainers, func(c corev1.Container) bool { return c.Name == webhook.ContainerName })
	if i < 0 {
		return process.Command{}, fmt.Errorf("pod %s: injection gave it no container %q", p.title, webhook.ContainerName)
	}
	c := p.template.Spec.InitContainers[i]
	paths := pathsOf(p, l)
	env := map[string]string{}
	cmd := process.Command{Env: []string{"PATH=" + os.Getenv("PATH"), "HOME=/root"}}
	for _, e := range c.Env {
		value, err := envValue(p, c, e, uid)
		if err != nil {
			return process.Command{}, fmt.Errorf("pod %s: environment variable %s: %w", p.title, e.Name, err)
		}
		env[e.Name] = mapPaths(expandVars(value, env), paths)
		cmd.Env = append(cmd.Env, e.Name+"="+env[e.Name])
	}
	if _, set := env[otlpVariable]; !set {
		cmd.Env = append(cmd.Env, otlpVariable+"="+otlp)
	}
	var words []string // the first word of a command is the program, and the image's entry point is the program alone
	if len(c.Command) > 1 {
		words = append(words, c.Command[1:]...)
	}
	for _, word := range append(words, c.Args...) {
		cmd.Args = append(cmd.Args, mapPaths(expandVars(word, env), paths))
	}
	return cmd, nil
}

// otlpVariable is OpenTelemetry's own name for where spans go.
const otlpVariable = "OTEL_EXPORTER_OTLP_ENDPOINT"

// envValue resolves one variable as the kubelet does.
func envValue(p *podSpec, c corev1.Container, e corev1.EnvVar, uid string) (string, error) {
	from := e.ValueFrom
	switch {
	case from == nil:
		return e.Value, nil
	case from.FieldRef != nil:
		return fieldValue(p, from.FieldRef.FieldPath, uid)
	case from.ResourceFieldRef != nil:
		return resourceValue(c, from.ResourceFieldRef)
	default:
		return "", fmt.Errorf("dev has no config maps and secrets; give a plain value")
	}
}

func fieldValue(p *podSpec, path, uid string) (string, error) {
	switch path {
	case "metadata.name":
		return p.name, nil
	case "metadata.namespace":
		return p.namespace, nil
	case "metadata.uid":
		return uid, nil
	case "spec.nodeName":
		return p.node, nil
	case "spec.serviceAccountName":
		return p.template.Spec.ServiceAccountName, nil
	case "status.podIP", "status.hostIP":
		return "127.0.0.1", nil
	}
	for prefix, values := range map[string]map[string]string{
		"metadata.annotations['": p.template.Annotations, "metadata.labels['": p.template.Labels,
	} {
		if key, ok := strings.CutPrefix(path, prefix); ok {
			return values[strings.TrimSuffix(key, "']")], nil
		}
	}
	return "", fmt.Errorf("dev does not know the field %s", path)
}

func resourceValue(c corev1.Container, ref *corev1.ResourceFieldSelector) (string, error) {
	kind, name, _ := strings.Cut(ref.Resource, ".")
	list := map[string]corev1.ResourceList{"limits": c.Resources.Limits, "requests": c.Resources.Requests}[kind]
	quantity, ok := list[corev1.ResourceName(name)]
	if !ok {
		return "", fmt.Errorf("the container has no %s", ref.Resource)
	}
	value, divisor := quantity.Value(), max(ref.Divisor.Value(), 1)
	return strconv.FormatInt((value+divisor-1)/divisor, 10), nil
}

// expandVars replaces $(NAME) by earlier variables, as the kubelet does: unknown names stay, $$ is $.
func expandVars(s string, env map[string]string) string {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '$' && i+1 < len(s) {
			if s[i+1] == '$' {
				b.WriteByte('$')
				i++
				continue
			}
			end := strings.IndexByte(s[i:], ')')
			if s[i+1] == '(' && end > 0 {
				if value, ok := env[s[i+2:i+end]]; ok {
					b.WriteString(value)
					i += end
					continue
				}
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

// pathMap says where a directory of the container is on this machine.
type pathMap struct{ container, host string }

func pathsOf(p *podSpec, l layout) []pathMap {
	return []pathMap{
		{webhook.DisksPath, l.disks(p.node, p.namespace)},
		{webhook.RunPath, l.run(p.title)},
		{webhook.VolumesPath, l.volumes(p.namespace)},
		{webhook.KeysPath, l.keys(p.namespace)},
	}
}

// mapPaths replaces container paths in an argument: whole components only, at its start or after one of "=,:".
func mapPaths(s string, paths []pathMap) string {
	var b strings.Builder
	for i := 0; i < len(s); {
		m, ok := pathAt(s, i, paths)
		if !ok {
			b.WriteByte(s[i])
			i++
			continue
		}
		b.WriteString(m.host)
		i += len(m.container)
	}
	return b.String()
}

func pathAt(s string, i int, paths []pathMap) (pathMap, bool) {
	if s[i] != '/' || i > 0 && !strings.ContainsRune("=,:", rune(s[i-1])) {
		return pathMap{}, false
	}
	for _, m := range paths {
		rest, ok := strings.CutPrefix(s[i:], m.container)
		if ok && (rest == "" || strings.ContainsRune("/,:", rune(rest[0]))) {
			return m, true
		}
	}
	return pathMap{}, false
}
