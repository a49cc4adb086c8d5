package node_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/uuid"

	"github.com/remora-storage/remora/api/v1alpha1"
	"github.com/remora-storage/remora/node"
)

// fakeAPI is an API server of objects in memory: GET, POST with 409 if the object is there, PUT with 409 if resourceVersion is not the
// object's. It is a server of its own so that the plugin is a process that can be killed.
type fakeAPI struct {
	t      *testing.T
	server *httptest.Server

	mu      sync.Mutex
	objects map[string]map[string]any // by path
	version int
	reads   map[string]int // by path
	away    bool
	fail    func(method, path string) int // status to answer instead; 0: none
}

func newFakeAPI(t *testing.T) *fakeAPI {
	a := &fakeAPI{t: t, objects: map[string]map[string]any{}, reads: map[string]int{}}
	a.server = httptest.NewServer(a)
	t.Cleanup(a.server.Close)
	return a
}

func (a *fakeAPI) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	a.mu.Lock()
	defer a.mu.Unlock()
	code, out := a.do(r)
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	_ = json.NewEncoder(w).Encode(out)
}

func (a *fakeAPI) do(r *http.Request) (int, any) {
	refuse := func(code int) (int, any) {
		return code, metav1.Status{Message: fmt.Sprint("fake: ", r.Method, " ", r.URL.Path), Code: int32(code)}
	}
	if a.away {
		return refuse(http.StatusServiceUnavailable)
	}
	if a.fail != nil {
		if code := a.fail(r.Method, r.URL.Path); code != 0 {
			return refuse(code)
		}
	}
	var in map[string]any
	if r.Method != http.MethodGet {
		if err := json.NewDecoder(r.Body).Decode(&in); err != nil {
			return refuse(http.StatusBadRequest)
		}
	}
	have := a.objects[r.URL.Path]
	switch r.Method {
	case http.MethodGet:
		a.reads[r.URL.Path]++
		if label := r.URL.Query().Get("labelSelector"); label != "" {
			return http.StatusOK, map[string]any{"items": a.labelled(r.URL.Path, label)}
		}
		if have == nil {
			return refuse(http.StatusNotFound)
		}
		return http.StatusOK, have
	case http.MethodPost:
		path := r.URL.Path + "/" + meta(in)["name"].(string)
		if a.objects[path] != nil {
			return refuse(http.StatusConflict)
		}
		meta(in)["uid"] = string(uuid.NewUUID())
		a.store(path, in)
		return http.StatusCreated, in
	case http.MethodPut:
		if have == nil {
			return refuse(http.StatusNotFound)
		}
		if meta(in)["resourceVersion"] != meta(have)["resourceVersion"] {
			return refuse(http.StatusConflict)
		}
		meta(in)["uid"] = meta(have)["uid"]
		a.store(r.URL.Path, in)
		return http.StatusOK, in
	}
	return refuse(http.StatusMethodNotAllowed)
}

// labelled are the objects of a resource, of all namespaces, that have a label.
func (a *fakeAPI) labelled(path, label string) []any {
	all := []any{}
	group, resource := path[:strings.LastIndex(path, "/")], path[strings.LastIndex(path, "/"):]
	for at, o := range a.objects {
		labels, _ := meta(o)["labels"].(map[string]any)
		if _, ok := labels[label]; ok && strings.HasPrefix(at, group+"/namespaces/") && strings.HasSuffix(at[:strings.LastIndex(at, "/")], resource) {
			all = append(all, o)
		}
	}
	return all
}

func meta(o map[string]any) map[string]any { return o["metadata"].(map[string]any) }

func (a *fakeAPI) store(path string, o map[string]any) {
	a.version++
	meta(o)["resourceVersion"] = strconv.Itoa(a.version)
	a.objects[path] = o
}

// gets is how often an object was read.
func (a *fakeAPI) gets(path string) int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.reads[path]
}

