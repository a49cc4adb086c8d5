package admission

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/remora-storage/remora/webhook"
	"github.com/remora-storage/remora/webhook/spec"
)

// permits asks whether a namespace's pods may have what the mode gives. Privileged mode alone asks, and always the API server itself: a label
// that was taken away counts at once.
type permits struct {
	mode webhook.Mode
	live client.Reader
}

func (p permits) problems(ctx context.Context, namespace string) ([]spec.Problem, error) {
	if p.mode != webhook.Privileged {
		return nil, nil
	}
	var n corev1.Namespace
	if err := p.live.Get(ctx, client.ObjectKey{Name: namespace}, &n); err != nil {
		return nil, fmt.Errorf("read namespace %s: %w", namespace, err)
	}
	return webhook.Permit(p.mode, namespace, n.Labels), nil
}
