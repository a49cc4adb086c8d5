package admission

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"go.yaml.in/yaml/v3"
	jsonpatch "gopkg.in/evanphx/json-patch.v4"
	admissionv1 "k8s.io/api/admission/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/remora-storage/remora/telemetry"
	"github.com/remora-storage/remora/webhook"
)

// TestGolden takes the cases of webhook/testdata through the admission of pods and workloads: what `remora inject` makes of a
// document, and what it says about it, the webhook makes and says too. A template is sent as the pod that it stands for.
func TestGolden(t *testing.T) {
	cases, err := filepath.Glob("../testdata/*/in.yaml")
	require.NoError(t, err)
	require.NotEmpty(t, cases)
	patched, complaints := 0, 0
	for _, in := range cases {
		dir := filepath.Dir(in)
		name := filepath.Base(dir)
		if name == "not-yaml" || name == "crlf" || name == "list" || name == "classes-bad" {
			continue // about text, which the API server has read before, and about classes, which TestClasses has
		}
		for _, mode := range []webhook.Mode{webhook.Node, webhook.Privileged} {
			t.Run(name+"/"+string(mode), func(t *testing.T) {
				h := newGoldenServer(t, mode, objectsOf(t, in))
				want := filepath.Join(dir, string(mode))
				if _, err := os.Stat(want + ".yaml"); err == nil {
					patched += h.patches(t, objectsOf(t, in), objectsOf(t, want+".yaml"))
					return
				}
				golden, err := os.ReadFile(want + ".errors.txt")
				if errors.Is(err, os.ErrNotExist) {
					golden, err = os.ReadFile(filepath.Join(dir, "errors.txt"))
				}
				require.NoError(t, err)
				complaints += h.complaints(t, objectsOf(t, in), string(golden))
			})
		}
	}
	require.Greater(t, patched, 30)
	t.Log(patched, complaints)
	require.Greater(t, complaints, 80)
}

// allowing has only namespaces whose pods may have privileged sidecars.
type allowing struct{ client.Reader }

func (allowing) Get(_ context.Context, key client.ObjectKey, o client.Object, _ ...client.GetOption) error {
	o.SetName(key.Name)
	o.SetLabels(map[string]string{webhook.LabelPrivileged: webhook.PrivilegedAllowed})
	return nil
}

type goldenServer struct{ *httptest.Server }

func newGoldenServer(t *testing.T, mode webhook.Mode, objects []map[string]any) goldenServer {
	var found objectReader
	for _, o := range objects {
		if o["kind"] == "VolumeClass" && o["apiVersion"] == "remora.dev/v1alpha1" {
			u := unstructured.Unstructured{Object: o}
			u.SetUID(types.UID(fmt.Sprint("class-", len(found))))
			found = append(found, u)
		}
	}
	spans, err := telemetry.New(telemetry.Config{Service: "test"})
	require.NoError(t, err)
	c := &classes{cached: found, live: found}
	may := permits{mode: mode, live: allowing{}}
	p := &pods{mode: mode, classes: c, permits: may, places: placement{found, found}}
	s := goldenServer{httptest.NewServer(handlers(newObserver(spans), p, &workloads{mode: mode, classes: c, permits: may}))}
	t.Cleanup(s.Close)
	return s
}

// patches compares every pod and template of in with that of want, and returns how many.
func (h goldenServer) patches(t *testing.T, in, want []map[string]any) (n int) {
	require.Equal(t, len(in), len(want))
	for i := range in {
		pod, path := podOf(in[i])
		if pod == nil {
			continue
		}
		before, err := json.Marshal(pod)
		require.NoError(t, err)
		r := h.ask(t, PathMutatePods, "Pod", before)
		require.True(t, r.Allowed, "%s: %v", path, r.Result)
		after := before
		if len(r.Patch) > 0 {
			p, err := jsonpatch.DecodePatch(r.Patch)
			require.NoError(t, err)
			after, err = p.Apply(before)
			require.NoError(t, err)
		}
		golden, _ := podOf(want[i])
		text, err := json.Marshal(golden)
		require.NoError(t, err)
		require.JSONEq(t, string(text), string(after), "%s of document %d", path, i+1)

		again := h.ask(t, PathMutatePods, "Pod", after)
		require.True(t, again.Allowed)
		require.Empty(t, again.Patch, "the second injection changed something")
		checked := h.ask(t, PathValidatePods, "Pod", after)
		require.True(t, checked.Allowed, "%v", checked.Result)
		n++
	}
	return n
}

// complaints compares what is said about each object with the golden lines about it, and returns how many lines.
func (h goldenServer) complaints(t *testing.T, in []map[string]any, golden string) (n int) {
	for _, o := range in {
		kind, _ := o["kind"].(string)
		meta, _ := o["metadata"].(map[string]any)
		name, _ := meta["name"].(string)
		if kind == "VolumeClass" || kind == "" || name == "" || !isKind(kind) || strings.Count(golden, kind+"/"+name+": apiVersion:") > 0 {
			continue
		}
		var want []string
		for line := range strings.Lines(golden) {
			if _, text, ok := strings.Cut(line, " "+kind+"/"+name+": "); ok {
				want = append(want, strings.TrimSpace(text))
			}
		}
		if !allStrings(o) || strings.Contains(strings.Join(want, "\n"), "is there twice in one mapping") {
			continue // the API server refuses such an object before it asks
		}
		text, err := json.Marshal(o)
		require.NoError(t, err)
		path := PathMutatePods
		if kind != "Pod" {
			path = PathValidateWorkloads
		}
		r := h.ask(t, path, kind, text)
		require.Equal(t, len(want) == 0, r.Allowed, "%s/%s: %v", kind, name, r.Result)
		if len(want) == 0 {
			continue
		}
		for _, line := range want {
			require.Contains(t, r.Result.Message, line, "%s/%s", kind, name)
			n++
		}
		require.Equal(t, len(want) > 1, strings.Contains(r.Result.Message, " problems:\n"), r.Result.Message)
	}
	return n
}

