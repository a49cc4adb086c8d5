//go:build planted

package replication_test

import (
	"regexp"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestPlantedInGroups plants bugs in the code of groups, one at a time, and the simulation must find each within 1,000 seeds.
func TestPlantedInGroups(t *testing.T) {
	const core, consensus, record = "sidecar/replication/", "sidecar/replication/consensus/", "cachefs/record/"
	const unfenced = "\treturn g.peers != nil && g.owner.Epoch != 0 && g.core.acceptance.Epoch > g.owner.Epoch\n"
	for _, bug := range []struct {
		name  string
		edits []edit
	}{
		{"nothing is planted", nil},
		{"fsync is acknowledged before a majority has the record", []edit{
			{core + "wait.go", "\tdefault:\n\t\tdone = false\n", "\tdefault:\n\t\tdone = tried\n"}}},
		{"an fsync takes another owner's record for its own", []edit{
			{core + "group.go", " && (g.peers == nil || a.Epoch == g.owner.Epoch && a.Incarnation == g.owner.Incarnation)\n", "\n"},
			{core + "fence.go", unfenced, "\treturn false\n"},
			{core + "wait.go", "\tcase g.core.acceptance.Epoch > g.owner.Epoch:\n", "\tcase false:\n"},
			{core + "wait.go", "\tover := g.core.acceptance.Epoch > g.owner.Epoch\n", "\tover := false\n"},
			{consensus + "stream.go", "\t\tc.stream.old = true // its owner", "\t\t_ = a // its owner"},
			{consensus + "stream.go", "\t\t\ts.old = true\n", "\t\t\t_ = s\n"}}},
		{"records are applied before they are committed", []edit{
			{consensus + "core.go", "\tout.Writes = append(out.Writes, w)\n",
				"\tout.Writes = append(out.Writes, w)\n\tc.commit(&pb.Message{Entries: w.Entries}, out)\n"},
			{consensus + "core.go", "\t\tdone := Committed{Index: e.Index, Term: e.Term}\n",
				"\t\tif e.Index != c.delivered+1 {\n\t\t\tcontinue\n\t\t}\n\t\tdone := Committed{Index: e.Index, Term: e.Term}\n"},
			{consensus + "retain.go", "func (c *Core) compact(upTo uint64) {\n", "func (c *Core) compact(upTo uint64) {\n\tupTo = min(upTo, c.raw.BasicStatus().Applied)\n"}}},
		{"the journal is not synced", []edit{
			{core + "disk.go", "\tlsn, err := d.sync()\n", "\tlsn, err := d.journal.End(), error(nil)\n"}}},
		{"a follower answers before its journal is synced", []edit{
			{consensus + "core.go", "\tout.Writes = append(out.Writes, w)\n", "\tout.Writes = append(out.Writes, w)\n" +
				"\tfor i := range w.responses {\n\t\tif r := &w.responses[i]; r.To != c.id {\n" +
				"\t\t\tout.Messages = append(out.Messages, Message{To: r.To, From: c.id, Raft: r})\n\t\t}\n\t}\n"}}},
		{"the epoch of a record is ignored", []edit{
			{record + "acceptance.go", "\t\tif n.Epoch != a.Epoch || n.Incarnation != a.Incarnation || n.Seq != a.Last+1 {\n", "\t\tif n.Seq != a.Last+1 {\n"}}},
		{"an older owner opens its epoch after a newer one", []edit{
			{record + "acceptance.go", "\t\tif n.Epoch <= a.Epoch || n.Seq != 0 {\n", "\t\tif n.Epoch == a.Epoch || n.Seq != 0 {\n"}}},
		{"the end of the log that a new leader has replaced is what it was before, after a restart", []edit{
			{core + "recovery.go", "\th.void(record.Index(b.Index))\n", "\tif b.Count == 0 {\n\t\th.void(record.Index(b.Index))\n\t}\n"},
			{core + "recovery.go", "\t\th.last = record.Index(b.Index) + record.Index(k)\n\t\th.bindings[h.last] = bound{name",
				"\t\tat := record.Index(b.Index) + record.Index(k)\n\t\th.last = max(h.last, at)\n\t\tif _, ok := h.bindings[at]; ok {\n\t\t\tcontinue\n\t\t}\n" +
					"\t\th.bindings[at] = bound{name"},
			{core + "recovery.go", "\t\th.void(record.Index(e.Index))\n\t\th.last = record.Index(e.Index)\n\t\th.bindings[h.last] =",
				"\t\tat := record.Index(e.Index)\n\t\th.last = max(h.last, at)\n\t\tif _, ok := h.bindings[at]; ok {\n\t\t\treturn nil\n\t\t}\n\t\th.bindings[at] ="}}},
		{"the end of the log is dropped at a restart like a torn tail", []edit{
			{core + "recovery.go", "\tacceptance := from.Acceptance\n\tfor i := from", "\tif h.last > max(commit, from.Index) {\n\t\th.void(h.last)\n\t}\n" +
				"\tacceptance := from.Acceptance\n\tfor i := from"}}},
		{"a vote is forgotten at a restart", []edit{
			{core + "rejoin.go", "Vote: h.hard.Vote,", "Vote: 0,"}}},
		{"the hard state is not written", []edit{
			{core + "entries.go", "\tif w.Hard != nil {\n", "\tif false {\n"}}},
		{"a checkpoint gives back journal that the log needs", []edit{
			{core + "checkpoint.go", "\t\tkept = g.peers.needs(kept)\n", ""}}},
		{"a state is replaced without a durable mark", []edit{
			{core + "install.go", "\t\tif err := replica.SaveGroupCheckpoint(old, replica.JournalFrom(), state); err != nil {\n", "\t\tif _, err := old, error(nil); err != nil {\n"}}},
		{"a replica that was alone becomes one of several without a durable mark", []edit{
			{core + "rejoin.go", "\ts := diskdir.GroupState{Term: at.Term, Members: b}\n",
				"\ts := diskdir.GroupState{Term: at.Term, Members: b}\n\tif len(at.Members.Voters) < 2 {\n\t\ts.Members = nil\n\t}\n"}}},
		{"a learner becomes a voter before its content is here and verified", []edit{
			{core + "fill.go", "\tif s == nil || !s.Complete() {\n", "\tif s == nil {\n"}}},
	} {
		t.Run(bug.name, func(t *testing.T) {
			out := runPlanted(t, "TestSimulation", bug.edits, "-sim", "1000", "-sim-stop")
			require.Contains(t, out, "violations: ", "it does not build or does not end")
			first := regexp.MustCompile(`seed (\d+): VIOLATION [^\n]*`).FindString(out)
			if len(bug.edits) == 0 {
				require.Empty(t, first, "what is open without a plant proves no plant")
				return
			}
			require.NotEmpty(t, first, "not found")
			t.Logf("found: %s", first)
		})
	}
}
