package sidecar

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/remora-storage/remora/api/v1alpha1"
	"github.com/remora-storage/remora/cachefs/seal"
)

// openKeys reads the volume's key; nil where sealing is off. A new volume gets a new key, durable before anything is sealed with it.
// A volume that has a key never gets another.
func (v *volume) openKeys(ctx context.Context) (*seal.Keys, error) {
	wantSealed := v.spec.Sealing == v1alpha1.SealingOn
	isNew := v.object.Phase == v1alpha1.VolumePending
	if sealed := v.object.KeyID != ""; !isNew && sealed != wantSealed {
		return nil, fmt.Errorf("class %s says sealing %q, and the volume was made with the other: sealing is fixed when a volume is made",
			v.spec.Class, v.spec.Sealing)
	}
	if !wantSealed {
		return nil, nil
	}
	key, where, err := v.findKey(ctx, isNew)
	if err != nil {
		return nil, fmt.Errorf("key of the volume: %w", err)
	}
	keys, err := seal.New(key, v.s.cfg.Namespace)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", where, err)
	}
	if !isNew && keys.ID() != v.object.KeyID {
		return nil, fmt.Errorf("%s has key %s, and the volume is sealed with key %s: put the right key back; nothing was changed",
			where, keys.ID(), v.object.KeyID)
	}
	return keys, nil
}

// findKey reads the key, or makes one for a new volume, and says where it is. In node mode the node plugin does both.
func (v *volume) findKey(ctx context.Context, isNew bool) (key []byte, where string, err error) {
	if v.s.cfg.held() {
		key, err = v.s.plugin().Key(ctx, v.object.Name)
		return key, "the volume's Secret, or the node's folder of keys", err
	}
	where = filepath.Join(strings.TrimPrefix(v.s.cfg.Keys, "file:"), v.object.Name+".key")
	key, err = readKey(where)
	if errors.Is(err, fs.ErrNotExist) && isNew {
		key, err = v.makeKey(where)
	}
	return key, where, err
}

// readKey reads a key file: 64 hexadecimal digits.
func readKey(path string) ([]byte, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	key, err := seal.ParseKeyFile(b)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return key, nil
}

// makeKey draws a key and writes its file.
func (v *volume) makeKey(path string) ([]byte, error) {
	key := make([]byte, seal.KeySize)
	if _, err := v.s.cfg.rand.Read(key); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	_, err = f.WriteString(hex.EncodeToString(key) + "\n")
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return nil, err
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return nil, err
	}
	return key, errors.Join(dir.Sync(), dir.Close())
}
