package node

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/remora-storage/remora/api/v1alpha1"
	"github.com/remora-storage/remora/node/host"
	"github.com/remora-storage/remora/node/kube"
)

// FileKeys keeps keys on the node, as ROOT/.keys/<namespace>/<UID of the Volume>, for root alone. It is where privileged mode has them: a pod's
// own account must not read Secrets. Beside the data that they seal they protect it from other pods, and not from who takes the disk.
type FileKeys struct{ Root string }

// keysFolder is no namespace's name.
const keysFolder = ".keys"

func (k FileKeys) open(v v1alpha1.Volume) (*os.Root, string, error) {
	if !podUID.MatchString(v.UID) || v.Namespace == "" {
		return nil, "", fmt.Errorf("key of Volume %s: its UID is %q", v.Name, v.UID)
	}
	dir, err := host.Root(k.Root)
	if err != nil {
		return nil, "", err
	}
	for _, name := range []string{keysFolder, v.Namespace} {
		next, err := dir.Ensure(name, 0o700, 0, 0)
		if err == nil {
			err = dir.Sync()
		}
		dir.Close()
		if err != nil {
			return nil, "", err
		}
		dir = next
	}
	defer dir.Close()
	root, err := os.OpenRoot(fmt.Sprintf("/proc/self/fd/%d", dir.Fd()))
	return root, v.UID, err
}

// Key reads the key of a volume.
func (k FileKeys) Key(_ context.Context, v v1alpha1.Volume) ([]byte, error) {
	dir, name, err := k.open(v)
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	return readKey(dir, name)
}

func readKey(dir *os.Root, name string) ([]byte, error) {
	text, err := dir.ReadFile(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w: %w", kube.ErrNotFound, err)
	}
	if err != nil {
		return nil, err
	}
	key, err := kube.ParseKey(text)
	if err != nil {
		return nil, fmt.Errorf("file %s of the keys %w", name, err)
	}
	return key, nil
}

// Make keeps a new volume's key and returns it; if there is one, it returns that.
func (k FileKeys) Make(_ context.Context, v v1alpha1.Volume, key []byte) ([]byte, error) {
	dir, name, err := k.open(v)
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	fresh := "." + name + "." + random()
	f, err := dir.OpenFile(fresh, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	_, err = f.Write(kube.FormatKey(key))
	err = errors.Join(err, f.Sync(), f.Close())
	if err == nil {
		if err = dir.Link(fresh, name); errors.Is(err, fs.ErrExist) {
			err = nil
		}
	}
	if err = errors.Join(err, dir.Remove(fresh)); err != nil {
		return nil, err
	}
	folder, err := dir.Open(".")
	if err != nil {
		return nil, err
	}
	if err := errors.Join(folder.Sync(), folder.Close()); err != nil {
		return nil, err
	}
	return readKey(dir, name)
}
