package webhook

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"go.yaml.in/yaml/v3"
	corev1 "k8s.io/api/core/v1"

	"github.com/remora-storage/remora/api/v1alpha1"
	"github.com/remora-storage/remora/examples"
	"github.com/remora-storage/remora/webhook/spec"
)

func TestExampleWorkload(t *testing.T) {
	out, err := Inject([]File{{"db.yaml", examples.StatefulSet}}, Options{Mode: Dev, Config: Config{Image: "me/remora:1", OTLPEndpoint: "http://otel:4318"}})
	require.NoError(t, err)
	require.Len(t, out.Workloads, 1)
	w := out.Workloads[0]
	require.Equal(t, "default StatefulSet db", w.Namespace+" "+w.Kind+" "+w.Name)
	require.Equal(t, 1, w.Replicas)
	require.Equal(t, []spec.Volume{{Name: "data", Size: 2 << 30, Class: "replicated", Replicas: 3, Sealing: v1alpha1.SealingOn, Engine: v1alpha1.EngineReplicated, Mode: spec.ModeFilesystem, Access: spec.ReadWriteOnce,
		Trace: spec.Trace{Kind: spec.TraceEvery}}}, w.Spec.Volumes)
	require.Equal(t, map[string]string{"app": "db"}, w.Template.Labels)
	c := w.Template.Spec.InitContainers[0]
	require.Equal(t, ContainerName, c.Name)
	require.Equal(t, "me/remora:1", c.Image)
	require.Equal(t, corev1.ContainerRestartPolicyAlways, *c.RestartPolicy)
	require.Contains(t, c.Env, corev1.EnvVar{Name: "OTEL_EXPORTER_OTLP_ENDPOINT", Value: "http://otel:4318"})
	require.Equal(t, "postgres", w.Template.Spec.Containers[0].Name)
}

// TestUnnamedClass says which class a volume gets that names none: three copies in dev mode, one where there are no more yet, and always what
// the administrator calls the default.
func TestUnnamedClass(t *testing.T) {
	pod := `{apiVersion: v1, kind: Pod, metadata: {name: p, annotations: {remora.dev/volumes: d, d.remora.dev/size: 1Gi}},
  spec: {containers: [{name: a, volumeMounts: [{name: d, mountPath: /d}]}]}}`
	class := "{apiVersion: remora.dev/v1alpha1, kind: VolumeClass, metadata: {name: default}, spec: {sealing: 'off'}}"
	given, problems := spec.NewClass(spec.DefaultClass, v1alpha1.VolumeClassSpec{Sealing: v1alpha1.SealingOff})
	require.Empty(t, problems)
	for _, c := range []struct {
		mode     Mode
		manifest string
		classes  spec.Classes
		class    string
		copies   int
	}{
		{Dev, pod, nil, "replicated", 3},
		{Node, pod, nil, "default", 1},
		{Privileged, pod, nil, "default", 1},
		{Dev, pod + "\n---\n" + class, nil, "default", 1},
		{Dev, pod, spec.Classes{spec.DefaultClass: given}, "default", 1},
	} {
		out, err := Inject([]File{{"p.yaml", []byte(c.manifest)}}, Options{Mode: c.mode, Classes: c.classes})
		require.NoError(t, err)
		v := out.Workloads[0].Spec.Volumes[0]
		require.Equal(t, c.class, v.Class, "%+v", c)
		require.Equal(t, c.copies, v.Replicas, "%+v", c)
	}
}

