package spec

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/remora-storage/remora/api/v1alpha1"
)

func TestWitnessedClass(t *testing.T) {
	two, three, yes, no := 2, 3, true, false
	c, problems := NewClass("w", v1alpha1.VolumeClassSpec{Witness: &yes})
	require.Empty(t, problems)
	require.Equal(t, 2, c.Replicas)
	require.True(t, c.Witness)
	require.Equal(t, 3, Volume{Replicas: c.Replicas, Witness: c.Witness}.Voters())
	_, problems = NewClass("w", v1alpha1.VolumeClassSpec{Replicas: &two, Witness: &yes})
	require.Empty(t, problems)
	_, problems = NewClass("w", v1alpha1.VolumeClassSpec{Replicas: &three, Witness: &yes})
	require.Len(t, problems, 1)
	require.Contains(t, problems[0].What, "does not go with a witness")
	_, problems = NewClass("w", v1alpha1.VolumeClassSpec{Replicas: &two, Witness: &no})
	require.Len(t, problems, 1, "two copies alone survive no more than one")
	require.Equal(t, 2, BuiltIn()[WitnessedClass].Replicas)
}
