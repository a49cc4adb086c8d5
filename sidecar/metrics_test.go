package sidecar

import (
	"errors"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"

	"github.com/remora-storage/remora/api/v1alpha1"
	"github.com/remora-storage/remora/sidecar/status"
)

// TestMetricsOfReplicas: what metrics say of a replica is what status says, also of one that is not well, and of a volume with a copy less
// than it shall have there is a line for that copy.
func TestMetricsOfReplicas(t *testing.T) {
	d := newTenant(t)
	owner, _, _ := d.three()
	r := owner.list()[0]
	group := r.open().(*pretended)
	reg := prometheus.NewRegistry()
	require.NoError(t, reg.Register(replicas{owner}))
	values := func() map[string]float64 {
		m := map[string]float64{}
		families, err := reg.Gather()
		require.NoError(t, err)
		for _, f := range families {
			for _, metric := range f.Metric {
				m[f.GetName()] += metric.GetGauge().GetValue()
			}
		}
		return m
	}
	set := func(st memberStatus) {
		group.mu.Lock()
		defer group.mu.Unlock()
		group.says = &st
	}
	for _, c := range []struct {
		says   memberStatus
		state  string
		inSync float64
		leads  float64
	}{
		{memberStatus{CaughtUp: true, Filled: true, Leader: uint64(r.id), Behind: 3}, status.InSync, 1, 1},
		{memberStatus{CaughtUp: true, Filled: true, Leader: 9}, status.InSync, 1, 0},
		{memberStatus{CaughtUp: true, Missing: 7}, status.Syncing, 0, 0},
		{memberStatus{Filled: true, Behind: 70}, status.Syncing, 0, 0},
		{memberStatus{Replacing: true}, status.Rebuilding, 0, 0},
		{memberStatus{CaughtUp: true, Filled: true, Leader: uint64(r.id), Err: errors.New("a failed fsync")}, status.Offline, 0, 0},
	} {
		set(c.says)
		require.Equal(t, c.state, owner.report()[0].State)
		v := values()
		require.Equal(t, c.inSync, v["remora_replica_in_sync"], c.says)
		require.Equal(t, c.leads, v["remora_replica_leads"], c.says)
		require.Equal(t, float64(c.says.Behind), v["remora_replica_behind_records"], c.says)
	}

	require.Len(t, owner.replicas("data-db-0"), 3)
	d.change("data-db-0", func(o *v1alpha1.Volume) {
		o.Phase, o.Members = v1alpha1.VolumeReady, []v1alpha1.Member{*o.Member(r.id.String())} // in whatever order they had joined
	})
	d.await("a change of members", func() bool { o, _ := owner.object("data-db-0"); return len(o.Members) == 1 }, owner)
	list := owner.replicas("data-db-0")
	require.Len(t, list, 3)
	require.Equal(t, status.Missing, list[2].State, "its loss was accepted, and another one is still to be made")
}
