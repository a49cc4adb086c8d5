package admission

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-logr/logr"
	"github.com/stretchr/testify/require"
	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"sigs.k8s.io/controller-runtime/pkg/client"
	ctrllog "sigs.k8s.io/controller-runtime/pkg/log"

	"github.com/remora-storage/remora/api/v1alpha1"
	"github.com/remora-storage/remora/e2e/cluster/apiserver"
	"github.com/remora-storage/remora/webhook"
)

// patience is how long a test waits for what must happen, on a machine that others load.
const patience = 2 * time.Minute

const image = "remora:test"

// k8s is a real API server with the manifests of manifests/base that concern admission, and the webhook in this process.
type k8s struct {
	server *apiserver.Server
	config *rest.Config
	client client.Client
	warned *warnings
	tls    string // directory of the webhook's certificate
	url    string
	stop   func() error // ends the webhook
	run    func(t testing.TB, change ...func(*Config))
}

// shared is started by the first test that needs it, and stopped by TestMain.
var shared struct {
	once sync.Once
	k    *k8s
	err  error
	end  []func()
}

func TestMain(m *testing.M) {
	ctrllog.SetLogger(logr.Discard())
	code := m.Run()
	for _, end := range shared.end {
		end()
	}
	os.Exit(code)
}

// realCluster returns the API server that all tests share: each works in namespaces of its own.
func realCluster(t testing.TB) *k8s {
	t.Helper()
	shared.once.Do(func() { shared.k, shared.err = startCluster() })
	require.NoError(t, shared.err)
	return shared.k
}

func startCluster() (*k8s, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Minute)
	defer cancel()
	dir, err := os.MkdirTemp("", "remora-admission-")
	if err != nil {
		return nil, err
	}
	shared.end = append(shared.end, func() { _ = os.RemoveAll(dir) })
	s, stop, err := apiserver.Run(context.Background(), dir)
	if err != nil {
		return nil, err
	}
	shared.end = append([]func(){stop}, shared.end...)
	k := &k8s{server: s, warned: &warnings{}, tls: filepath.Join(dir, "tls"), stop: func() error { return nil }}
	if k.config, err = clientcmd.BuildConfigFromFlags("", s.Kubeconfig); err != nil {
		return nil, err
	}
	k.config.QPS, k.config.WarningHandler = -1, k.warned
	all := runtime.NewScheme()
	if err := errors.Join(scheme.AddToScheme(all), v1alpha1.AddToScheme(all)); err != nil {
		return nil, err
	}
	if err := errors.Join(os.MkdirAll(k.tls, 0o700), k.newCertificate()); err != nil {
		return nil, err
	}
	l, err := net.Listen("tcp", "127.0.0.1:0") // for good: the port must stay ours while no webhook runs
	if err != nil {
		return nil, err
	}
	door := &door{Listener: l, in: make(chan net.Conn)}
	go door.accept()
	shared.end = append([]func(){func() { _ = k.stop(); _ = l.Close() }}, shared.end...)
	k.url = "https://" + l.Addr().String()
	if k.client, err = client.New(k.config, client.Options{Scheme: all}); err != nil {
		return nil, err
	}
	for _, file := range []string{"crd-volumeclasses.yaml", "crd-volumes.yaml", "namespace.yaml"} {
		if err := k.apply(ctx, file, nil); err != nil {
			return nil, err
		}
	}
	if k.client, err = k.established(ctx, all); err != nil { // a client that knows the new resources
		return nil, err
	}
	if err := k.start(door); err != nil {
		return nil, err
	}
	for _, file := range []string{"injector/webhooks.yaml", "policies.yaml"} {
		if err := k.apply(ctx, file, k.local); err != nil {
			return nil, err
		}
	}
	return k, k.settled(ctx)
}

// established waits until the new kinds are served.
func (k *k8s) established(ctx context.Context, all *runtime.Scheme) (client.Client, error) {
	var last error
	for ctx.Err() == nil {
		c, err := client.New(k.config, client.Options{Scheme: all})
		if err == nil {
			if err = c.List(ctx, &v1alpha1.VolumeObjectList{}); err == nil {
				list := &unstructured.UnstructuredList{}
				list.SetAPIVersion(v1alpha1.APIVersion)
				list.SetKind(v1alpha1.KindVolumeClass + "List")
				if err = c.List(ctx, list); err == nil {
					return c, nil
				}
			}
		}
		last = err
		pause(ctx)
	}
	return nil, fmt.Errorf("the kinds of Remora are not served: %w", last)
}

func pause(ctx context.Context) {
	select {
	case <-ctx.Done():
	case <-time.After(20 * time.Millisecond):
	}
}

// settled waits until the API server calls the webhook and knows the policies: it reads its configurations by and by.
func (k *k8s) settled(ctx context.Context) error {
	ns := &corev1.Namespace{}
	ns.Name, ns.Labels = "settled", map[string]string{"remora.dev/injection": "enabled"}
	if err := k.client.Create(ctx, ns); err != nil {
		return err
	}
	return k.answering(ctx)
}

