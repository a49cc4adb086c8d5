package check_test

import (
	"crypto/rand"
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/stretchr/testify/require"

	"github.com/remora-storage/remora/cachefs/seal"
	"github.com/remora-storage/remora/cachefs/seal/sealfs"
	"github.com/remora-storage/remora/sidecar/replication/replicationtest"
)

type quiet struct{ testing.TB }

func (quiet) Infof(string, ...any) {}

// openMeta opens the metadata of a replica as a program that knows nothing of it.
func openMeta(t testing.TB, fs vfs.FS, h *replicationtest.History, readOnly bool) *pebble.DB {
	if h.Key() != nil {
		keys, err := seal.New(h.Key(), "tenant")
		require.NoError(t, err)
		fs = sealfs.New(fs, keys, rand.Reader)
	}
	db, err := pebble.Open(filepath.Join(h.ReplicaDir(), "meta"), &pebble.Options{FS: fs, ReadOnly: readOnly, DisableWAL: true,
		DisableAutomaticCompactions: true, FormatMajorVersion: pebble.FormatNewest, Logger: quiet{t}})
	require.NoError(t, err)
	return db
}

// live are the metadata's files that count.
func live(t testing.TB, fs vfs.FS, h *replicationtest.History) map[string]bool {
	meta := filepath.Join(h.ReplicaDir(), "meta")
	names, err := fs.List(meta)
	require.NoError(t, err)
	found := map[string]bool{}
	for _, n := range names {
		if parts := strings.SplitN(n, ".", 4); strings.HasPrefix(n, "marker.manifest.") {
			found[filepath.Join(meta, parts[3])] = true
		}
	}
	db := openMeta(t, fs, h, true)
	levels, err := db.SSTables()
	require.NoError(t, err)
	for _, l := range levels {
		for i := range l {
			found[filepath.Join(meta, fmt.Sprintf("%s.sst", l[i].BackingSSTNum))] = true
		}
	}
	require.NoError(t, db.Close())
	return found
}
