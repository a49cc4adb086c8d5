package spec

import (
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Slot is whose volumes a pod takes: the Volume of pod volume V is V-NAME. The webhook and the node plugin must agree on it.
type Slot struct {
	// Workload is the name that the slots of all pods of a workload begin with, a Deployment's for example.
	Workload string
	// Name is the pod's slot. Empty: the pod takes one of WORKLOAD-0, WORKLOAD-1 and so on whose owner is gone, and which one is
	// known only on its node.
	Name string
}

// SlotOf returns the slot of a pod. cronJob is the name of the CronJob that owns the pod's Job, or empty. The name may be unknown
// as well because the pod has none yet (generateName), or no node (of a DaemonSet): then Workload is empty.
func SlotOf(pod *corev1.Pod, cronJob string) Slot {
	controller := metav1.GetControllerOf(pod)
	if controller == nil {
		return Slot{Workload: pod.Name, Name: pod.Name}
	}
	group, _, _ := strings.Cut(controller.APIVersion, "/")
	switch group + "/" + controller.Kind {
	case "apps/StatefulSet":
		return Slot{Workload: controller.Name, Name: pod.Name}
	case "apps/ReplicaSet":
		hash := pod.Labels["pod-template-hash"]
		if base, ok := strings.CutSuffix(controller.Name, "-"+hash); ok && hash != "" && base != "" {
			return Slot{Workload: base}
		}
		return Slot{Workload: controller.Name}
	case "batch/Job":
		workload := controller.Name
		if cronJob != "" {
			workload = cronJob
		}
		if index, err := strconv.Atoi(pod.Annotations["batch.kubernetes.io/job-completion-index"]); err == nil && index >= 0 {
			return Slot{Workload: workload, Name: workload + "-" + strconv.Itoa(index)}
		}
		return Slot{Workload: workload}
	case "apps/DaemonSet":
		node := pod.Spec.NodeName
		if node == "" {
			return Slot{}
		}
		return Slot{Workload: controller.Name, Name: controller.Name + "-" + node}
	}
	return Slot{Workload: pod.Name, Name: pod.Name} // an operator that gives its pods names of their own
}

// Volume returns the name of the Volume of a pod volume in a slot of that name.
func (Slot) Volume(volume, slot string) string { return volume + "-" + slot }

// Index reads the number of a numbered slot from the name of its Volume; ok is false if the Volume is none of them.
func (s Slot) Index(volume, object string) (n int, ok bool) {
	text, ok := strings.CutPrefix(object, volume+"-"+s.Workload+"-")
	if !ok || text == "" || strings.Trim(text, "0123456789") != "" || len(text) > 1 && text[0] == '0' {
		return 0, false
	}
	n, err := strconv.Atoi(text)
	return n, err == nil
}
