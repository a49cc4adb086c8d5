package consensus

import (
	"log/slog"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
	pb "go.etcd.io/raft/v3/raftpb"

	"github.com/remora-storage/remora/cachefs/record"
)

// cluster is replicas whose writes are durable after some steps, on a network that loses messages.
type cluster struct {
	t     *testing.T
	rng   *rand.Rand
	cores map[uint64]*Core
	wires []Message
	disks map[uint64][]Write
	done  map[uint64][]Committed
	loss  float64
}

func newCluster(t *testing.T, seed uint64, members *pb.ConfState, ids ...uint64) *cluster {
	c := &cluster{t: t, rng: rand.New(rand.NewPCG(seed, 1)), cores: map[uint64]*Core{}, disks: map[uint64][]Write{}, done: map[uint64][]Committed{}}
	for _, id := range ids {
		core, err := New(Config{ID: id, Members: members, Logger: slog.New(slog.DiscardHandler)})
		require.NoError(t, err)
		c.cores[id] = core
	}
	return c
}

func (c *cluster) ready(id uint64) {
	out, err := c.cores[id].Ready()
	require.NoError(c.t, err)
	c.disks[id] = append(c.disks[id], out.Writes...)
	c.wires = append(c.wires, out.Messages...)
	c.done[id] = append(c.done[id], out.Committed...)
}

// step lets one random thing happen.
func (c *cluster) step(ids []uint64) {
	id := ids[c.rng.IntN(len(ids))]
	switch k := c.rng.IntN(8); {
	case k == 0:
		c.cores[id].Tick()
		c.ready(id)
	case k == 7 && c.cores[id].HasLate():
		c.cores[id].Late()
		c.ready(id)
	case k < 4 && len(c.disks[id]) > 0:
		w := c.disks[id][0]
		c.disks[id] = c.disks[id][1:]
		c.wires = append(c.wires, c.cores[id].Wrote(w)...)
		c.ready(id)
	case len(c.wires) > 0:
		i := c.rng.IntN(min(len(c.wires), 4))
		m := c.wires[i]
		c.wires = append(c.wires[:i:i], c.wires[i+1:]...)
		if to := c.cores[m.To]; to != nil && c.rng.Float64() >= c.loss {
			_ = to.Step(m)
			c.ready(m.To)
		}
	}
}

// TestStream: whoever leads, and whatever the network loses, every record of the owner is accepted once, in order, everywhere.
func TestStream(t *testing.T) {
	ids := []uint64{1, 2, 3, 4}
	for seed := range uint64(20) {
		c := newCluster(t, seed, &pb.ConfState{Voters: []uint64{1, 2, 3}, Learners: []uint64{4}}, ids...)
		c.loss = float64(seed%4) * 0.1
		owner := ids[seed%4] // a voter, or the learner
		const records = 60
		next := 0
		for n := 0; n < 400_000; n++ {
			if next < records && c.rng.IntN(200) == 0 {
				e := Entry{record.Change, record.Name{Epoch: 1, Incarnation: 1, Seq: record.Seq(next)}}
				if next == 0 {
					e.Kind = record.Owner
				}
				next++
				c.cores[owner].Append(e)
				c.ready(owner)
			}
			c.step(ids)
			whole := true
			for _, id := range ids {
				_, a := c.cores[id].Delivered()
				whole = whole && a.Last == records-1
			}
			if whole {
				break
			}
		}
		for _, id := range ids {
			var seqs []record.Seq
			for _, d := range c.done[id] {
				if d.Accepted {
					seqs = append(seqs, d.Name.Seq)
				}
			}
			require.Len(t, seqs, records, "seed %d, replica %d", seed, id)
			for i, s := range seqs {
				require.EqualValues(t, i, s)
			}
		}
		n, _ := c.cores[owner].Unaccepted()
		require.Zero(t, n)
	}
}

// leading is a leader of three, and of learners, with everything delivered.
func leading(t *testing.T, learners ...uint64) *cluster {
	c := newCluster(t, 1, &pb.ConfState{Voters: []uint64{1, 2, 3}, Learners: learners}, append([]uint64{1, 2, 3}, learners...)...)
	c.cores[1].Campaign()
	c.ready(1)
	c.settle()
	require.True(t, c.cores[1].leads)
	return c
}

