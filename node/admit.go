package node

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/remora-storage/remora/api/v1alpha1"
	"github.com/remora-storage/remora/node/kube"
	"github.com/remora-storage/remora/webhook/spec"
)

// sidecarName is the injected container's name (webhook.ContainerName).
const sidecarName = "remora"

// injectionLabel opts a namespace in.
const (
	injectionLabel = spec.Domain + "/injection"
	injectionOn    = "enabled"
)

// admitted is a volume that a pod may have.
type admitted struct {
	Volume string `json:"volume"`          // the pod's name for it
	Name   string `json:"name"`            // of the Volume object
	Size   int64  `json:"size"`            // bytes, as the pod asks
	Disk   string `json:"disk"`            // disk directory
	Local  bool   `json:"local,omitempty"` // of engine local: no sidecar serves it
	// Replica says that the Volume has a replica there: then the directory must be there, and is never made.
	Replica bool `json:"replica"`
}

// admission is what a pod may have. It never changes.
type admission struct {
	Volumes []admitted `json:"volumes"`
}

func (a *admission) find(match func(admitted) bool) (admitted, bool) {
	if a == nil {
		return admitted{}, false
	}
	if i := slices.IndexFunc(a.Volumes, match); i >= 0 {
		return a.Volumes[i], true
	}
	return admitted{}, false
}

func (a *admission) byVolume(volume string) (admitted, bool) {
	return a.find(func(v admitted) bool { return v.Volume == volume })
}

func (a *admission) byName(name string) (admitted, bool) {
	return a.find(func(v admitted) bool { return v.Name == name })
}

// disks are the disk directories that the pod's sidecar serves, each once.
func (a *admission) disks() []string {
	var names []string
	for _, v := range a.Volumes {
		if !v.Local && !slices.Contains(names, v.Disk) {
			names = append(names, v.Disk)
		}
	}
	return names
}

// refusal is an admission that failed for a reason that the pod's owner can read in an event.
type refusal struct {
	reason string // of the event
	err    error  // with a gRPC code
}

func (r *refusal) Error() string { return r.err.Error() }
func (r *refusal) Unwrap() error { return r.err }

// GRPCStatus is what the kubelet gets.
func (r *refusal) GRPCStatus() *status.Status { return status.Convert(r.err) }

func refuse(reason string, code codes.Code, format string, args ...any) error {
	return &refusal{reason, status.Errorf(code, format, args...)}
}

// away is an answer that the API server did not give.
func away(what string, err error) error {
	return status.Errorf(codes.Unavailable, "%s: %v", what, err)
}

// identify asks the API server who the pod is, and refuses one that is not what the kubelet or its author say.
func (n *node) identify(ctx context.Context, id podID) (*corev1.Pod, error) {
	pod, err := n.cfg.API.Pod(ctx, id.Namespace, id.Name)
	switch {
	case errors.Is(err, kube.ErrNotFound):
		return nil, status.Errorf(codes.FailedPrecondition, "pod %s/%s does not exist (any more)", id.Namespace, id.Name)
	case err != nil:
		return nil, away("read the pod", err)
	case string(pod.UID) != id.UID:
		return nil, status.Errorf(codes.FailedPrecondition, "pod %s/%s is %s by now, not %s", id.Namespace, id.Name, pod.UID, id.UID)
	case pod.Spec.NodeName != n.cfg.Node:
		return nil, status.Errorf(codes.PermissionDenied, "pod %s/%s is on node %q, and this is %q", id.Namespace, id.Name, pod.Spec.NodeName, n.cfg.Node)
	}
	ns, err := n.cfg.API.Namespace(ctx, id.Namespace)
	if err != nil {
		return nil, away("read the namespace", err)
	}
	if ns.Labels[injectionLabel] != injectionOn {
		return nil, refuse("NotOptedIn", codes.PermissionDenied, "namespace %s has no label %s: %s: its pods get no volumes of Remora; fix: kubectl label namespace %[1]s %[2]s=%[3]s",
			id.Namespace, injectionLabel, injectionOn)
	}
	return pod, nil
}

