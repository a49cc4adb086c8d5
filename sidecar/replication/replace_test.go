package replication_test

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/stretchr/testify/require"

	"github.com/remora-storage/remora/cachefs/meta"
	"github.com/remora-storage/remora/cachefs/store"
	"github.com/remora-storage/remora/sidecar/replication"
)

// rotMeta flips a bit in every 512th byte of the files of a node's metadata with an ending, and tells how many files there were.
func (n *node) rotMeta(ending string) (files int) {
	t := n.trio.t
	dir := fmt.Sprintf("disk-0/replicas/%016x/meta", n.id)
	names, err := n.fs.List(dir)
	require.NoError(t, err)
	for _, name := range names {
		if !strings.HasSuffix(name, ending) {
			continue
		}
		files++
		f, err := n.fs.OpenReadWrite(filepath.Join(dir, name), vfs.WriteCategoryUnspecified)
		require.NoError(t, err)
		info, err := f.Stat()
		require.NoError(t, err)
		for off := int64(0); off < info.Size(); off += 512 {
			var b [1]byte
			_, err := f.ReadAt(b[:], off)
			require.NoError(t, err)
			b[0] ^= 0x10
			_, err = f.WriteAt(b[:], off)
			require.NoError(t, err)
		}
		require.NoError(t, f.Close())
	}
	return files
}

// written is a trio whose first node owns a volume with some files.
func written(t *testing.T) *trio {
	c := newTrio(t, 1, 2, 3)
	n := c.nodes[1]
	n.own(true)
	for i := range 20 {
		n.file(fmt.Sprintf("small-%d", i), 100*i)
	}
	n.file("large", 5<<20)
	c.agree()
	return c
}

// full waits until a node's replica has everything.
func (n *node) full() {
	n.trio.t.Helper()
	require.Eventually(n.trio.t, func() bool { return n.group.Status().Err == nil && n.group.Filled() }, time.Minute, 5*time.Millisecond, "node %d: %+v", n.id, n.group.Status())
}

// TestDamagedMetadata: a replica whose metadata is not what it wrote has it replaced by a peer's when it is opened, as the member that it was:
// its term and its log are those of before. Then it has everything: it can go on without the others' content.
func TestDamagedMetadata(t *testing.T) {
	for _, files := range []string{".sst", "MANIFEST-000001"} {
		t.Run(files, func(t *testing.T) {
			c := written(t)
			n := c.nodes[3]
			n.stop()
			n.start(nil)
			c.nodes[1].file("behind the checkpoint", 3000) // of an incarnation whose salt is not in the journal behind it
			c.agree()
			n.crash()
			if files != ".sst" {
				files = "" // all of them
			}
			require.NotZero(t, n.rotMeta(files))
			c.nodes[1].file("meanwhile", 300_000)
			n.start(nil)
			n.full()
			st := n.group.Status()
			require.True(t, st.Replaced)
			require.False(t, st.Hollow)
			c.agree()
			c.nodes[1].stop()
			n.own(false)
			n.check("small-7", 700)
			n.check("large", 5<<20)
			n.check("meanwhile", 300_000)
			n.file("after", 10_000)
		})
	}
}

// TestDamageFoundInUse: what is found later stops the replica; a new process has its state replaced. The others go on meanwhile.
func TestDamageFoundInUse(t *testing.T) {
	c := written(t)
	n := c.nodes[2]
	n.stop() // its metadata is in files then
	n.start(nil)
	n.full()
	require.NotZero(t, n.rotMeta(".sst"))
	scan := func() error {
		return n.group.Store().Scan([]byte{0}, []byte{meta.LocalPrefix}, func([]byte, []byte) error { return nil })
	}
	require.Error(t, scan())
	c.nodes[1].file("noticed", 1000)
	require.Eventually(t, func() bool { return n.group.Status().Err != nil }, time.Minute, 5*time.Millisecond)
	require.ErrorIs(t, n.group.Status().Err, replication.ErrReplace)
	c.nodes[1].file("meanwhile", 300_000)
	n.stop()
	n.start(nil)
	n.full()
	require.True(t, n.group.Status().Replaced)
	c.agree()
	require.NoError(t, scan())
}

// TestDamagedOwner: what the owner had answered is in its journal, and nothing of it is lost with its metadata.
func TestDamagedOwner(t *testing.T) {
	c := written(t)
	n := c.nodes[1]
	n.file("last", 100_000)
	n.stop()
	require.NotZero(t, n.rotMeta(""))
	n.start(nil)
	n.own(false)
	require.Zero(t, n.group.LostAnswers())
	n.check("large", 5<<20)
	n.check("last", 100_000)
	n.full()
	require.True(t, n.group.Status().Replaced)
	c.agree()
}

// TestDamagedOnlyCopy: where nobody else has the state, it stays as it is, and so does the refusal.
func TestDamagedOnlyCopy(t *testing.T) {
	c := newTrio(t, 1)
	n := c.nodes[1]
	n.own(true)
	n.file("only", 300_000)
	n.stop()
	require.NotZero(t, n.rotMeta(""))
	for range 2 {
		err := n.tryStart(nil)
		require.ErrorIs(t, err, store.ErrDamaged)
		require.NotErrorIs(t, err, replication.ErrReplace)
	}
}

