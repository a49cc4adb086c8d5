package webhook

import (
	"slices"

	corev1 "k8s.io/api/core/v1"
)

// granted is what the API server gives every container of a pod after the first injection: a second one must not take it away.
type granted struct {
	resources corev1.ResourceRequirements
}

// grants reads it from the sidecar of an earlier injection. Whoever writes a pod may write these, for a sidecar as for any container.
func grants(p corev1.PodSpec) (g granted) {
	i := slices.IndexFunc(p.InitContainers, func(c corev1.Container) bool { return c.Name == ContainerName })
	if i < 0 {
		return g
	}
	g.resources = p.InitContainers[i].Resources
	return g
}

// keep gives the new sidecar what it had and what the injector says nothing of: a LimitRange's defaults.
func (g granted) keep(c *corev1.Container) {
	for name, limit := range g.resources.Limits {
		request, requested := c.Resources.Requests[name]
		if _, ours := c.Resources.Limits[name]; ours || requested && request.Cmp(limit) > 0 {
			continue
		}
		if c.Resources.Limits == nil {
			c.Resources.Limits = corev1.ResourceList{}
		}
		c.Resources.Limits[name] = limit
	}
	for name, request := range g.resources.Requests {
		limit, limited := c.Resources.Limits[name]
		if _, ours := c.Resources.Requests[name]; ours || limited && request.Cmp(limit) > 0 {
			continue
		}
		if c.Resources.Requests == nil {
			c.Resources.Requests = corev1.ResourceList{}
		}
		c.Resources.Requests[name] = request
	}
}