// answering waits until a pod is both mutated and validated.
func (k *k8s) answering(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	var last error
	for in := 0; ctx.Err() == nil; in++ {
		pod := annotated("settled", fmt.Sprint("p", in), nil)
		last = k.client.Create(ctx, pod, client.DryRunAll)
		pod.Annotations = map[string]string{"remora.dev/inject": "false"}
		pod.Spec.InitContainers = []corev1.Container{{Name: "remora", Image: "x"}}
		if refusal := k.client.Create(ctx, pod, client.DryRunAll); last == nil && refusal != nil && strings.Contains(refusal.Error(), "is the injector's container") {
			return nil
		} else if last == nil {
			last = fmt.Errorf("not validated: %w", refusal)
		}
		pause(ctx)
	}
	return fmt.Errorf("the webhook is not called: %w", last)
}

// door lets a webhook that starts again listen at the address of the one before.
type door struct {
	net.Listener
	in   chan net.Conn
	open atomic.Bool // somebody is there
}

func (d *door) accept() {
	for {
		c, err := d.Listener.Accept()
		if err != nil {
			return
		}
		if !d.open.Load() {
			_ = c.Close()
			continue
		}
		d.in <- c
	}
}

// room is what one webhook listens at.
type room struct {
	*door
	closed chan struct{}
	once   sync.Once
}

func (r *room) Accept() (net.Conn, error) {
	select {
	case c := <-r.in:
		return c, nil
	case <-r.closed:
		return nil, net.ErrClosed
	}
}

func (r *room) Close() error {
	r.once.Do(func() {
		r.open.Store(false)
		close(r.closed)
		select {
		case c := <-r.in: // one that came too late
			_ = c.Close()
		default:
		}
	})
	return nil
}

// start runs the webhook. run starts it again after stop.
func (k *k8s) start(d *door) error {
	begin := func(change ...func(*Config)) {
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan error, 1)
		d.open.Store(true)
		cfg := Config{Mode: webhook.Node, Inject: webhook.Config{Image: image, AllowedImages: []string{"remora:v*"}}, Listener: &room{door: d, closed: make(chan struct{})},
			TLSDir: k.tls, Reload: 100 * time.Millisecond, Kubernetes: k.config, Logger: slog.New(slog.NewTextHandler(io.Discard, nil))}
		for _, c := range change {
			c(&cfg)
		}
		go func() { done <- Run(ctx, cfg) }()
		k.stop = sync.OnceValue(func() error { cancel(); return <-done })
	}
	k.run = func(t testing.TB, change ...func(*Config)) {
		require.NoError(t, k.stop())
		begin(change...)
	}
	begin()
	return nil
}

// newCertificate puts a new certificate where the webhook looks for it, as kubelet does it with a Secret: by a rename.
func (k *k8s) newCertificate() error {
	cert, key, err := k.server.Certificate("127.0.0.1")
	if err != nil {
		return err
	}
	next, err := os.MkdirTemp(k.tls, "..")
	if err != nil {
		return err
	}
	link := filepath.Join(k.tls, "..data_tmp")
	before, _ := os.Readlink(filepath.Join(k.tls, "..data"))
	err = errors.Join(os.WriteFile(filepath.Join(next, "tls.crt"), cert, 0o600), os.WriteFile(filepath.Join(next, "tls.key"), key, 0o600),
		os.Symlink(filepath.Base(next), link), os.Rename(link, filepath.Join(k.tls, "..data")))
	for _, name := range []string{"tls.crt", "tls.key"} {
		if err := os.Symlink(filepath.Join("..data", name), filepath.Join(k.tls, name)); err != nil && !errors.Is(err, os.ErrExist) {
			return err
		}
	}
	if before != "" {
		err = errors.Join(err, os.RemoveAll(filepath.Join(k.tls, before)))
	}
	return err
}

// apply creates the objects of a file of manifests/base.
func (k *k8s) apply(ctx context.Context, file string, change func(*unstructured.Unstructured) error) error {
	data, err := os.ReadFile(filepath.Join("../../manifests/base", file))
	if err != nil {
		return err
	}
	d := yaml.NewYAMLOrJSONDecoder(bytes.NewReader(data), 4096)
	for {
		u := &unstructured.Unstructured{}
		if err := d.Decode(&u.Object); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
		if change != nil {
			if err := change(u); err != nil {
				return err
			}
		}
		if err := k.client.Create(ctx, u); err != nil {
			return fmt.Errorf("%s: %s %s: %w", file, u.GetKind(), u.GetName(), err)
		}
	}
}

