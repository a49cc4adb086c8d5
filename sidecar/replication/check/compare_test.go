package check

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// TestCompare: two copies of a volume that differ at the same index are a finding; at different ones, or of different volumes, they may.
func TestCompare(t *testing.T) {
	c := &checker{out: &Report{}, cfg: Config{}.withDefaults()}
	c.out.Replicas = []Replica{
		{Path: "a", Group: 1, Index: 7, Digest: "x"}, {Path: "b", Group: 1, Index: 7, Digest: "x"}, {Path: "c", Group: 1, Index: 8, Digest: "y"},
		{Path: "d", Group: 2, Index: 7, Digest: "z"}, {Path: "e", Group: 1, Index: 7},
	}
	c.compare()
	require.Empty(t, c.out.Findings)
	require.Len(t, c.out.Notes, 1)
	c.out.Replicas[4].Digest = "w"
	c.compare()
	require.Len(t, c.out.Findings, 1)
	require.Contains(t, c.out.Findings[0].String(), "e: digest: index 7: differs from that of a")
}