// TestDamagedLastOne: the checkpoint of the last replica still knows the others, which have left since. What they have is older, or nowhere any
// more, so the damaged state is not given up for theirs.
func TestDamagedLastOne(t *testing.T) {
	c := written(t)
	n := c.nodes[1]
	c.mu.Lock()
	c.copies = 1
	for i := range c.object {
		if c.object[i].ID != 1 {
			c.object[i].Role = replication.Leaving
		}
	}
	c.mu.Unlock()
	n.file("shrinks", 3000)
	c.voters(n, 1)
	n.file("one", 3000)
	n.crash() // before the next checkpoint
	require.NotZero(t, n.rotMeta(""))
	object := c.members()
	for _, told := range []bool{true, false} { // also where the object has not heard yet that they are gone
		c.mu.Lock()
		if c.object = object; !told {
			c.object = []replication.Member{{ID: 1, Role: replication.Voter}, {ID: 2, Role: replication.Leaving}, {ID: 3, Role: replication.Leaving}}
		}
		c.mu.Unlock()
		err := n.tryStart(nil)
		require.ErrorIs(t, err, store.ErrDamaged)
		require.NotErrorIs(t, err, replication.ErrReplace)
	}
}

// TestDamagedAfterACopy: the metadata of a replica that was just caught up by a copy of the state is damaged before it has made a checkpoint of
// its own. What opens its journal, the salts of owners that came while it was away, must be in the file by then, or it could not start.
func TestDamagedAfterACopy(t *testing.T) {
	c := newTrio(t)
	c.log = 16 << 10
	for id := range uint64(3) {
		c.object = append(c.object, replication.Member{ID: id + 1, Role: replication.Voter})
	}
	for _, m := range c.object {
		c.add(m.ID, []uint64{1, 2, 3})
	}
	n, away := c.nodes[1], c.nodes[3]
	n.own(true)
	n.file("first", 1000)
	c.agree()
	last := away.group.Status().Group.Last
	away.crash()
	n.stop()
	n.start(nil)
	n.own(false)
	keeps := func() bool { return min(n.group.LogBase(), c.nodes[2].group.LogBase()) <= last }
	for i := 0; i < 60 || keeps(); i++ { // until whoever leads calls it away, and has forgotten what it lacks
		require.Less(t, i, 5000, "the log is kept for ever")
		n.file(fmt.Sprintf("away-%d", i), 4000)
	}
	require.Eventually(t, func() bool { // what is not applied, the leader's log still has
		one, two := n.group.Status(), c.nodes[2].group.Status()
		return one.Applied == one.Committed && two.Applied == two.Committed && one.Committed == two.Committed
	}, time.Minute, time.Millisecond, "the others do not apply what they have")
	away.start(nil)
	require.Eventually(t, func() bool {
		st := away.group.Status()
		return st.Replaced && !st.Hollow
	}, time.Minute, time.Millisecond, "it is not caught up by a copy of the state")
	n.file("behind", 1000) // of an incarnation whose salt the copy has brought
	c.agree()
	away.crash()
	require.NotZero(t, away.rotMeta(""))
	away.start(nil)
	away.full()
	c.agree()
	n.stop()
	away.own(false)
	away.check("first", 1000)
	away.check("away-59", 4000)
	away.check("behind", 1000)
}

// TestDamagedLeads: a replica has records in its log, and their content in its arena, that it has sent to nobody; then its metadata is damaged, and it
// is elected, because it has most. It can give the others nothing of that without a state, and nobody gives a leader one: so it asks the others to
// lead. It once led for ever (seed 80021361). What it has answered it proposes again, when it has a state.
func TestDamagedLeads(t *testing.T) {
	c := written(t)
	n := c.nodes[1]
	require.Eventually(t, func() bool {
		n.group.Lead()
		return n.group.Status().Group.Leads
	}, time.Minute, 100*time.Millisecond)
	c.mu.Lock()
	for _, way := range [][2]uint64{{1, 2}, {1, 3}, {2, 3}, {3, 2}} {
		c.cut[way] = true
	}
	c.mu.Unlock()
	last := n.group.Status().Group.Last
	n.unsynced("answered", 300_000) // in a slot of the arena
	require.Eventually(t, func() bool { return n.group.Status().Group.Last >= last+2 }, time.Minute, time.Millisecond)
	n.stop()
	require.NotZero(t, n.rotMeta(""))
	c.mu.Lock()
	delete(c.cut, [2]uint64{1, 2})
	delete(c.cut, [2]uint64{1, 3})
	c.mu.Unlock()
	n.start(nil)
	require.Eventually(t, func() bool {
		n.group.Lead()
		return n.group.Status().Group.Leads
	}, time.Minute, 100*time.Millisecond, "it has most")
	require.True(t, n.group.Status().Hollow)
	c.mu.Lock()
	clear(c.cut)
	c.mu.Unlock()
	n.full()
	require.True(t, n.group.Status().Replaced)
	n.own(false)
	n.check("large", 5<<20)
	n.check("answered", 300_000)
	n.file("after", 10_000)
	c.agree()
}
