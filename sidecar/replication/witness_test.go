package replication_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/remora-storage/remora/sidecar/replication"
	"github.com/remora-storage/remora/sidecar/replication/consensus"
)

// newWitnessed is a group of two replicas and a witness, 3. Who is away for more than a little is too far behind for the leader's log.
func newWitnessed(t *testing.T) *trio {
	c := newTrio(t)
	c.log = 64 << 10
	for id := range uint64(3) {
		c.object = append(c.object, replication.Member{ID: id + 1, Role: replication.Voter, Witness: id == 2})
	}
	for id := range uint64(3) {
		c.add(id+1, []uint64{1, 2, 3})
	}
	return c
}

// awaitGroup waits until a node sees the group as it should be.
func (n *node) awaitGroup(what string, is func(*consensus.Status) bool) {
	n.trio.t.Helper()
	require.Eventually(n.trio.t, func() bool {
		n.trio.mu.Lock()
		groups := map[uint64]*replication.Group{}
		for id, o := range n.trio.nodes {
			if o.group != nil {
				groups[id] = o.group
			}
		}
		n.trio.mu.Unlock()
		for id, g := range groups { // which asks for the members
			filled := g.Filled()
			n.trio.mu.Lock()
			n.trio.filled[id] = filled
			n.trio.mu.Unlock()
		}
		return is(n.group.Status().Group)
	}, time.Minute, 5*time.Millisecond, "%s: %+v", what, n.group.Status().Group)
}

// TestWitnessBringsUpToDate: while one replica is away, the other one and the witness acknowledge; then the other one is lost for good. The
// witness has what the first one lacks, and gives it, and somebody with content leads again.
func TestWitnessBringsUpToDate(t *testing.T) {
	c := newWitnessed(t)
	c.nodes[1].own(true)
	c.nodes[1].file("before", 3<<20)
	c.nodes[2].crash()
	for i := range 8 {
		c.nodes[1].file(fmt.Sprintf("without-%d", i), 1<<20)
	}
	c.lose(1)
	o := c.nodes[2]
	o.start(nil)
	o.own(false)
	o.check("before", 3<<20)
	for i := range 8 {
		o.check(fmt.Sprintf("without-%d", i), 1<<20)
	}
	o.file("after", 1<<20)
	require.False(t, o.group.Status().Replaced, "its state was never given up")
	o.awaitGroup("who has content leads", func(s *consensus.Status) bool { return s.Leader == 2 })
	c.replace(1, 4)
	p := c.add(4, nil)
	o.awaitGroup("the lost one is replaced, and the object says so: until then it counts, and another loss blocks", func(*consensus.Status) bool {
		return !slices.ContainsFunc(c.members(), func(m replication.Member) bool { return m.ID == 1 || m.Role != replication.Voter })
	})
	c.lose(2)
	p.own(false)
	p.check("without-3", 1<<20)
	p.check("after", 1<<20)
}

func sorted(ids []uint64) []uint64 { return slices.Sorted(slices.Values(ids)) }

// TestWitnessInsteadOfCopy: a replica that is too far behind for the leader's log gets the records from the witness, and keeps its state.
func TestWitnessInsteadOfCopy(t *testing.T) {
	c := newWitnessed(t)
	n := c.nodes[1]
	n.own(true)
	n.file("before", 3<<20)
	c.agree()
	c.nodes[2].crash()
	for i := range 8 {
		n.file(fmt.Sprintf("without-%d", i), 1<<20)
	}
	c.nodes[2].start(nil)
	c.agree()
	require.False(t, c.nodes[2].group.Status().Replaced, "its state was never given up")
	c.nodes[3].crash() // a new one cannot know what the old one kept, and begins where the leader is
	n.file("more", 1<<20)
	c.nodes[3].start(nil)
	n.file("with", 1<<20)
	c.agree()
	c.lose(1)
	c.nodes[2].own(false)
	c.nodes[2].check("without-7", 1<<20)
	c.nodes[2].check("more", 1<<20)
	c.nodes[2].check("with", 1<<20)
}

