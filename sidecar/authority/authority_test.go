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
