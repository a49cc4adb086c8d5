package replication_test

import (
	"path"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/remora-storage/remora/disk/faultfs"
	"github.com/remora-storage/remora/sidecar/replication/replicationtest"
)

// TestPlantedLies: a disk, or a program, that says synced and did not is found by the crash points. docs/durability.md has the bugs
// that are planted in the code itself.
func TestPlantedLies(t *testing.T) {
	file := func(pattern string) func(*faultfs.Op) bool {
		return func(op *faultfs.Op) bool {
			ok, err := path.Match(pattern, op.Base())
			return err == nil && ok && op.Kind == faultfs.Sync
		}
	}
	dir := func(end string) func(*faultfs.Op) bool {
		return func(op *faultfs.Op) bool { return op.Kind == faultfs.SyncDir && strings.HasSuffix(op.Path, end) }
	}
	for _, plant := range []struct {
		name   string
		lie    func(*faultfs.Op) bool
		within int // crash points
	}{
		{"fdatasync of segments is skipped", file("*.seg"), 1000},
		{"fdatasync of the arena is skipped", file("arena"), 2000},
		{"fdatasync of the superblock is skipped", file("superblock"), 2000},
		{"fsync of the journal's directory is skipped", dir("/journal"), 2000},
		{"fsync of metadata files is skipped", file("*.sst"), 2000},
		{"fsync of the MANIFEST is skipped", file("MANIFEST-*"), 2000},
		{"fsync of the metadata's directory is skipped", dir("/meta"), 2000},
	} {
		t.Run(plant.name, func(t *testing.T) {
			found := &replicationtest.Found{}
			for s := uint64(1); found.Points < plant.within && len(found.Violations) == 0; s++ {
				found.Add(replicationtest.Crashes{Seed: s, Points: plant.within - found.Points, Lie: plant.lie, StopEarly: true}.Run(t))
			}
			require.NotEmpty(t, found.Violations, "not found within %d crash points", found.Points)
			t.Logf("found after %d crash points: %s", found.Points, found.Violations[0])
		})
	}
}