// injected reads what the injector wrote into the sidecar's arguments, which cannot be changed in a pod.
func injected(pod *corev1.Pod, mode string) ([]spec.Volume, error) {
	i := slices.IndexFunc(pod.Spec.InitContainers, func(c corev1.Container) bool { return c.Name == sidecarName })
	if i < 0 {
		return nil, errors.New("has no init container " + sidecarName)
	}
	c := &pod.Spec.InitContainers[i]
	if c.RestartPolicy == nil || *c.RestartPolicy != corev1.ContainerRestartPolicyAlways {
		return nil, fmt.Errorf("init container %s has lost its restartPolicy: Always, probably to another webhook", sidecarName)
	}
	if len(c.Args) == 0 || c.Args[0] != "sidecar" || !slices.Contains(c.Args, "--mode="+mode) {
		return nil, fmt.Errorf("init container %s is not a sidecar in mode %s", sidecarName, mode)
	}
	var volumes []spec.Volume
	for _, arg := range c.Args {
		flag, ok := cutFlag(arg, "volume")
		if !ok {
			continue
		}
		v, err := spec.ParseVolumeFlag(flag)
		if err != nil {
			return nil, fmt.Errorf("init container %s: %w", sidecarName, err)
		}
		if slices.ContainsFunc(volumes, func(o spec.Volume) bool { return o.Name == v.Name }) {
			return nil, fmt.Errorf("init container %s has volume %q twice", sidecarName, v.Name)
		}
		volumes = append(volumes, v)
	}
	if len(volumes) == 0 {
		return nil, fmt.Errorf("init container %s serves no volume", sidecarName)
	}
	return volumes, nil
}

// wanted is what the pod's sidecar serves, and its volumes of engine local. Both are parts of a pod that cannot be changed.
func wanted(pod *corev1.Pod) ([]spec.Volume, error) {
	var volumes []spec.Volume
	served := false
	for i := range pod.Spec.Volumes {
		v := &pod.Spec.Volumes[i]
		if v.CSI == nil || v.CSI.Driver != Driver {
			continue
		}
		if a := v.CSI.VolumeAttributes; Kind(a[attrKind]) == KindLocal {
			size, err := strconv.ParseInt(a[attrSize], 10, 64)
			if err != nil || size <= 0 || a[attrClass] == "" {
				return nil, fmt.Errorf("has volume %q of kind local with class %q and size %q", v.Name, a[attrClass], a[attrSize])
			}
			volumes = append(volumes, spec.Volume{Name: v.Name, Class: a[attrClass], Size: size, Replicas: 1, Engine: v1alpha1.EngineLocal})
			continue
		}
		served = true
	}
	if !served {
		if len(volumes) == 0 {
			return nil, errors.New("has no volumes of driver " + Driver)
		}
		return volumes, nil
	}
	by, err := injected(pod, "node")
	if err != nil {
		return nil, err
	}
	for _, v := range by {
		if slices.ContainsFunc(volumes, func(o spec.Volume) bool { return o.Name == v.Name }) {
			return nil, fmt.Errorf("has volume %q twice", v.Name)
		}
	}
	return append(by, volumes...), nil
}

func cutFlag(arg, name string) (string, bool) {
	prefix := "--" + name + "="
	if len(arg) < len(prefix) || arg[:len(prefix)] != prefix {
		return "", false
	}
	return arg[len(prefix):], true
}

// admit finds out what a pod may have, and claims it.
func (n *node) admit(ctx context.Context, id podID) (*admission, error) {
	pod, err := n.identify(ctx, id)
	if err != nil {
		return nil, err
	}
	want := wanted
	if n.hold {
		want = func(pod *corev1.Pod) ([]spec.Volume, error) { return injected(pod, "privileged") }
	}
	volumes, err := want(pod)
	if err != nil {
		return nil, refuse("NotInjected", codes.FailedPrecondition,
			"pod %s/%s %v: it was not injected, or was changed afterwards; delete it, so that its controller makes it anew", id.Namespace, id.Name, err)
	}
	slots, err := n.slots(ctx, pod)
	if err != nil {
		return nil, err
	}
	return n.claim(ctx, id, slots, volumes)
}

// slots are the names that the pod's volumes may have behind "<volume>-": the pod's own, or, where pods come and go under names of their own,
// those that its workload gives them one after another.
func (n *node) slots(ctx context.Context, pod *corev1.Pod) ([]string, error) {
	ref := metav1.GetControllerOf(pod)
	if ref == nil {
		return []string{spec.SlotOf(pod, "").Name}, nil
	}
	o, err := n.cfg.API.Owner(ctx, pod.Namespace, *ref)
	switch {
	case errors.Is(err, kube.ErrNotFound):
		return nil, status.Errorf(codes.FailedPrecondition, "%s %s/%s, which made the pod, does not exist (any more)", ref.Kind, pod.Namespace, ref.Name)
	case err != nil:
		return nil, away("read the pod's owner", err)
	}
	cronJob := ""
	if o.Kind == "CronJob" {
		cronJob = o.Name
	}
	slot := spec.SlotOf(pod, cronJob)
	if slot.Name != "" {
		return []string{slot.Name}, nil
	}
	var slots []string
	for i := range min(max(o.Replicas, 1), maxSlots) {
		slots = append(slots, slot.Workload+"-"+strconv.Itoa(i))
	}
	return slots, nil
}

// maxSlots bounds how many Volumes of a workload are looked at for one pod.
const maxSlots = 1000
