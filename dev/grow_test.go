package dev

import (
	"log/slog"
	"os"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/remora-storage/remora/api/v1alpha1"
	"github.com/remora-storage/remora/sidecar/authority"
	"github.com/remora-storage/remora/webhook"
)

func TestAVolumeDoesNotShrink(t *testing.T) {
	l := layout(t.TempDir())
	require.NoError(t, os.MkdirAll(l.volumes("default"), 0o700))
	for _, name := range []string{"data-db-0", "data-db-1"} {
		_, err := authority.Files{Dir: l.volumes("default")}.Update(t.Context(), v1alpha1.Volume{Namespace: "default", Name: name, Size: 20 << 30})
		require.NoError(t, err)
	}
	check := func(size int64) error {
		w := workload("StatefulSet", "default", "db", 3) // db-2 is new
		w.Spec.Volumes[0].Size = size
		groups, err := expand([]webhook.Workload{w}, 0, &placement{Pods: map[string]string{}}, slog.New(slog.DiscardHandler))
		require.NoError(t, err)
		return checkSizes(t.Context(), groups, l)
	}
	require.NoError(t, check(20<<30))
	require.NoError(t, check(21<<30))
	require.EqualError(t, check(1536<<20), `pod db-0: data.remora.dev/size: "1536Mi": is less than the Volume data-db-0 has, and a volume cannot shrink; allowed: 20Gi or more; fix: write "20Gi"
pod db-1: data.remora.dev/size: "1536Mi": is less than the Volume data-db-1 has, and a volume cannot shrink; allowed: 20Gi or more; fix: write "20Gi"`)
}
