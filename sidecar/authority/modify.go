package authority

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"

	"github.com/remora-storage/remora/api/v1alpha1"
)

// GetUpdater reads an object and writes it by compare-and-swap.
type GetUpdater interface {
	Get(ctx context.Context, name string) (v1alpha1.Volume, error)
	Update(ctx context.Context, v v1alpha1.Volume) (v1alpha1.Volume, error)
}

// ErrUnchanged is what a change given to Modify returns when there is nothing to do.
var ErrUnchanged = errors.New("the volume object is as it shall be")

// manyConflicts are more than any number of writers can cause one another.
const manyConflicts = 100

// Modify lets change look at the object as it is and alter it, and writes it, again from the start if somebody else was faster. It
// returns the object as it is then. An error of change ends it; ErrUnchanged is none.
func Modify(ctx context.Context, a GetUpdater, name string, change func(*v1alpha1.Volume) error) (v1alpha1.Volume, error) {
	for range manyConflicts {
		v, err := a.Get(ctx, name)
		if err != nil {
			return v, err
		}
		changed := v.Clone()
		if err := change(&changed); err != nil {
			if errors.Is(err, ErrUnchanged) {
				err = nil
			}
			return v, err
		}
		changed, err = a.Update(ctx, changed)
		if !errors.Is(err, ErrConflict) {
			return changed, err
		}
		if err := ctx.Err(); err != nil {
			return v, err
		}
	}
	return v1alpha1.Volume{}, fmt.Errorf("%w: %s, %d times in a row", ErrConflict, name, manyConflicts)
}

// New is the object of a volume that is not there yet; Update makes it.
func New(namespace, name string) (v1alpha1.Volume, error) {
	var b [24]byte
	if _, err := rand.Read(b[:]); err != nil {
		return v1alpha1.Volume{}, fmt.Errorf("draw a volume UID: %w", err)
	}
	b[16] |= 1 // a group's ID is not 0
	return v1alpha1.Volume{Namespace: namespace, Name: name, UID: hex.EncodeToString(b[:16]), Group: hex.EncodeToString(b[16:])}, nil
}