// TestWitnessTruncates: it keeps what somebody lacks a checkpoint of, over a restart, and no more.
func TestWitnessTruncates(t *testing.T) {
	c := newWitnessed(t)
	c.keep = 4 << 20 // from 1 MiB on it asks for checkpoints
	c.nodes[3].stop()
	c.nodes[3].start(nil)
	n := c.nodes[1]
	n.own(true)
	kept := func() *replication.WitnessStatus { return c.nodes[3].group.Status().Witness }
	require.Nil(t, n.group.Status().Witness)
	for i := range 6 {
		n.file(fmt.Sprintf("file-%d", i), 1<<20)
	}
	require.Eventually(t, func() bool { return kept().From > 1 && kept().Bytes <= 1<<20 }, time.Minute, 5*time.Millisecond, "both have checkpoints")
	c.keep = 64 << 20 // and longer than that it waits
	c.nodes[3].crash()
	c.nodes[3].start(nil)
	c.nodes[2].crash()
	for i := range 8 {
		n.file(fmt.Sprintf("without-%d", i), 1<<20)
	}
	c.nodes[3].crash()
	c.nodes[3].start(nil)
	n.file("more", 1<<20)
	require.Greater(t, kept().Bytes, int64(8<<20), "nothing of what node 2 lacks is gone")
	c.nodes[2].start(nil)
	c.agree()
	c.nodes[3].stop()
	c.keep = 4 << 20
	c.nodes[3].start(nil)
	for i := range 4 { // it makes checkpoints again
		n.file(fmt.Sprintf("with-%d", i), 1<<20)
	}
	require.Eventually(t, func() bool { return kept().Bytes <= 1<<20 }, time.Minute, 5*time.Millisecond)
	c.agree()
}

// TestOneCopy: at the witness' limit a replica that is away is given up, and the volume goes on with one copy, alone; the next replica that is
// filled brings the witness' vote back.
func TestOneCopy(t *testing.T) {
	c := newWitnessed(t)
	c.keep = 4 << 20
	for _, id := range []uint64{3} {
		c.nodes[id].stop()
		c.nodes[id].start(nil)
	}
	n := c.nodes[1]
	n.own(true)
	n.file("before", 1<<20)
	c.lose(2)
	for i := range 6 {
		n.file(fmt.Sprintf("without-%d", i), 1<<20)
	}
	n.awaitGroup("one copy", func(s *consensus.Status) bool { return slices.Equal(s.Voters, []uint64{1}) && !s.Joint })
	require.Equal(t, []uint64{3}, n.group.Status().Group.Learners)
	c.nodes[3].stop() // it does not need anybody
	n.file("alone", 1<<20)
	c.nodes[3].start(nil)
	c.mu.Lock()
	c.object = append(c.object, replication.Member{ID: 4, Role: replication.Learner})
	c.mu.Unlock()
	c.add(4, nil)
	n.awaitGroup("three again", func(s *consensus.Status) bool { return slices.Equal(sorted(s.Voters), []uint64{1, 3, 4}) && !s.Joint })
	n.file("after", 1<<20)
	c.agree()
	c.lose(1)
	c.nodes[4].own(false)
	for i := range 6 {
		c.nodes[4].check(fmt.Sprintf("without-%d", i), 1<<20)
	}
	c.nodes[4].check("alone", 1<<20)
	c.nodes[4].check("after", 1<<20)
}

// TestWitnessReplaced: the witness is lost with its disk, and another one takes its place; it never takes that of a replica.
func TestWitnessReplaced(t *testing.T) {
	c := newWitnessed(t)
	n := c.nodes[1]
	n.own(true)
	n.file("before", 3<<20)
	c.lose(3)
	n.file("without", 3<<20)
	c.mu.Lock()
	c.object[2].Role = replication.Leaving
	c.object = append(c.object, replication.Member{ID: 4, Role: replication.Learner, Witness: true})
	c.mu.Unlock()
	c.add(4, nil)
	n.awaitGroup("another witness", func(s *consensus.Status) bool { return slices.Equal(sorted(s.Voters), []uint64{1, 2, 4}) && !s.Joint })
	c.nodes[2].crash()
	n.file("with", 3<<20)
	c.lose(1)
	c.nodes[2].start(nil)
	c.nodes[2].own(false)
	for _, name := range []string{"before", "without", "with"} {
		c.nodes[2].check(name, 3<<20)
	}
}

// TestWitnessKnowsNothing: on its disk is no key, no plaintext, and no state.
func TestWitnessKnowsNothing(t *testing.T) {
	c := newWitnessed(t)
	n := c.nodes[1]
	n.own(true)
	n.file("a-secret-name", 3<<20)
	c.nodes[3].crash()
	found := 0
	var walk func(dir string)
	walk = func(dir string) {
		fs := c.nodes[3].fs
		names, err := fs.List(dir)
		require.NoError(t, err)
		for _, name := range names {
			path := filepath.Join(dir, name)
			if info, err := fs.Stat(path); err == nil && info.IsDir() {
				walk(path)
				continue
			}
			f, err := fs.Open(path)
			require.NoError(t, err)
			info, err := f.Stat()
			require.NoError(t, err)
			b := make([]byte, info.Size())
			_, err = f.ReadAt(b, 0)
			if !errors.Is(err, io.EOF) {
				require.NoError(t, err)
			}
			require.NoError(t, f.Close())
			require.NotContains(t, string(b), "a-secret-name", path)
			require.False(t, bytes.Contains(b, c.key), path)
			found += len(b)
			require.NotContains(t, []string{"arena", "salts"}, name, path)
		}
	}
	walk("disk-0")
	require.Greater(t, found, 3<<20, "the records are there")
	_, err := c.nodes[3].fs.Stat("disk-0/replicas/0000000000000003/meta")
	require.Error(t, err)
}

