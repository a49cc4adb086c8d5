package consensus

import (
	"encoding/binary"
	"log/slog"
	"testing"

	"github.com/stretchr/testify/require"
	pb "go.etcd.io/raft/v3/raftpb"

	"github.com/remora-storage/remora/cachefs/record"
)

// TestWhoWasAwayKnowsWhatItLacks: a replica that comes back knows from the first word of its leader that it is behind, however much of its
// own log it has applied; and when it is not behind any more, and when it never was.
func TestWhoWasAwayKnowsWhatItLacks(t *testing.T) {
	c := leading(t)
	c.append(0, 10)
	c.settle()
	c.cores[1].Tick()
	c.ready(1)
	c.settle()
	require.Equal(t, c.cores[1].Status().Commit, c.cores[3].Status().Target)

	restart := func() {
		old := c.cores[3]
		hard := old.Hard()
		again, err := New(Config{ID: 3, Members: &pb.ConfState{Voters: []uint64{1, 2, 3}}, Hard: hard, Entries: old.log.entries, Logger: slog.New(slog.DiscardHandler)})
		require.NoError(t, err)
		c.cores[3], c.disks[3] = again, nil
		c.ready(3)
		require.False(t, again.Status().Known, "nobody has said anything")
	}
	heartbeat := func() {
		for range HeartbeatTicks {
			c.cores[1].Tick()
			c.ready(1)
		}
	}

	c.append(10, 500)
	for waits := true; waits; { // replica 3 is away
		var others []Message
		for _, m := range c.wires {
			if m.To != 3 {
				others = append(others, m)
			}
		}
		if c.wires = others; len(others) == 0 && len(c.disks[1])+len(c.disks[2]) == 0 {
			waits = false
			continue
		}
		c.deliverOnce()
	}
	lead := c.cores[1].Status()
	restart()
	heartbeat()
	first := true
	for len(c.wires)+len(c.disks[1])+len(c.disks[2])+len(c.disks[3]) > 0 {
		c.deliverOnce()
		if s := c.cores[3].Status(); s.Known {
			require.GreaterOrEqual(t, s.Target, lead.Commit)
			require.False(t, first && s.Last >= s.Target, "it has everything at the first word: this shows nothing")
			first = false
		}
	}
	require.False(t, first)
	heartbeat()
	c.settle()
	back := c.cores[3].Status()
	require.GreaterOrEqual(t, back.Target, lead.Commit)
	require.GreaterOrEqual(t, c.cores[3].delivered, back.Target)

	restart() // and lacks nothing: only heartbeats come
	heartbeat()
	c.settle()
	back = c.cores[3].Status()
	require.True(t, back.Known)
	require.GreaterOrEqual(t, c.cores[3].delivered, back.Target)
}

// TestSettled: a replica that is a moment behind a busy leader has all that was settled, one that stands still has not for long, and the
// first word of a leader counts as it is.
func TestSettled(t *testing.T) {
	c := leading(t)
	at := record.Seq(0)
	spell := func(with bool) {
		for range ElectionTicks {
			c.append(at, 3)
			at += 3
			for id := uint64(1); id <= 3; id++ {
				c.cores[id].Tick()
				c.ready(id)
			}
			if with {
				c.settle()
				continue
			}
			for len(c.disks[1])+len(c.disks[2])+len(c.wires) > 0 { // replica 3 hears its leader, and writes nothing
				held := c.disks[3]
				c.disks[3] = nil
				c.deliverOnce()
				c.disks[3] = append(held, c.disks[3]...)
			}
		}
	}
	spell(true)
	for range 3 {
		spell(true)
		c.append(at, 3) // the newest is nowhere yet but at the leader
		at += 3
		for id := uint64(1); id <= 3; id++ {
			s := c.cores[id].Status()
			require.True(t, s.Known)
			require.Less(t, s.Settled, s.Target, "replica %d: more was committed since", id)
			require.GreaterOrEqual(t, c.cores[id].delivered, s.Settled, "replica %d", id)
		}
		c.settle()
	}
	for range 3 {
		spell(false)
	}
	require.Less(t, c.cores[3].delivered, c.cores[3].Status().Settled, "it has stood still")
	require.GreaterOrEqual(t, c.cores[2].delivered, c.cores[2].Status().Settled)
	c.settle()
	require.GreaterOrEqual(t, c.cores[3].delivered, c.cores[3].Status().Settled)

	c.cores[3].spell = spell0(c.cores[3]) // as if another had led until now
	require.Equal(t, c.cores[3].Status().Target, c.cores[3].Status().Settled)
}

func spell0(c *Core) spell { return spell{leader: c.leader + 1, term: c.term} }

// deliverOnce makes one write durable, or delivers one message.
func (c *cluster) deliverOnce() {
	for id := uint64(1); id <= uint64(len(c.cores)); id++ {
		if len(c.disks[id]) > 0 {
			w := c.disks[id][0]
			c.disks[id] = c.disks[id][1:]
			c.wires = append(c.wires, c.cores[id].Wrote(w)...)
			c.ready(id)
			return
		}
	}
	if len(c.wires) > 0 {
		m := c.wires[0]
		c.wires = c.wires[1:]
		_ = c.cores[m.To].Step(m)
		c.ready(m.To)
	}
}

// TestARefusalTellsWhatIsCommitted: who asks for a vote, and is refused, learns which part of its log is committed; of another log, nothing.
func TestARefusalTellsWhatIsCommitted(t *testing.T) {
	c := leading(t)
	c.append(0, 10)
	c.settle()
	asks := c.cores[2]
	at, _ := c.cores[1].Delivered()
	require.Less(t, asks.delivered, at, "it knows that all is committed: this shows nothing")
	term := c.cores[1].term
	require.NoError(t, asks.raw.ForgetLeader())
	c.ready(2)
	refuses := &Core{raw: c.cores[1].raw, delivered: at, log: c.cores[1].log, asked: map[uint64]uint64{}}
	refuses.hear(&pb.Message{Type: pb.MsgPreVote, From: 2, Index: at + 7})
	answer := func(add uint64) *pb.Message {
		m := &pb.Message{Type: pb.MsgPreVoteResp, From: 1, To: 2, Term: term, Reject: true}
		refuses.tell(m)
		require.Len(t, m.Context, 16)
		binary.LittleEndian.PutUint64(m.Context[8:], binary.LittleEndian.Uint64(m.Context[8:])+add)
		return m
	}
	require.NoError(t, asks.Step(Message{From: 1, To: 2, Raft: answer(1)}))
	c.ready(2)
	require.Less(t, asks.delivered, at, "the log has another term there")
	require.NoError(t, asks.Step(Message{From: 1, To: 2, Raft: answer(0)}))
	c.ready(2)
	require.Equal(t, at, asks.delivered)
	leader, _ := asks.Leader()
	require.Zero(t, leader, "who refuses a vote does not lead")
}