// TestClassesCountForAllFiles says that a class may be in any file, and that errors name the files in their order.
func TestClassesCountForAllFiles(t *testing.T) {
	data, err := os.ReadFile("../examples/volumeclass.yaml")
	require.NoError(t, err)
	class, pod, _ := bytes.Cut(data, []byte("---\n"))
	files := []File{{"pod.yaml", pod}, {"class.yaml", class}}
	out, err := Inject(files, Options{Mode: Dev})
	require.NoError(t, err)
	require.Equal(t, int64(1<<30), out.Workloads[0].Spec.Volumes[0].Size)
	require.Equal(t, class, out.Files[1].Data)

	files[1].Data = bytes.Replace(class, []byte("replicas: 1"), []byte("replicas: 2"), 1)
	_, err = Inject(append(files, File{"broken.yaml", []byte("a: [")}, File{"utf16.yaml", []byte("\xff\xfea\x00")}), Options{Mode: Dev})
	var list Errors
	require.True(t, errors.As(err, &list))
	require.Len(t, list, 3)
	require.True(t, strings.HasPrefix(list[0].Error(), `class.yaml: document 1 (line 3): VolumeClass/small: spec.replicas: "2": is even, and survives no more losses than one copy less;`), list[0])
	require.True(t, strings.HasPrefix(list[1].Error(), `broken.yaml: document 1 (line 1): manifest: is not YAML: line 1:`), list[1])
	require.True(t, strings.HasPrefix(list[2].Error(), `utf16.yaml: document 1 (line 1): manifest: is UTF-16;`), list[2])
}

func TestJoin(t *testing.T) {
	var files []File
	for _, s := range []string{"a: 1", "# c\n---\nb: 2\n", "", "\ufeffc: 3\n", "{\"d\": 4}", "%YAML 1.1\n---\ne: 5\n"} {
		files = append(files, File{Data: []byte(s)})
	}
	require.Equal(t, "a: 1\n# c\n---\nb: 2\n---\nc: 3\n---\n{\"d\": 4}\n...\n%YAML 1.1\n---\ne: 5\n", string(Join(files)))
	require.Equal(t, "\ufeffc: 3\n", string(Join(files[3:4])))
}

// TestUnknownFieldsStay says that what the types of this release do not know passes, deep in what is patched.
func TestUnknownFieldsStay(t *testing.T) {
	in := "apiVersion: v1\nkind: Pod\nmetadata:\n  name: p\n  creationTimestamp: null\n  annotations: {remora.dev/volumes: d, d.remora.dev/size: 1Gi}\n" +
		"spec:\n  new: {a: 0x10}\n  containers:\n  - name: a\n    new: yes\n    volumeMounts:\n    - {name: d, mountPath: /d, new: 1}\n  volumes:\n  - {name: d, new: 2}\nstatus: {}\n"
	out, err := Inject([]File{{"p", []byte(in)}}, Options{Mode: Privileged})
	require.NoError(t, err)
	text := string(out.Files[0].Data)
	for _, want := range []string{"creationTimestamp: null\n", "new: {a: 0x10}", "new: yes\n", "new: 1, subPathExpr: $(REMORA_POD_UID)/d}", "{name: d, new: 2, hostPath: ", "\nstatus: {}\n"} {
		require.Contains(t, text, want)
	}
	require.Equal(t, 1, strings.Count(text, "status: {}"))
	require.Equal(t, 1, strings.Count(text, "creationTimestamp"))
}

func FuzzInject(f *testing.F) {
	cases, err := filepath.Glob("testdata/*/*.yaml")
	require.NoError(f, err)
	for _, path := range cases {
		data, err := os.ReadFile(path)
		require.NoError(f, err)
		f.Add(data)
	}
	f.Add([]byte("a: |+\n  b\n\n...\n# c\n---\n--- # d\n\xef\xbb\xbf"))
	f.Add([]byte("{\"a\":1}{\"b\":\"\\ud800\"}\n[]"))
	f.Fuzz(func(t *testing.T, data []byte) {
		var whole []byte
		for _, s := range split(data) {
			whole = append(whole, s.bytes(s.body)...)
		}
		require.True(t, bytes.Equal(data, whole), "the segments are not the file")
		for _, m := range modes() {
			out, err := Inject([]File{{"in", data}}, Options{Mode: m})
			if err != nil {
				for _, line := range strings.Split(err.Error(), "\n") {
					require.True(t, strings.HasPrefix(line, "in: document "), line)
				}
				continue
			}
			again, err := Inject(out.Files, Options{Mode: m})
			require.NoError(t, err, "what came out does not go in")
			require.Equal(t, string(out.Files[0].Data), string(again.Files[0].Data))
			if len(out.Workloads) == 0 && !bytes.Contains(data, []byte(spec.KeyStatus)) {
				require.True(t, bytes.Equal(data, out.Files[0].Data), "nothing was injected, and something changed")
			}
		}
	})
}

