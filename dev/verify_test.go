package dev

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/remora-storage/remora/sidecar/status"
)

// TestNobodyServes: why a volume cannot be verified is said, and what can be.
func TestNobodyServes(t *testing.T) {
	several := []status.Replica{{}, {}, {}}
	r := &status.Report{Pods: []status.Pod{
		{Name: "db-0", Volumes: []status.Volume{{Name: "data", Volume: "data-db-0", State: status.MajorityLost, Replicas: several}}},
		{Name: "web-0", Volumes: []status.Volume{{Name: "data", Volume: "data-web-0", State: status.Mounted, Replicas: several[:1]}}},
		{Name: "other.keeper-node-1", Node: "node-1", Hosted: []status.Hosted{{Volume: "data-db-0"}}},
	}}
	require.EqualError(t, nobodyServes(r, "data-db-0"), "none of its replicas is served now (it is MajorityLost): see remora status")
	require.ErrorContains(t, nobodyServes(r, "data-web-0"), "it has one copy, so there is nothing to compare")
	require.EqualError(t, nobodyServes(r, "nix"), `unknown volume "nix"; there are: data-db-0, data-web-0, other.data-db-0`)
}
