package spec

import (
	"maps"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"

	"github.com/remora-storage/remora/api/v1alpha1"
)

// setResources reads what the class gives the sidecar. A limit without a request is a request as well, as in any container.
func (c *Class) setResources(r *v1alpha1.SidecarResources) (ps []Problem) {
	if r == nil {
		return nil
	}
	read := func(key string, from map[string]string) corev1.ResourceList {
		list := corev1.ResourceList{}
		for _, name := range slices.Sorted(maps.Keys(from)) {
			q, err := resource.ParseQuantity(from[name])
			bad := func(what, allowed, fix string) {
				ps = append(ps, Problem{Key: key + "." + name, Value: from[name], HasValue: true, What: what, Allowed: allowed, Fix: fix})
			}
			switch {
			case name != string(corev1.ResourceCPU) && name != string(corev1.ResourceMemory):
				bad("is not a resource that the sidecar uses", "cpu, memory", "remove it")
			case err != nil:
				bad("is not a quantity", "a Kubernetes quantity", `write for example "64Mi"`)
			case q.Sign() <= 0:
				bad("is not above 0", "a quantity above 0", `write for example "64Mi"`)
			default:
				list[corev1.ResourceName(name)] = q
			}
		}
		return list
	}
	requests, limits := read("spec.sidecar.resources.requests", r.Requests), read("spec.sidecar.resources.limits", r.Limits)
	for _, name := range []corev1.ResourceName{corev1.ResourceCPU, corev1.ResourceMemory} {
		limit, limited := limits[name]
		request, requested := requests[name]
		switch {
		case limited && !requested:
			requests[name] = limit
		case limited && request.Cmp(limit) > 0:
			ps = append(ps, Problem{Key: "spec.sidecar.resources.requests." + string(name), Value: request.String(), HasValue: true, What: "is above the limit",
				Allowed: "at most " + limit.String(), Fix: "raise the limit, or lower the request"})
		}
	}
	c.Resources = corev1.ResourceRequirements{Requests: requests, Limits: limits}
	return ps
}

// largest joins the resources of the classes in a pod: its sidecar has one process for all of them.
func largest(of []corev1.ResourceRequirements) corev1.ResourceRequirements {
	var all corev1.ResourceRequirements
	raise := func(to *corev1.ResourceList, from corev1.ResourceList) {
		for name, q := range from {
			if have, ok := (*to)[name]; ok && have.Cmp(q) >= 0 {
				continue
			}
			if *to == nil {
				*to = corev1.ResourceList{}
			}
			(*to)[name] = q
		}
	}
	for _, r := range of {
		raise(&all.Requests, r.Requests)
		raise(&all.Limits, r.Limits)
	}
	for name := range all.Limits {
		if slices.ContainsFunc(of, func(r corev1.ResourceRequirements) bool { _, ok := r.Limits[name]; return !ok }) {
			delete(all.Limits, name)
		}
	}
	if len(all.Limits) == 0 {
		all.Limits = nil
	}
	return all
}
