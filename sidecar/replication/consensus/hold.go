package consensus

import (
	"maps"
	"slices"

	pb "go.etcd.io/raft/v3/raftpb"
)

// Not every append is sent at once (docs/decisions/0024). For Raft, what is held is a message that was late.
//
//   - An append without entries says only that the commit index has moved. The next append says it as well, and if there is none the next
//     tick. Between two records of an owner that waits for each, it would be half of all messages. An owner elsewhere waits for it, and gets
//     it at once.
//   - Of two followers, a leader needs the answer of one. The one that answers first (quick) gets its appends at once. Those of the other wait
//     for Late, which the driver calls lateness after HasLate, and go as one: it writes, syncs and answers once for all of them. When it
//     answers something first all the same, because the quick one does not answer, it is the quick one from then on.

// maxLate entries are not held any longer: fewer than the messages that Raft sends without an answer.
const maxLate = 48

// hold keeps a message back, or what comes to the same; what it held before for the peer may go before it. False: it is to be sent.
func (c *Core) hold(m *pb.Message, out *Output) bool {
	h := c.held[m.To]
	switch {
	case m.Type == pb.MsgHeartbeat || m.Type == pb.MsgHeartbeatResp:
		return false
	case m.Type == pb.MsgApp && len(m.Entries) == 0 && !c.ownerElsewhere(m.To):
		if h != nil && len(h.Entries) > 0 && h.Term == m.Term {
			h.Commit = max(h.Commit, m.Commit)
		} else {
			c.held[m.To] = m
		}
		return true
	case m.Type == pb.MsgApp && len(m.Entries) > 0 && c.late(m.To):
		if h != nil && len(h.Entries) > 0 && h.Term == m.Term && h.Index+uint64(len(h.Entries)) == m.Index {
			both := *h
			both.Entries = slices.Concat(h.Entries, m.Entries)
			both.Commit = max(h.Commit, m.Commit)
			m = &both
		} else {
			c.letGo(m.To, out)
		}
		c.held[m.To] = m
		if len(m.Entries) >= maxLate {
			c.letGo(m.To, out)
		}
		return true
	}
	c.letGo(m.To, out)
	return false
}

// letGo sends what was held for a peer. A commit index alone is left out: something else is on its way.
func (c *Core) letGo(to uint64, out *Output) {
	if h := c.held[to]; h != nil && len(h.Entries) > 0 {
		out.Messages = append(out.Messages, Message{To: to, From: c.id, Raft: h})
	}
	delete(c.held, to)
}

// late tells whether a follower's answer is not needed, because another one answers sooner.
func (c *Core) late(to uint64) bool {
	m := c.Members()
	return c.leads && c.quick != 0 && to != c.quick && len(m.Voters) == 3 && len(m.VotersOutgoing) == 0 &&
		slices.Contains(m.Voters, to) && slices.Contains(m.Voters, c.quick) && !c.ownerElsewhere(to)
}

// ownerElsewhere tells whether the owner of the records is at a peer.
func (c *Core) ownerElsewhere(peer uint64) bool {
	at, owns := c.owners[peer]
	return owns && c.ticks-at < ElectionTicks
}

// answer notes which voter answers first: a learner gets everything at once, and its answers count for nothing.
func (c *Core) answer(m *pb.Message) {
	if !c.leads || m.Reject || m.Term != c.term || m.Index <= c.answered || !slices.Contains(c.Members().Voters, m.From) {
		return
	}
	c.answered = m.Index
	if m.From == c.quick {
		return
	}
	c.quick = m.From
	if h := c.held[m.From]; h != nil && len(h.Entries) > 0 {
		c.out = append(c.out, Message{To: m.From, From: c.id, Raft: h})
		delete(c.held, m.From)
	}
}

// HasLate tells whether appends wait for Late.
func (c *Core) HasLate() bool {
	for _, h := range c.held {
		if len(h.Entries) > 0 {
			return true
		}
	}
	return false
}

// Late has Ready give the appends that were held.
func (c *Core) Late() { c.release(func(m *pb.Message) bool { return len(m.Entries) > 0 }) }

// release has Ready give what was held.
func (c *Core) release(which func(*pb.Message) bool) {
	if len(c.held) == 0 {
		return
	}
	for _, id := range slices.Sorted(maps.Keys(c.held)) { // not in the map's order: simulations must be repeatable
		if m := c.held[id]; which == nil || which(m) {
			if c.leads {
				c.out = append(c.out, Message{To: id, From: c.id, Raft: m})
			}
			delete(c.held, id)
		}
	}
}
