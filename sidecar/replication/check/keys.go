package check

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path/filepath"
	"strings"

	"github.com/remora-storage/remora/cachefs/seal"
	"github.com/remora-storage/remora/cachefs/seal/sealfs"
)

// keys returns what opens a volume's replica: nil if it is not sealed. An error says what is missing.
func (d *diskCheck) keys(volume, replicaPath string) (*seal.Keys, error) {
	var looked []string
	for _, path := range d.keyFiles(volume) {
		b, err := d.readFile(path)
		if errors.Is(err, fs.ErrNotExist) {
			looked = append(looked, path)
			continue
		}
		var key []byte
		if err == nil {
			key, err = seal.ParseKeyFile(b)
		}
		if err != nil {
			return nil, fmt.Errorf("key file %s: %w", path, err)
		}
		return seal.New(key, d.info.Tenant)
	}
	sealed, err := d.sealed(filepath.Join(replicaPath, "meta"))
	if err == nil && sealed {
		err = fmt.Errorf("is sealed, and there is no key file; looked for %s: name the directory of the keys with --keys", strings.Join(looked, " and "))
	}
	return nil, err
}

// keyFiles is where the key of a volume may be: below Config.KeyDir, or where remora dev has it.
func (d *diskCheck) keyFiles(volume string) []string {
	file := volume + ".key"
	if dir := d.cfg.KeyDir; dir != "" {
		return []string{filepath.Join(dir, d.info.Tenant, file), filepath.Join(dir, file)}
	}
	// DIR/nodes/<node>/<tenant>/disk-N and DIR/keys/<tenant>
	return []string{filepath.Join(d.dir, "..", "..", "..", "..", "keys", d.info.Tenant, file)}
}

func (d *diskCheck) readFile(path string) ([]byte, error) {
	f, err := d.cfg.FS.Open(path)
	if err != nil {
		return nil, err
	}
	b, err := io.ReadAll(io.LimitReader(f, 4096))
	return b, errors.Join(err, f.Close())
}

// sealed tells whether the metadata is sealed, by its manifests.
func (d *diskCheck) sealed(meta string) (bool, error) {
	names, err := d.cfg.FS.List(meta)
	if err != nil {
		return false, err
	}
	for _, n := range names {
		if !strings.HasPrefix(n, "MANIFEST-") {
			continue
		}
		if is, err := sealfs.Sealed(d.cfg.FS, filepath.Join(meta, n)); is || err != nil {
			return is, err
		}
	}
	return false, nil
}