// TestAnchorsOfAnotherPlace says that a patch of one pod does not reach another that shares its values.
func TestAnchorsOfAnotherPlace(t *testing.T) {
	in := "apiVersion: v1\nkind: List\nitems:\n- apiVersion: v1\n  kind: Pod\n  metadata: {name: a, annotations: {remora.dev/volumes: d, d.remora.dev/size: 1Gi}}\n" +
		"  spec: &spec {containers: [{name: a, volumeMounts: [{name: d, mountPath: /d}]}]}\n- apiVersion: v1\n  kind: Pod\n  metadata: {name: b}\n  spec: *spec\n"
	out, err := Inject([]File{{"p", []byte(in)}}, Options{Mode: Privileged})
	require.NoError(t, err)
	var list struct {
		Items []struct{ Spec map[string]any }
	}
	require.NoError(t, yaml.Unmarshal(out.Files[0].Data, &list))
	require.Contains(t, list.Items[0].Spec, "initContainers")
	require.Equal(t, map[string]any{"containers": []any{map[string]any{"name": "a", "volumeMounts": []any{map[string]any{"name": "d", "mountPath": "/d"}}}}}, list.Items[1].Spec)
}

func TestReadingYAML(t *testing.T) {
	pass := []string{
		"%TAG !e! tag:example.com,2000:\n---\na: !e!x 1\n...\n%YAML 1.1\n---\nb: 2\n", // directives belong to the next document
		"a: &a [*a]\n", // harmless where nothing is injected
		"a: 1\n...\n# c\nb: 2\n", "\ufeff# only a comment", "", "\n\n---\n---\n", "~\n", "a: 1\r\n---\r\nb: 2",
	}
	for _, in := range pass {
		out, err := Inject([]File{{"in", []byte(in)}}, Options{Mode: Privileged})
		require.NoError(t, err, in)
		require.Equal(t, in, string(out.Files[0].Data))
	}
	const pod = "apiVersion: v1\nkind: Pod\nmetadata: {name: p, annotations: {remora.dev/volumes: d, d.remora.dev/size: 1Gi}}\n"
	for in, want := range map[string]string{
		"\n" + pod + "x: &a\n- *a\n":  `in: document 1 (line 2): Pod/p: manifest: line 6: alias "a" is inside its own anchor;`,
		pod + "x: {<<: [1]}\n":        `in: document 1 (line 1): Pod/p: manifest: a merge key (<<) merges something else than mappings;`,
		"a: 1\n---\nb: \x00\n":        `in: document 2 (line 3): manifest: is not YAML: control characters are not allowed;`,
		"a: 1\n\n--- \nb: \xff\n":     `in: document 2 (line 4): manifest: is not UTF-8 text;`,
		"a: 1\r--- 2\r":               `in: document 1 (line 1): manifest: is not one YAML document: another begins at line 2`,
		"# c\n\nb: |\n  x\n y: [\n\n": `in: document 1 (line 3): manifest: is not YAML: line 5:`,
		"{\"a\": 1}\n{\"b\": }\n":     `in: document 1 (line 1): manifest: is not YAML: line 2:`,
	} {
		_, err := Inject([]File{{"in", []byte(in)}}, Options{Mode: Privileged})
		require.Error(t, err, in)
		require.True(t, strings.HasPrefix(err.Error(), want), err.Error())
	}
}

// TestSidecarIsExchangedWhole says that nothing which somebody wrote into the sidecar survives, known to the types or not.
func TestSidecarIsExchangedWhole(t *testing.T) {
	first, err := Inject([]File{{"db.yaml", examples.StatefulSet}}, Options{Mode: Privileged})
	require.NoError(t, err)
	forged := strings.Replace(string(first.Files[0].Data), "          image: remora-storage/remora:0.1.0\n", "          image: evil\n          secretNewField: evil\n", 1)
	require.Contains(t, forged, "evil")
	again, err := Inject([]File{{"db.yaml", []byte(forged)}}, Options{Mode: Privileged})
	require.NoError(t, err)
	require.Equal(t, string(first.Files[0].Data), string(again.Files[0].Data))
}
