// Package authority keeps Volume objects: who the members of a volume are, and who may open its next epoch. Files is the
// implementation of dev mode; Node asks the node plugin, which asks Kubernetes. Every change is a compare-and-swap, durable when Update
// returns.
package authority

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/remora-storage/remora/api/v1alpha1"
)

// ErrConflict: the object has changed since it was read. Read it again.
var ErrConflict = errors.New("volume object has changed meanwhile")

// ErrNotFound: there is no such volume.
var ErrNotFound = errors.New("no such volume")

// Files keeps each Volume of a namespace as <dir>/<name>.json.
type Files struct{ Dir string }

// Get reads a volume. ErrNotFound if there is none.
func (f Files) Get(_ context.Context, name string) (v1alpha1.Volume, error) {
	var v v1alpha1.Volume
	b, err := os.ReadFile(f.path(name))
	if errors.Is(err, fs.ErrNotExist) {
		return v, fmt.Errorf("%w: %s", ErrNotFound, name)
	}
	if err != nil {
		return v, err
	}
	if err := json.Unmarshal(b, &v); err != nil {
		return v, fmt.Errorf("volume object %s: %w", f.path(name), err)
	}
	return v, nil
}

// List reads all volumes of the namespace, in the order of their names. One that cannot be read is left out and named in the error.
func (f Files) List(ctx context.Context) ([]v1alpha1.Volume, error) {
	entries, err := os.ReadDir(f.Dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var all []v1alpha1.Volume
	var errs []error
	for _, e := range entries {
		name, ok := strings.CutSuffix(e.Name(), ".json")
		if !ok || strings.HasPrefix(name, ".") {
			continue
		}
		v, err := f.Get(ctx, name)
		switch {
		case err == nil:
			all = append(all, v)
		case !errors.Is(err, ErrNotFound): // deleted meanwhile
			errs = append(errs, err)
		}
	}
	return all, errors.Join(errs...)
}

// Update writes v if the object still has v's Generation (0: if there is none), and returns it with the new one.
func (f Files) Update(ctx context.Context, v v1alpha1.Volume) (v1alpha1.Volume, error) {
	lock, err := os.OpenFile(filepath.Join(f.Dir, ".lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return v, err
	}
	defer lock.Close()
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX); err != nil {
		return v, fmt.Errorf("lock %s: %w", lock.Name(), err)
	}
	old, err := f.Get(ctx, v.Name)
	if err != nil && !errors.Is(err, ErrNotFound) {
		return v, err
	}
	if old.Generation != v.Generation {
		return v, fmt.Errorf("%w: %s is at generation %d, not %d", ErrConflict, v.Name, old.Generation, v.Generation)
	}
	if err := v.CheckWitness(&old); err != nil {
		return v, err
	}
	v.Generation++
	return v, f.write(v)
}

func (f Files) path(name string) string { return filepath.Join(f.Dir, name+".json") }

// write replaces the file so that a reader, or a power cut, sees the old object or the new one.
func (f Files) write(v v1alpha1.Volume) error {
	b, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return err
	}
	tmp := filepath.Join(f.Dir, "."+v.Name+".new")
	file, err := os.OpenFile(tmp, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = file.Write(append(b, '\n'))
	if err = errors.Join(err, file.Sync(), file.Close()); err != nil {
		return err
	}
	if err := os.Rename(tmp, f.path(v.Name)); err != nil {
		return err
	}
	dir, err := os.Open(f.Dir)
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}
