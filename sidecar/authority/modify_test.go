package authority

import (
	"errors"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/remora-storage/remora/api/v1alpha1"
)

func TestModifyLosesNoChange(t *testing.T) {
	f := Files{Dir: t.TempDir()}
	_, err := f.Update(t.Context(), v1alpha1.Volume{Name: "v"})
	require.NoError(t, err)
	const writers, each = 4, 10
	var wg sync.WaitGroup
	for range writers {
		wg.Go(func() {
			for range each {
				if _, err := Modify(t.Context(), f, "v", func(v *v1alpha1.Volume) error { v.Epoch++; return nil }); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	got, err := f.Get(t.Context(), "v")
	require.NoError(t, err)
	require.EqualValues(t, writers*each, got.Epoch)
}

func TestModifyLeavesWhatIsRight(t *testing.T) {
	f := Files{Dir: t.TempDir()}
	_, err := Modify(t.Context(), f, "v", func(*v1alpha1.Volume) error { return nil })
	require.ErrorIs(t, err, ErrNotFound)
	made, err := f.Update(t.Context(), v1alpha1.Volume{Name: "v", Members: []v1alpha1.Member{{Replica: "a"}}})
	require.NoError(t, err)
	same, err := Modify(t.Context(), f, "v", func(v *v1alpha1.Volume) error { v.Members[0].Replica = "b"; return ErrUnchanged })
	require.NoError(t, err)
	require.Equal(t, made, same)
	refused := errors.New("no")
	_, err = Modify(t.Context(), f, "v", func(*v1alpha1.Volume) error { return refused })
	require.ErrorIs(t, err, refused)
	got, err := f.Get(t.Context(), "v")
	require.NoError(t, err)
	require.Equal(t, made, got)
}

func TestList(t *testing.T) {
	f := Files{Dir: filepath.Join(t.TempDir(), "volumes")}
	all, err := f.List(t.Context())
	require.NoError(t, err)
	require.Empty(t, all, "the directory is not there yet")
	require.NoError(t, os.Mkdir(f.Dir, 0o700))
	for _, name := range []string{"b", "a"} {
		_, err := f.Update(t.Context(), v1alpha1.Volume{Name: name})
		require.NoError(t, err)
	}
	require.NoError(t, os.WriteFile(filepath.Join(f.Dir, "c.json"), []byte("{"), 0o600))
	all, err = f.List(t.Context())
	require.ErrorContains(t, err, "c.json")
	require.Len(t, all, 2)
	require.Equal(t, "a", all[0].Name)
}
