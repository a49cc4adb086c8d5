package kube

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/uuid"

	"github.com/remora-storage/remora/api/v1alpha1"
)

// Pod reads a pod. ErrNotFound.
func (c *Client) Pod(ctx context.Context, namespace, name string) (*corev1.Pod, error) {
	var p corev1.Pod
	return &p, c.do(ctx, http.MethodGet, "/api/v1/namespaces/"+namespace+"/pods/"+name, nil, &p)
}

// Namespace reads a namespace. ErrNotFound.
func (c *Client) Namespace(ctx context.Context, name string) (*corev1.Namespace, error) {
	var n corev1.Namespace
	return &n, c.do(ctx, http.MethodGet, "/api/v1/namespaces/"+name, nil, &n)
}

// Class reads a VolumeClass. ErrNotFound.
func (c *Client) Class(ctx context.Context, name string) (*v1alpha1.VolumeClass, error) {
	var v v1alpha1.VolumeClass
	return &v, c.do(ctx, http.MethodGet, "/apis/"+v1alpha1.APIVersion+"/volumeclasses/"+name, nil, &v)
}

func volumes(namespace string) string {
	return "/apis/" + v1alpha1.APIVersion + "/namespaces/" + namespace + "/" + v1alpha1.VolumeResource
}

// Volume reads a Volume. ErrNotFound.
func (c *Client) Volume(ctx context.Context, namespace, name string) (*v1alpha1.VolumeObject, error) {
	var v v1alpha1.VolumeObject
	return &v, c.do(ctx, http.MethodGet, volumes(namespace)+"/"+name, nil, &v)
}

// LabelledVolumes are those of all namespaces that have the label, whatever its value.
func (c *Client) LabelledVolumes(ctx context.Context, label string) ([]v1alpha1.VolumeObject, error) {
	var list struct {
		Items []v1alpha1.VolumeObject `json:"items"`
	}
	return list.Items, c.do(ctx, http.MethodGet, "/apis/"+v1alpha1.APIVersion+"/"+v1alpha1.VolumeResource+"?labelSelector="+url.QueryEscape(label), nil, &list)
}

// CreateVolume makes a Volume. ErrConflict if there is one of that name.
func (c *Client) CreateVolume(ctx context.Context, v *v1alpha1.VolumeObject) (*v1alpha1.VolumeObject, error) {
	var made v1alpha1.VolumeObject
	return &made, c.do(ctx, http.MethodPost, volumes(v.Namespace), v, &made)
}

// UpdateVolume changes a Volume if it is what was read. ErrConflict if it is not.
func (c *Client) UpdateVolume(ctx context.Context, v *v1alpha1.VolumeObject) (*v1alpha1.VolumeObject, error) {
	var now v1alpha1.VolumeObject
	return &now, c.do(ctx, http.MethodPut, volumes(v.Namespace)+"/"+v.Name, v, &now)
}

// Owner is the controller above a pod, as far as its volumes care.
type Owner struct {
	Kind     string // of the topmost: StatefulSet, Deployment, ReplicaSet, DaemonSet, Job, CronJob or what else stands in the pod
	Name     string
	Replicas int  // pods that run at one time; of Deployment, ReplicaSet, Job and CronJob
	Indexed  bool // a Job whose pods have an index each
}

// Owner climbs from a pod's controller to the one that people made. ErrNotFound if it is gone.
func (c *Client) Owner(ctx context.Context, namespace string, ref metav1.OwnerReference) (Owner, error) {
	o := Owner{Kind: ref.Kind, Name: ref.Name}
	switch strings.SplitN(ref.APIVersion, "/", 2)[0] + "/" + ref.Kind {
	case "apps/ReplicaSet":
		var rs appsv1.ReplicaSet
		if err := c.do(ctx, http.MethodGet, "/apis/apps/v1/namespaces/"+namespace+"/replicasets/"+ref.Name, nil, &rs); err != nil {
			return o, err
		}
		o.Replicas = count(rs.Spec.Replicas)
		if up := metav1.GetControllerOf(&rs); up != nil && up.Kind == "Deployment" {
			return c.deployment(ctx, namespace, up.Name)
		}
	case "batch/Job":
		var job batchv1.Job
		if err := c.do(ctx, http.MethodGet, "/apis/batch/v1/namespaces/"+namespace+"/jobs/"+ref.Name, nil, &job); err != nil {
			return o, err
		}
		o.Replicas = count(job.Spec.Parallelism)
		if up := metav1.GetControllerOf(&job); up != nil && up.Kind == "CronJob" {
			o.Kind, o.Name = "CronJob", up.Name
		}
	}
	return o, nil
}