// settle delivers everything and makes it durable, without a tick, and answers how many messages went from the leader.
func (c *cluster) settle() (sent, answers int) {
	for busy := true; busy; {
		busy = false
		for id := uint64(1); id <= uint64(len(c.cores)); id++ {
			for len(c.disks[id]) > 0 {
				w := c.disks[id][0]
				c.disks[id] = c.disks[id][1:]
				c.wires = append(c.wires, c.cores[id].Wrote(w)...)
				c.ready(id)
				busy = true
			}
		}
		for len(c.wires) > 0 {
			m := c.wires[0]
			c.wires = c.wires[1:]
			if m.From == 1 {
				sent++
			} else {
				answers++
			}
			_ = c.cores[m.To].Step(m)
			c.ready(m.To)
			busy = true
		}
	}
	return sent, answers
}

func (c *cluster) append(first, n record.Seq) {
	for s := first; s < first+n; s++ {
		e := Entry{record.Change, record.Name{Epoch: 1, Incarnation: 1, Seq: s}}
		if s == 0 {
			e.Kind = record.Owner
		}
		c.cores[1].Append(e)
	}
	c.ready(1)
}

// TestMessagesOfABatch: many records that are appended together cost a message and an answer at the follower that answers first. The other one
// gets those of many batches as one, when the driver says so. The commit index of many waits for the next record or the next tick.
func TestMessagesOfABatch(t *testing.T) {
	c := leading(t)
	c.append(0, 1)
	c.settle()
	lead := c.cores[1]
	quick := lead.quick
	other := 5 - quick
	require.Contains(t, []uint64{2, 3}, quick)
	for first := record.Seq(1); first < 40; first += 8 {
		c.append(first, 8)
		sent, answers := c.settle()
		require.Equal(t, 1, sent)
		require.Equal(t, 1, answers)
		_, mine := lead.Delivered()
		require.Equal(t, first+7, mine.Last)
		_, theirs := c.cores[quick].Delivered()
		require.Equal(t, first-1, theirs.Last, "what it knows to be committed")
		require.Equal(t, quick, lead.quick)
	}
	require.True(t, lead.HasLate())
	lead.Late()
	c.ready(1)
	require.False(t, lead.HasLate())
	sent, answers := c.settle()
	require.Equal(t, 1, sent)
	require.Equal(t, 1, answers)
	require.EqualValues(t, c.cores[1].log.last(), c.cores[other].log.last())
	require.Equal(t, quick, lead.quick, "its answers were the first")
	lead.Tick()
	c.ready(1)
	c.settle()
	for id := uint64(1); id <= 3; id++ {
		_, a := c.cores[id].Delivered()
		require.Equal(t, record.Seq(40), a.Last, "replica %d after a tick", id)
	}
}

// TestTheQuickFollowerIsSilent: the other one answers, and is the one that gets everything at once from then on.
func TestTheQuickFollowerIsSilent(t *testing.T) {
	c := leading(t)
	c.append(0, 1)
	c.settle()
	lead := c.cores[1]
	silent := lead.quick
	other := 5 - silent
	drop := func() {
		c.wires = slices.DeleteFunc(c.wires, func(m Message) bool { return m.To == silent || m.From == silent })
	}
	c.append(1, 1)
	drop()
	c.settle()
	_, a := lead.Delivered()
	require.Equal(t, record.Seq(0), a.Last)
	require.True(t, lead.HasLate())
	lead.Late()
	c.ready(1)
	c.settle()
	_, a = lead.Delivered()
	require.Equal(t, record.Seq(1), a.Last)
	require.Equal(t, other, lead.quick)
	for s := record.Seq(2); s < 10; s++ {
		c.append(s, 1)
		drop()
		c.settle()
		_, a = lead.Delivered()
		require.Equal(t, s, a.Last, "without waiting for Late")
	}
}

// TestADiskThatLost: a replica that comes back with less than it has acknowledged stops, with an error that says so.
func TestADiskThatLost(t *testing.T) {
	c := leading(t)
	c.append(0, 3)
	c.settle()
	c.cores[1].Tick()
	c.ready(1)
	c.settle()
	lost := c.cores[2]
	entries := lost.Entries()
	again, err := New(Config{ID: 2, Members: lost.Members(), Entries: entries[:len(entries)-1], Hard: HardState{Term: lost.Hard().Term}, Logger: slog.New(slog.DiscardHandler)})
	require.NoError(t, err)
	c.cores[2] = again
	for range 2 * HeartbeatTicks {
		c.cores[1].Tick()
		c.ready(1)
	}
	for _, m := range c.wires {
		if m.To == 2 && m.Raft != nil && m.Raft.Type == pb.MsgHeartbeat {
			require.ErrorIs(t, again.Step(m), ErrLost)
		}
	}
	_, err = again.Ready()
	require.ErrorIs(t, err, ErrLost)
}