func (h goldenServer) ask(t *testing.T, path, kind string, object []byte) *admissionv1.AdmissionResponse {
	yes := true
	review := admissionv1.AdmissionReview{Request: &admissionv1.AdmissionRequest{
		UID: "u", Operation: admissionv1.Create, Namespace: "default", DryRun: &yes,
		Kind: metav1.GroupVersionKind{Version: "v1", Kind: kind}, Object: runtime.RawExtension{Raw: object},
	}}
	review.APIVersion, review.Kind = "admission.k8s.io/v1", "AdmissionReview"
	body, err := json.Marshal(review)
	require.NoError(t, err)
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, h.URL+path, bytes.NewReader(body))
	require.NoError(t, err)
	req.Header.Set("Content-Type", "application/json")
	resp, err := h.Client().Do(req)
	require.NoError(t, err)
	defer resp.Body.Close()
	var answer admissionv1.AdmissionReview
	require.NoError(t, json.NewDecoder(resp.Body).Decode(&answer))
	require.NotNil(t, answer.Response)
	return answer.Response
}

// allStrings says whether every annotation of a pod is a string.
func allStrings(o map[string]any) bool {
	pod, _ := podOf(o)
	meta, _ := pod["metadata"].(map[string]any)
	annotations, _ := meta["annotations"].(map[string]any)
	for _, v := range annotations {
		if _, ok := v.(string); !ok {
			return false
		}
	}
	return true
}

// podOf returns the pod of an object, or one made of its template; nil for other kinds.
func podOf(o map[string]any) (pod map[string]any, path string) {
	kind, _ := o["kind"].(string)
	var at []string
	switch kind {
	case "Pod":
		return o, "Pod"
	case "Deployment", "StatefulSet", "DaemonSet", "Job":
		at = []string{"spec", "template"}
	case "CronJob":
		at = []string{"spec", "jobTemplate", "spec", "template"}
	default:
		return nil, ""
	}
	template, ok, _ := unstructured.NestedMap(o, at...)
	if !ok {
		return nil, ""
	}
	template["apiVersion"], template["kind"] = "v1", "Pod"
	_ = unstructured.SetNestedField(template, "pod", "metadata", "name")
	return template, kind
}

func isKind(kind string) bool {
	switch kind {
	case "Pod", "Deployment", "StatefulSet", "DaemonSet", "Job", "CronJob":
		return true
	}
	return false
}

// objectsOf reads the objects of a file, those in Lists too, as JSON would have them.
func objectsOf(t *testing.T, path string) (all []map[string]any) {
	data, err := os.ReadFile(path)
	require.NoError(t, err)
	d := yaml.NewDecoder(bytes.NewReader(data))
	for {
		var value map[string]any
		if err := d.Decode(&value); errors.Is(err, io.EOF) {
			return all
		} else if err != nil {
			return all // the rest is about text
		}
		text, err := json.Marshal(value)
		require.NoError(t, err)
		u := map[string]any{}
		require.NoError(t, json.Unmarshal(text, &u))
		all = appendObjects(all, u)
	}
}

func appendObjects(all []map[string]any, o map[string]any) []map[string]any {
	items, isList := o["items"].([]any)
	if !isList {
		if o != nil {
			all = append(all, integers(o).(map[string]any))
		}
		return all
	}
	of, _ := strings.CutSuffix(o["kind"].(string), "List")
	for _, item := range items {
		m := item.(map[string]any)
		if of != "" && m["kind"] == nil {
			m["kind"], m["apiVersion"] = of, o["apiVersion"]
		}
		all = appendObjects(all, m)
	}
	return all
}

// integers makes whole numbers what unstructured objects want them to be.
func integers(v any) any {
	switch v := v.(type) {
	case map[string]any:
		for k := range v {
			v[k] = integers(v[k])
		}
	case []any:
		for i := range v {
			v[i] = integers(v[i])
		}
	case float64:
		if v == float64(int64(v)) {
			return int64(v)
		}
	}
	return v
}

// objectReader is a cluster that has these objects and no others.
type objectReader []unstructured.Unstructured

func (r objectReader) Get(_ context.Context, key client.ObjectKey, o client.Object, _ ...client.GetOption) error {
	u, ok := o.(*unstructured.Unstructured)
	for i := range r {
		if ok && r[i].GetKind() == u.GetKind() && r[i].GetName() == key.Name {
			r[i].DeepCopyInto(u)
			return nil
		}
	}
	return apierrors.NewNotFound(schema.GroupResource{}, key.Name)
}

func (r objectReader) List(_ context.Context, l client.ObjectList, _ ...client.ListOption) error {
	if u, ok := l.(*unstructured.UnstructuredList); ok {
		u.Items = r
	}
	return nil
}