func (c *Client) deployment(ctx context.Context, namespace, name string) (Owner, error) {
	var d appsv1.Deployment
	err := c.do(ctx, http.MethodGet, "/apis/apps/v1/namespaces/"+namespace+"/deployments/"+name, nil, &d)
	return Owner{Kind: "Deployment", Name: name, Replicas: count(d.Spec.Replicas)}, err
}

func count(n *int32) int {
	if n == nil {
		return 1
	}
	return int(*n)
}

// Keys keeps the keys of volumes as Secrets of one namespace that tenants cannot read.
type Keys struct {
	Client    *Client
	Namespace string
}

// The labels of a key's Secret: whose it is.
const (
	labelNamespace = "remora.dev/namespace"
	keyField       = "key"
)

func (k Keys) path() string { return "/api/v1/namespaces/" + k.Namespace + "/secrets" }

func secretName(uid string) string { return "volume-" + uid }

// Key reads the key of a volume. ErrNotFound.
func (k Keys) Key(ctx context.Context, v v1alpha1.Volume) ([]byte, error) {
	var s corev1.Secret
	if err := k.Client.do(ctx, http.MethodGet, k.path()+"/"+secretName(v.UID), nil, &s); err != nil {
		return nil, err
	}
	if s.Labels[labelNamespace] != v.Namespace {
		return nil, fmt.Errorf("secret %s/%s belongs to namespace %q, not to %q", k.Namespace, s.Name, s.Labels[labelNamespace], v.Namespace)
	}
	key, err := ParseKey(s.Data[keyField])
	if err != nil {
		return nil, fmt.Errorf("secret %s/%s: %q %w", k.Namespace, s.Name, keyField, err)
	}
	return key, nil
}

// ParseKey reads a key as FormatKey writes it. How long one must be is the sidecar's to know.
func ParseKey(text []byte) ([]byte, error) {
	key, err := hex.DecodeString(strings.TrimSpace(string(text)))
	if err != nil || len(key) == 0 {
		return nil, errors.New("is not a key in hexadecimal digits")
	}
	return key, nil
}

// FormatKey writes a key as it is kept.
func FormatKey(key []byte) []byte { return []byte(hex.EncodeToString(key) + "\n") }

// Make keeps a new volume's key and returns it; if another was faster, it returns that one.
func (k Keys) Make(ctx context.Context, v v1alpha1.Volume, key []byte) ([]byte, error) {
	immutable := true
	s := corev1.Secret{
		TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Secret"},
		ObjectMeta: metav1.ObjectMeta{Name: secretName(v.UID), Namespace: k.Namespace, Labels: map[string]string{labelNamespace: v.Namespace},
			Annotations: map[string]string{"remora.dev/volume": v.Namespace + "/" + v.Name}},
		Immutable: &immutable,
		Type:      "remora.dev/volume-key",
		Data:      map[string][]byte{keyField: FormatKey(key)},
	}
	err := k.Client.do(ctx, http.MethodPost, k.path(), s, nil)
	if err != nil && !errors.Is(err, ErrConflict) {
		return nil, err
	}
	return k.Key(ctx, v)
}

// Event is something that happened to a pod, or to a Volume.
type Event struct {
	Namespace, Pod, UID string
	Volume              bool // Pod is the name of a Volume
	Warning             bool
	Reason, Message     string
}

// maxMessage is what the API server takes.
const maxMessage = 1024

// Record writes an event.
func (c *Client) Record(ctx context.Context, node string, e Event) error {
	kind := corev1.EventTypeNormal
	if e.Warning {
		kind = corev1.EventTypeWarning
	}
	if len(e.Message) > maxMessage {
		e.Message = e.Message[:maxMessage-3] + "..."
	}
	about := corev1.ObjectReference{APIVersion: "v1", Kind: "Pod", Namespace: e.Namespace, Name: e.Pod, UID: types.UID(e.UID)}
	if e.Volume {
		about.APIVersion, about.Kind = v1alpha1.APIVersion, v1alpha1.KindVolume
	}
	now := metav1.NewTime(time.Now())
	return c.do(ctx, http.MethodPost, "/api/v1/namespaces/"+e.Namespace+"/events", corev1.Event{
		TypeMeta:       metav1.TypeMeta{APIVersion: "v1", Kind: "Event"},
		ObjectMeta:     metav1.ObjectMeta{Name: "remora-" + string(uuid.NewUUID()), Namespace: e.Namespace},
		InvolvedObject: about,
		Reason:         e.Reason, Message: e.Message, Type: kind, Count: 1, FirstTimestamp: now, LastTimestamp: now,
		Source: corev1.EventSource{Component: "remora-node", Host: node}, ReportingController: "remora.dev/node", ReportingInstance: node,
	}, nil)
}
