package admission

import (
	"context"
	"maps"
	"slices"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/remora-storage/remora/api/v1alpha1"
	"github.com/remora-storage/remora/webhook/spec"
)

// placement finds the nodes on which alone a pod can have its volumes: those that hold their replicas. It only reads. Where it
// guesses wrong because two pods came at once, the node plugin lets the second wait and says so; no pod ever gets an empty volume
// in place of its own.
type placement struct {
	volumes client.Reader // Volume objects, cached
	live    client.Reader // everything else, and rarely
}

// nodes returns where the pod may run; none: anywhere. The pod's namespace must be set.
func (p placement) nodes(ctx context.Context, pod *corev1.Pod, s spec.Spec) (nodes []string, problems []spec.Problem, err error) {
	if pod.Spec.NodeName != "" {
		return nil, nil, nil
	}
	cronJob, err := p.cronJob(ctx, pod)
	if err != nil {
		return nil, nil, err
	}
	slot := spec.SlotOf(pod, cronJob)
	if slot.Workload == "" {
		return nil, nil, nil
	}
	first := "" // the volume that decided first
	for _, v := range s.Volumes {
		on, err := p.volume(ctx, pod, slot, v)
		if err != nil {
			return nil, nil, err
		}
		slices.Sort(on)
		on = slices.Compact(on)
		switch {
		case len(on) == 0:
			continue
		case len(nodes) == 0:
			nodes, first = on, v.Name
			continue
		}
		both := slices.DeleteFunc(slices.Clone(nodes), func(n string) bool { return !slices.Contains(on, n) })
		if len(both) == 0 {
			return nil, []spec.Problem{{Key: spec.KeyVolumes, Value: v.Name, HasValue: true, What: "is on node " + list(on) + ", and " + first + " is on node " + list(nodes) + ": no node has both",
				Allowed: "volumes on one node", Fix: "use the volumes in pods of their own, or remove one of them from the list"}}, nil
		}
		nodes = both
	}
	return nodes, nil, nil
}

func list(names []string) (text string) {
	for i, n := range names {
		if i > 0 {
			text += " or "
		}
		text += n
	}
	return text
}

// cronJob returns the name of the CronJob that owns the pod's Job.
func (p placement) cronJob(ctx context.Context, pod *corev1.Pod) (string, error) {
	c := metav1.GetControllerOf(pod)
	if c == nil || c.Kind != "Job" || c.APIVersion != batchv1.SchemeGroupVersion.String() {
		return "", nil
	}
	job := &metav1.PartialObjectMetadata{}
	job.SetGroupVersionKind(batchv1.SchemeGroupVersion.WithKind("Job"))
	if err := p.live.Get(ctx, client.ObjectKey{Namespace: pod.Namespace, Name: c.Name}, job); apierrors.IsNotFound(err) {
		return "", nil
	} else if err != nil {
		return "", err
	}
	if o := metav1.GetControllerOf(job); o != nil && o.Kind == "CronJob" {
		return o.Name, nil
	}
	return "", nil
}

// volume returns the nodes for one pod volume.
func (p placement) volume(ctx context.Context, pod *corev1.Pod, slot spec.Slot, want spec.Volume) ([]string, error) {
	if slot.Name != "" {
		v := &v1alpha1.VolumeObject{}
		if err := p.volumes.Get(ctx, client.ObjectKey{Namespace: pod.Namespace, Name: slot.Volume(want.Name, slot.Name)}, v); apierrors.IsNotFound(err) {
			return nil, nil
		} else if err != nil {
			return nil, err
		}
		return nodesOf(v, want.Engine), nil
	}
	all := &v1alpha1.VolumeObjectList{}
	if err := p.volumes.List(ctx, all, client.InNamespace(pod.Namespace), client.UnsafeDisableDeepCopy); err != nil {
		return nil, err
	}
	slots := map[int]*v1alpha1.VolumeObject{}
	for i := range all.Items {
		if n, ok := slot.Index(want.Name, all.Items[i].Name); ok && len(nodesOf(&all.Items[i], want.Engine)) > 0 {
			slots[n] = &all.Items[i]
		}
	}
	if len(slots) == 0 {
		return nil, nil
	}
	replicas, err := p.replicas(ctx, pod)
	if err != nil {
		return nil, err
	}
	maps.DeleteFunc(slots, func(n int, _ *v1alpha1.VolumeObject) bool { return n >= replicas })
	return p.choose(ctx, pod.Namespace, slots, want.Engine, replicas)
}

// choose returns the nodes of the slots whose owner has gone; if there is none, none as long as the pod may make a new slot,
// otherwise those of all slots, one of which will be free.
func (p placement) choose(ctx context.Context, namespace string, slots map[int]*v1alpha1.VolumeObject, engine v1alpha1.Engine, replicas int) (nodes []string, err error) {
	var all []string
	for _, v := range slots {
		all = append(all, nodesOf(v, engine)...)
		gone, err := p.gone(ctx, namespace, v)
		if err != nil {
			return nil, err
		}
		if gone {
			nodes = append(nodes, nodesOf(v, engine)...)
		}
	}
	if len(nodes) > 0 || len(slots) < replicas {
		return nodes, nil
	}
	return all, nil
}

// gone says whether the pod that owned a volume is no more, or on its way out.
func (p placement) gone(ctx context.Context, namespace string, v *v1alpha1.VolumeObject) (bool, error) {
	if v.Status.OwnerPod == "" {
		return true, nil
	}
	owner := &corev1.Pod{}
	if err := p.live.Get(ctx, client.ObjectKey{Namespace: namespace, Name: v.Status.OwnerPod}, owner); apierrors.IsNotFound(err) {
		return true, nil
	} else if err != nil {
		return false, err
	}
	ended := owner.Status.Phase == corev1.PodSucceeded || owner.Status.Phase == corev1.PodFailed
	return owner.UID != types.UID(v.Status.OwnerUID) || owner.DeletionTimestamp != nil || ended, nil
}

// replicas is the number of numbered slots of the pod's workload.
func (p placement) replicas(ctx context.Context, pod *corev1.Pod) (int, error) {
	c := metav1.GetControllerOf(pod)
	key := client.ObjectKey{Namespace: pod.Namespace, Name: c.Name}
	var count *int32
	var err error
	switch c.Kind {
	case "Job":
		job := &batchv1.Job{}
		err = p.live.Get(ctx, key, job)
		count = job.Spec.Parallelism
	default:
		set := &appsv1.ReplicaSet{}
		err = p.live.Get(ctx, key, set)
		count = set.Spec.Replicas
		if d := metav1.GetControllerOf(set); err == nil && d != nil && d.Kind == "Deployment" {
			deployment := &appsv1.Deployment{}
			err = p.live.Get(ctx, client.ObjectKey{Namespace: pod.Namespace, Name: d.Name}, deployment)
			count = deployment.Spec.Replicas
		}
	}
	if count == nil || apierrors.IsNotFound(err) {
		return 1, client.IgnoreNotFound(err)
	}
	return int(*count), err
}

// nodesOf are the nodes that hold the data of a volume. One that has no replica yet may still be made elsewhere; a local one has no
// other sign of its data than the node that was chosen.
func nodesOf(v *v1alpha1.VolumeObject, engine v1alpha1.Engine) (nodes []string) {
	for _, m := range v.Status.Members {
		if m.Node != "" {
			nodes = append(nodes, m.Node)
		}
	}
	if engine == v1alpha1.EngineLocal && len(nodes) == 0 && v.Status.AssignedNode != "" {
		nodes = []string{v.Status.AssignedNode}
	}
	return nodes
}
