//go:build planted

package replication_test

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// edit changes one place of the source.
type edit struct{ file, old, new string }

// TestPlantedBugs plants bugs in the code, each in a copy of a file that only one build sees (go test -overlay), and a test of crash
// points must find every one within 20,000 points (of rot in the last batch: 5,000). It builds this package once for each bug, which
// takes minutes, so it has a build tag: `make planted` runs it.
func TestPlantedBugs(t *testing.T) {
	const points, rot = "TestCrashPoints", "TestRotInTheLastBatch"
	const core, journal, store, fs = "sidecar/replication/", "sidecar/replication/journal/", "cachefs/store/", "cachefs/"
	for _, bug := range []struct {
		name  string
		test  string // that must find it
		edits []edit
	}{
		{"records are applied before the journal is synced", points, []edit{
			{core + "commit.go", "\t\tg.core.written(lsn)\n", "\t\tg.core.written(lsn)\n\t\tg.enqueue(g.core.bound, applyBytes)\n"},
			{core + "commit.go", "\tg.enqueue(items, bytes)\n", ""},
			{core + "commit.go", "\tdefer clear(items)", "\t//"}}},
		{"fsync is acknowledged before the journal is synced", points, []edit{
			{core + "disk.go", "\tlsn, err := d.sync()\n", "\tlsn, err := d.journal.End(), error(nil)\n\tgo d.sync()\n"}}},
		{"recovery starts from the store's index, not from the checkpoint", points, []edit{
			{core + "opengroup.go", "\tfrom := g.cfg.Replica.Checkpoint()\n\tif err := g.checkJournal", "\tfrom := g.store.Position()\n\tif err := g.checkJournal"},
			{store + "store.go", "\ts.position = s.cfg.Checkpoint\n\tif b, ok, err = s.Get(answersKey)", "\ts.position.Index = s.opened\n\tif b, ok, err = s.Get(answersKey)"}}},
		{"a damaged acknowledged record is cut off like a torn tail", points, []edit{
			{journal + "witness.go", "\tif w.witness <= at {\n", "\tif true {\n"}}},
		{"the checkpoint is saved before the metadata is flushed", points, []edit{
			{store + "apply.go", "\tcase <-flushed:\n", "\tcase <-flushed:\n\tdefault:\n"}}},
		{"a checkpoint gives back journal whose records are not applied yet", points, []edit{
			{core + "checkpoint.go", "[][]item{g.queue, g.core.bound, g.core.unbound, g.recovered}", "[][]item{g.core.bound, g.core.unbound, g.recovered}"}}},
		{"a freed slot is reused before the checkpoint", rot, []edit{
			{store + "apply.go", "s.arena.freed = append(s.arena.freed, freed{at: at, slot: b.slot, count: record.ChunkBlocks})", "s.arena.release(b.slot)"}}},
		{"the journal is not hardened after the death of the process", points, []edit{
			{journal + "open.go", "\treturn f.SyncData()\n", "\treturn nil\n"}}},
		{"the journal is synced without the content that its frames name", points, []edit{
			{core + "place.go", "\tif err := g.store.SyncPlaced(); err != nil {\n", "\tif err := error(nil); err != nil {\n"}}},
		{"recovery takes the content that frames name for good", points, []edit{
			{journal + "walk.go", "; err != nil || !good {\n", "; err != nil || !good && false {\n"}}},
		{"placed content is changed before its frame has a witness", points, []edit{
			{core + "place.go", "\treturn g.testify()\n", "\treturn nil\n"}}},
		{"placed content is not hardened after the death of the process", points, []edit{
			{journal + "open.go", "\t\t\terr = w.o.Arena.Harden(f.Group, f.Replica, p.Placed)\n", "\t\t\t_ = p\n"}}},
		{"blocks with acknowledged content are taken for fresh", points, []edit{
			{fs + "fresh.go", "\treturn known && first >= top\n", "\treturn known || first >= top\n"}}},
	} {
		t.Run(bug.name, func(t *testing.T) {
			out := runPlanted(t, bug.test, bug.edits, "-points", "20000")
			require.Contains(t, out, "violations: ", "it does not build or does not end")
			if strings.Contains(out, "violations: 0") {
				t.Errorf("not found: %s", regexp.MustCompile(`seeds .*`).FindString(out))
				return
			}
			first := regexp.MustCompile(`(?s)(seeds \d+ to \d+: \d+ crash points).*?(seed \d+: [^\n]*)`).FindStringSubmatch(out)
			require.NotNil(t, first, out)
			t.Logf("found: %s: %s", first[1], first[2])
		})
	}
}

// runPlanted runs a test with the edits made.
func runPlanted(t *testing.T, test string, edits []edit, args ...string) string {
	root, err := filepath.Abs("../..")
	require.NoError(t, err)
	dir, files := t.TempDir(), map[string]string{}
	for _, e := range edits {
		from := filepath.Join(root, e.file)
		if files[from] != "" {
			from = files[from]
		}
		b, err := os.ReadFile(from)
		require.NoError(t, err)
		require.Equal(t, 1, strings.Count(string(b), e.old), "%s has changed: %q", e.file, e.old)
		to := filepath.Join(dir, strings.ReplaceAll(e.file, "/", "_"))
		require.NoError(t, os.WriteFile(to, []byte(strings.Replace(string(b), e.old, e.new, 1)), 0o600))
		files[filepath.Join(root, e.file)] = to
	}
	b, err := json.Marshal(map[string]any{"Replace": files})
	require.NoError(t, err)
	overlay := filepath.Join(dir, "overlay.json")
	require.NoError(t, os.WriteFile(overlay, b, 0o600))
	cmd := exec.CommandContext(t.Context(), "go", "test", "-overlay", overlay, "-vet=off", "-count=1", "-v", "-run", "^"+test+"$", ".", "-args")
	cmd.Args = append(cmd.Args, args...)
	out, err := cmd.CombinedOutput()
	t.Logf("go test: %v", err)
	return string(out)
}