// put makes or replaces an object.
func (a *fakeAPI) put(path string, o any) {
	a.t.Helper()
	b, err := json.Marshal(o)
	require.NoError(a.t, err)
	var m map[string]any
	require.NoError(a.t, json.Unmarshal(b, &m))
	a.mu.Lock()
	defer a.mu.Unlock()
	a.store(path, m)
}

func (a *fakeAPI) get(path string, o any) bool {
	a.t.Helper()
	a.mu.Lock()
	defer a.mu.Unlock()
	have := a.objects[path]
	if have == nil {
		return false
	}
	b, err := json.Marshal(have)
	require.NoError(a.t, err)
	require.NoError(a.t, json.Unmarshal(b, o))
	return true
}

func (a *fakeAPI) remove(path string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	delete(a.objects, path)
}

func (a *fakeAPI) setAway(away bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.away = away
}

func (a *fakeAPI) failing(fail func(method, path string) int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.fail = fail
}

func volumePath(namespace, name string) string {
	return "/apis/remora.dev/v1alpha1/namespaces/" + namespace + "/volumes/" + name
}

func podPath(namespace, name string) string {
	return "/api/v1/namespaces/" + namespace + "/pods/" + name
}

// volume reads a Volume that must be there.
func (a *fakeAPI) volume(namespace, name string) v1alpha1.VolumeObject {
	a.t.Helper()
	var o v1alpha1.VolumeObject
	require.True(a.t, a.get(volumePath(namespace, name), &o), "there is no Volume %s/%s", namespace, name)
	return o
}

// reasons are those of the events of a pod.
func (a *fakeAPI) reasons(pod string) []string {
	a.mu.Lock()
	defer a.mu.Unlock()
	var all []string
	for path, o := range a.objects {
		if strings.Contains(path, "/events/") && o["involvedObject"].(map[string]any)["name"] == pod {
			all = append(all, o["reason"].(string))
		}
	}
	return all
}

// optIn makes a namespace whose pods may have volumes.
func (a *fakeAPI) optIn(name string) {
	a.put("/api/v1/namespaces/"+name, corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"remora.dev/injection": "enabled"}}})
}

// pod makes an injected pod on a node; change, if any, changes it before.
func (a *fakeAPI) pod(namespace, name, on string, volumes []string, change func(*corev1.Pod)) *corev1.Pod {
	always := corev1.ContainerRestartPolicyAlways
	p := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name, UID: types.UID(uuid.NewUUID())},
		Spec: corev1.PodSpec{NodeName: on, InitContainers: []corev1.Container{{
			Name: "remora", RestartPolicy: &always, Args: []string{"sidecar", "--mode=node"}}}},
	}
	inline := func(name string, attributes map[string]string) {
		p.Spec.Volumes = append(p.Spec.Volumes, corev1.Volume{Name: name, VolumeSource: corev1.VolumeSource{
			CSI: &corev1.CSIVolumeSource{Driver: node.Driver, VolumeAttributes: attributes}}})
	}
	inline("remora-disks", map[string]string{"kind": "disks"})
	for _, v := range volumes {
		inline(v, map[string]string{"kind": "mount", "volume": v})
		p.Spec.InitContainers[0].Args = append(p.Spec.InitContainers[0].Args, "--volume="+flagOf(v))
	}
	if change != nil {
		change(p)
	}
	a.put(podPath(namespace, name), p)
	return p
}

func flagOf(volume string) string {
	return "name=" + volume + ",size=1073741824,class=default,replicas=1,sealing=on,trace=off"
}

// kubeconfig writes a file with which to reach the server.
func (a *fakeAPI) kubeconfig(dir string) string {
	path := filepath.Join(dir, "kubeconfig")
	text := fmt.Sprintf(`{"apiVersion":"v1","kind":"Config","current-context":"c","contexts":[{"name":"c","context":{"cluster":"c","user":"u"}}],
"clusters":[{"name":"c","cluster":{"server":%q}}],"users":[{"name":"u","user":{}}]}`, a.server.URL)
	require.NoError(a.t, os.WriteFile(path, []byte(text), 0o600))
	return path
}