// TestALearnerAnswersFirst: that says nothing of the voters.
func TestALearnerAnswersFirst(t *testing.T) {
	c := leading(t, 4)
	lead := c.cores[1]
	c.append(0, 1)
	c.settle()
	silent := lead.quick
	other := 5 - silent
	for s := record.Seq(1); s < 4; s++ {
		c.append(s, 1)
		c.wires = slices.DeleteFunc(c.wires, func(m Message) bool { return m.To == silent })
		c.settle() // the learner has it, and has answered
		lead.Late()
		c.ready(1)
		c.settle()
		require.Equal(t, other, lead.quick)
		_, a := lead.Delivered()
		require.Equal(t, s, a.Last)
	}
}

// TestManyLate: what waits for Late is bounded, and goes in order.
func TestManyLate(t *testing.T) {
	c := leading(t)
	c.append(0, 1)
	c.settle()
	lead := c.cores[1]
	other := 5 - lead.quick
	for s := record.Seq(1); s < 5*maxLate; s++ {
		c.append(s, 1)
		c.settle()
		require.Less(t, lead.log.last()-c.cores[other].log.last(), uint64(maxLate))
	}
	lead.Late()
	c.ready(1)
	c.settle()
	require.Equal(t, lead.log.last(), c.cores[other].log.last())
}

// TestNothingIsLateInAChange: while members change, and of groups of other sizes, everybody gets everything at once.
func TestNothingIsLateInAChange(t *testing.T) {
	c := leading(t, 4)
	lead := c.cores[1]
	c.append(0, 1)
	c.settle()
	c.append(1, 1)
	sent, _ := c.settle()
	require.Equal(t, 2, sent, "the quick one and the learner")
	require.NoError(t, lead.Change([]pb.ConfChangeSingle{{Type: pb.ConfChangeAddNode, NodeID: 4}, {Type: pb.ConfChangeRemoveNode, NodeID: 3}}))
	c.ready(1)
	require.True(t, lead.late(5-lead.quick), "the change is not committed")
	for n := 0; len(lead.Members().VotersOutgoing) == 0; n++ {
		require.Less(t, n, 100)
		c.deliverOnce()
	}
	require.False(t, lead.late(2))
	require.False(t, lead.late(3))
	require.False(t, lead.late(4))
}

// TestAnOwnerElsewhereIsToldAtOnce: it waits for the commit index.
func TestAnOwnerElsewhereIsToldAtOnce(t *testing.T) {
	c := leading(t)
	for s := record.Seq(0); s < 10; s++ {
		e := Entry{record.Change, record.Name{Epoch: 1, Incarnation: 1, Seq: s}}
		if s == 0 {
			e.Kind = record.Owner
		}
		c.cores[2].Append(e)
		c.ready(2)
		c.settle()
		_, a := c.cores[2].Delivered()
		require.Equal(t, s, a.Last)
	}
}

// TestAsk: who is asked leads if it has as much as a majority without the one that asks, however much that one has.
func TestAsk(t *testing.T) {
	for _, asked := range []string{"who has what is committed", "who lacks it"} {
		t.Run(asked, func(t *testing.T) {
			c := leading(t)
			lead := c.cores[1]
			c.append(0, 1)
			c.settle()
			to, may := lead.quick, true
			if asked == "who lacks it" {
				to, may = 5-to, false // what it is to get is held
			} else {
				lead.Tick() // it hears what is committed: a candidate that only hears it with a vote begins anew
				c.ready(1)
				c.settle()
			}
			c.append(1, 1)
			c.wires = nil // the leader alone has it
			c.settle()
			last := lead.log.last()
			lead.Ask(to)
			c.ready(1)
			c.settle()
			require.Equal(t, may, c.cores[to].Leads())
			require.False(t, lead.Leads())
			if may {
				require.Equal(t, last+1, c.cores[to].log.last(), "its own first entry is in that place, and behind it the record, which its owner has proposed again")
				require.Equal(t, last+1, lead.log.last())
			}
			lead.Ask(to)
			c.ready(1)
			require.Empty(t, c.wires, "who does not lead asks nobody")
		})
	}
}
