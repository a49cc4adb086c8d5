package dev

import (
	"context"
	"errors"
	"fmt"

	"k8s.io/apimachinery/pkg/api/resource"

	"github.com/remora-storage/remora/sidecar/authority"
	"github.com/remora-storage/remora/webhook/spec"
)

// checkSizes refuses what no restart of a sidecar can cure: a volume that is larger than its manifest says now. All of them are
// reported at once.
func checkSizes(ctx context.Context, groups []group, l layout) error {
	var errs []error
	for _, g := range groups {
		for _, p := range g.pods {
			for _, v := range p.spec.Volumes {
				errs = append(errs, checkSize(ctx, p, v, l))
			}
		}
	}
	return errors.Join(errs...)
}

func checkSize(ctx context.Context, p *podSpec, v spec.Volume, l layout) error {
	object, err := authority.Files{Dir: l.volumes(p.namespace)}.Get(ctx, p.object(v.Name))
	if err != nil || v.Size >= object.Size {
		return nil // a Volume that cannot be read is the sidecar's to report
	}
	size := func(n int64) string { return resource.NewQuantity(n, resource.BinarySI).String() }
	return fmt.Errorf("pod %s: %w", p.title, spec.Problem{
		Key: v.Name + ".remora.dev/size", Value: size(v.Size), HasValue: true,
		What:    fmt.Sprintf("is less than the Volume %s has, and a volume cannot shrink", p.object(v.Name)),
		Allowed: size(object.Size) + " or more", Fix: "write " + spec.Quote(size(object.Size)),
	})
}
