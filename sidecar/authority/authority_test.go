package authority

import (
	"sync"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/remora-storage/remora/api/v1alpha1"
)

func TestCompareAndSwap(t *testing.T) {
	f := Files{Dir: t.TempDir()}
	_, err := f.Get(t.Context(), "data-db-0")
	require.ErrorIs(t, err, ErrNotFound)
	v, err := f.Update(t.Context(), v1alpha1.Volume{Name: "data-db-0", UID: "u"})
	require.NoError(t, err)
	_, err = f.Update(t.Context(), v1alpha1.Volume{Name: "data-db-0", UID: "another"})
	require.ErrorIs(t, err, ErrConflict, "a volume is made once")
	got, err := f.Get(t.Context(), "data-db-0")
	require.NoError(t, err)
	require.Equal(t, v, got)
}

// TestUpdateKeepsTheWitness: whoever writes the object.
func TestUpdateKeepsTheWitness(t *testing.T) {
	f := Files{Dir: t.TempDir()}
	_, err := f.Update(t.Context(), v1alpha1.Volume{Name: "v", Replicas: 3, Witness: "c"})
	require.ErrorContains(t, err, "allowed with a witness: 2")
	v, err := f.Update(t.Context(), v1alpha1.Volume{Name: "v", Replicas: 2, Witness: "c"})
	require.NoError(t, err)
	for _, change := range []func(*v1alpha1.Volume){
		func(v *v1alpha1.Volume) { v.Replicas = 3 },
		func(v *v1alpha1.Volume) { v.Replicas = 1 },
		func(v *v1alpha1.Volume) { v.Replicas, v.Witness = 3, "" },
	} {
		_, err := Modify(t.Context(), f, "v", func(v *v1alpha1.Volume) error { change(v); return nil })
		require.ErrorContains(t, err, "copy the files")
	}
	got, err := f.Get(t.Context(), "v")
	require.NoError(t, err)
	require.Equal(t, v, got)
}

func TestOneOfManyWins(t *testing.T) {
	f := Files{Dir: t.TempDir()}
	v, err := f.Update(t.Context(), v1alpha1.Volume{Name: "v"})
	require.NoError(t, err)
	var won atomic.Int32
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			next := v
			next.Epoch++
			if _, err := f.Update(t.Context(), next); err == nil {
				won.Add(1)
			}
		})
	}
	wg.Wait()
	require.EqualValues(t, 1, won.Load())
}