// local lets a configuration call the webhook in this process, not the Service.
func (k *k8s) local(u *unstructured.Unstructured) error {
	if !strings.HasSuffix(u.GetKind(), "WebhookConfiguration") {
		return nil
	}
	hooks, _, err := unstructured.NestedSlice(u.Object, "webhooks")
	if err != nil {
		return err
	}
	for _, h := range hooks {
		hook := h.(map[string]any)
		path, _, err := unstructured.NestedString(hook, "clientConfig", "service", "path")
		if err != nil {
			return err
		}
		data, err := runtime.DefaultUnstructuredConverter.ToUnstructured(&admissionregistrationv1.WebhookClientConfig{URL: new(k.url + path), CABundle: k.server.CA})
		if err != nil {
			return err
		}
		hook["clientConfig"], hook["timeoutSeconds"] = data, int64(30) // the machine may be busy
	}
	return unstructured.SetNestedSlice(u.Object, hooks, "webhooks")
}

// namespace makes a namespace for a test, opted in unless labels say otherwise.
func (k *k8s) namespace(t testing.TB, labels ...string) string {
	ns := &corev1.Namespace{}
	ns.GenerateName, ns.Labels = "test-", map[string]string{"remora.dev/injection": "enabled", "pod-security.kubernetes.io/enforce": "restricted"}
	for i := 0; i < len(labels); i += 2 {
		ns.Labels[labels[i]] = labels[i+1]
	}
	require.NoError(t, k.client.Create(t.Context(), ns))
	return ns.Name
}

// annotated is a pod of restricted Pod Security with a volume data; annotations nil: of 1Gi.
func annotated(namespace, name string, annotations map[string]string) *corev1.Pod {
	if annotations == nil {
		annotations = map[string]string{"remora.dev/volumes": "data", "data.remora.dev/size": "1Gi"}
	}
	pod := &corev1.Pod{}
	pod.Namespace, pod.Name, pod.Annotations = namespace, name, annotations
	pod.Spec = restricted()
	return pod
}

func restricted() corev1.PodSpec {
	id := int64(1000)
	return corev1.PodSpec{
		SecurityContext: &corev1.PodSecurityContext{RunAsNonRoot: new(true), RunAsUser: &id, FSGroup: &id, SeccompProfile: &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeRuntimeDefault}},
		Containers: []corev1.Container{{Name: "app", Image: "app", VolumeMounts: []corev1.VolumeMount{{Name: "data", MountPath: "/data"}},
			SecurityContext: &corev1.SecurityContext{AllowPrivilegeEscalation: new(false), Capabilities: &corev1.Capabilities{Drop: []corev1.Capability{"ALL"}}}}},
	}
}

// eventually polls until f returns no error.
func eventually(t testing.TB, f func() error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	for {
		err := f()
		if err == nil {
			return
		}
		if ctx.Err() != nil {
			require.NoError(t, err, "still after %v", patience)
		}
		pause(ctx)
	}
}

// event waits for an event of the reason about the pod, and returns its text.
func (k *k8s) event(t testing.TB, pod *corev1.Pod, reason string) (text string) {
	t.Helper()
	eventually(t, func() error {
		list := &eventsv1.EventList{}
		if err := k.client.List(t.Context(), list, client.InNamespace(pod.Namespace)); err != nil {
			return err
		}
		for _, e := range list.Items {
			if e.Regarding.UID == pod.UID && e.Reason == reason {
				text = e.Note
				return nil
			}
		}
		return fmt.Errorf("no event %s about %s among %d", reason, pod.Name, len(list.Items))
	})
	return text
}

// warnings are what the API server warns of.
type warnings struct {
	mu  sync.Mutex
	all []string
}

// HandleWarningHeader is client-go's.
func (w *warnings) HandleWarningHeader(_ int, _, text string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.all = append(w.all, text)
}

// take returns what was warned of since the last call.
func (w *warnings) take() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	defer func() { w.all = nil }()
	return strings.Join(w.all, "\n")
}

type ctx = context.Context

// background is the context of clean-ups, which come after the test's own.
func background() context.Context { return context.Background() }

func inNamespace(name string) *metav1.LabelSelector {
	return &metav1.LabelSelector{MatchLabels: map[string]string{corev1.LabelMetadataName: name}}
}

var errNotCalled = errors.New("the other webhook was not called")

// wantError is no error if err says text.
func wantError(err error, text string) error {
	if err == nil || !strings.Contains(err.Error(), text) {
		return fmt.Errorf("%w, not %q", errors.Join(errors.New("got"), err), text)
	}
	return nil
}

// second runs another webhook in this process, and returns its URL.
func (k *k8s) second(t *testing.T, change func(*Config)) (url string) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	cfg := Config{Mode: webhook.Node, Listener: l, TLSDir: k.tls, Kubernetes: k.config, Logger: slog.New(slog.NewTextHandler(io.Discard, nil))}
	change(&cfg)
	go func() { done <- Run(ctx, cfg) }()
	t.Cleanup(func() { cancel(); require.NoError(t, <-done) })
	return "https://" + l.Addr().String()
}