// TestWitnessDoesNotLead: elected, it hands on.
func TestWitnessDoesNotLead(t *testing.T) {
	c := newWitnessed(t)
	n := c.nodes[1]
	n.own(true)
	for i := range 5 {
		n.file(fmt.Sprintf("file-%d", i), 100_000)
		c.nodes[3].group.Lead()
		n.awaitGroup("one with content leads", func(s *consensus.Status) bool { return s.Leader == 1 || s.Leader == 2 })
	}
	n.check("file-3", 100_000)
	c.agree()
}

// TestNextChangeWithWitness: witnesses take the places of witnesses, and replicas those of replicas: a majority always has content.
func TestNextChangeWithWitness(t *testing.T) {
	voter := func(id uint64) replication.Member { return replication.Member{ID: id, Role: replication.Voter} }
	leaving := func(id uint64) replication.Member { return replication.Member{ID: id, Role: replication.Leaving} }
	filled := func(id uint64) replication.Member {
		return replication.Member{ID: id, Role: replication.Learner, Filled: true}
	}
	witness := func(m replication.Member) replication.Member {
		m.Witness = true
		return m
	}
	for _, c := range []struct {
		what             string
		want             []replication.Member
		voters, learners []uint64
		change           string
	}{
		{"a replica for a replica", []replication.Member{voter(1), leaving(2), witness(voter(3)), filled(4)}, []uint64{1, 2, 3}, []uint64{4}, "+4 -2"},
		{"a witness for a witness", []replication.Member{voter(1), voter(2), witness(leaving(3)), witness(filled(4))}, []uint64{1, 2, 3}, []uint64{4}, "+4 -3"},
		{"no witness for a replica", []replication.Member{voter(1), leaving(2), witness(voter(3)), witness(filled(4))}, []uint64{1, 2, 3}, []uint64{4}, ""},
		{"no replica for a witness", []replication.Member{voter(1), voter(2), witness(leaving(3)), filled(4)}, []uint64{1, 2, 3}, []uint64{4}, ""},
		{"both at once", []replication.Member{leaving(1), voter(2), witness(leaving(3)), filled(4), witness(filled(5))}, []uint64{1, 2, 3}, []uint64{4, 5}, "+4 -1"},
		{"a witness alone does not vote", []replication.Member{voter(1), witness(filled(3))}, []uint64{1}, []uint64{3}, ""},
		{"one that has no vote and leaves, goes", []replication.Member{voter(1), witness(leaving(3)), witness(filled(4)), filled(5)}, []uint64{1}, []uint64{3, 4}, "-3"},
		{"with a second copy it does", []replication.Member{voter(1), witness(filled(3)), filled(4)}, []uint64{1}, []uint64{3, 4}, "+3 +4"},
		{"a witness for one that the object gave up before it heard that it votes", []replication.Member{voter(1), voter(2), witness(filled(5))}, []uint64{1, 2, 4}, []uint64{5}, "+5 -4"},
		{"a replica for such a one", []replication.Member{voter(1), witness(voter(3)), filled(5)}, []uint64{1, 3, 4}, []uint64{5}, "+5 -4"},
		{"no witness for such a one", []replication.Member{voter(1), witness(voter(3)), witness(filled(5))}, []uint64{1, 3, 4}, []uint64{5}, ""},
		{"no replica for such a one that was the witness", []replication.Member{voter(1), voter(2), witness(replication.Member{ID: 6, Role: replication.Learner}), filled(5)}, []uint64{1, 2, 4},
			[]uint64{5, 6}, ""},
		{"a witness for a replica that leaves two others, as after one copy (seed 80001980)",
			[]replication.Member{leaving(1), witness(filled(4)), voter(5), voter(6)}, []uint64{1, 5, 6}, []uint64{4}, "+4 -1"},
		{"no witness where one replica would be left with it", []replication.Member{leaving(1), witness(filled(4)), leaving(5), voter(6)}, []uint64{1, 5, 6}, []uint64{4}, ""},
		{"one witness is enough", []replication.Member{voter(1), witness(voter(3)), witness(filled(4))}, []uint64{1, 3}, []uint64{4}, ""},
	} {
		require.Equal(t, c.change, replication.NextChange(c.want, c.voters, c.learners, 3), c.what)
	}
}
