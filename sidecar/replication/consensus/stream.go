package consensus

import (
	"encoding/binary"
	"fmt"

	pb "go.etcd.io/raft/v3/raftpb"

	"github.com/remora-storage/remora/cachefs/record"
)

// Entry names a record in Raft's log.
type Entry struct {
	Kind record.Kind
	Name record.Name
}

// EntrySize is the length of an encoded Entry.
const EntrySize = 24

// Encode returns the data of the Raft entry.
func (e Entry) Encode() []byte { return e.AppendTo(make([]byte, 0, EntrySize)) }

// AppendTo appends the data of the Raft entry to b.
func (e Entry) AppendTo(b []byte) []byte {
	b = append(b, 1, byte(e.Kind), 0, 0) // version
	b = binary.LittleEndian.AppendUint64(b, uint64(e.Name.Epoch))
	b = binary.LittleEndian.AppendUint32(b, uint32(e.Name.Incarnation))
	return binary.LittleEndian.AppendUint64(b, uint64(e.Name.Seq))
}

// DecodeName reads what Encode wrote.
func DecodeName(b []byte) (record.Kind, record.Name, error) {
	if len(b) != EntrySize || b[0] != 1 || b[2]|b[3] != 0 {
		return 0, record.Name{}, fmt.Errorf("%d bytes are not the name of a record, or one of a newer version", len(b))
	}
	le := binary.LittleEndian
	return record.Kind(b[1]), record.Name{Epoch: record.Epoch(le.Uint64(b[4:])), Incarnation: record.Incarnation(le.Uint32(b[12:])), Seq: record.Seq(le.Uint64(b[16:]))}, nil
}

// Message goes from one replica of the group to another. One of the pointers is set.
type Message struct {
	To, From uint64
	Raft     *pb.Message
	Propose  *Propose
	Ack      *Ack
}

// Propose asks the leader to put records into the log, in this order.
type Propose struct{ Entries []Entry }

// Ack answers a Propose.
type Ack struct {
	Leads bool              // else nothing was taken
	Tail  record.Acceptance // of the leader's whole log
}

// proposeBatch bounds the records of one Propose.
const proposeBatch = 64

// stream is what the owner has answered and the group has not accepted, in order.
type stream struct {
	entries []Entry
	next    int    // entries[:next] were proposed to the present leader
	moved   uint64 // tick of the last progress
	again   uint64 // tick of the last proposal of everything
	old     bool   // something of the stream can never be accepted
}

// Append puts a record of the owner at the end of its stream. Ready proposes it.
func (c *Core) Append(e Entry) {
	if len(c.stream.entries) == 0 {
		c.stream.moved = c.ticks
	}
	c.stream.entries = append(c.stream.entries, e)
	if a := c.acceptance; e.Name.Epoch < a.Epoch || e.Name.Epoch == a.Epoch && e.Name.Incarnation != a.Incarnation {
		c.stream.old = true // its owner does not know yet that another one has taken over
	}
}

// answerProposals takes what owners elsewhere have proposed. All of the log is written: what continues it can be told.
func (c *Core) answerProposals() {
	for _, m := range c.waiting {
		c.out = append(c.out, Message{To: m.From, From: c.id, Ack: c.proposed(m.From, m.Propose.Entries)})
	}
	c.waiting = nil
}

// flush proposes what is new in the stream.
func (c *Core) flush() {
	s := &c.stream
	if s.next == len(s.entries) || c.leader == 0 {
		return
	}
	if c.leads {
		c.proposed(c.id, s.entries[s.next:])
		s.next = len(s.entries)
		return
	}
	for s.next < len(s.entries) {
		n := min(len(s.entries)-s.next, proposeBatch)
		part := append([]Entry(nil), s.entries[s.next:s.next+n]...)
		c.out = append(c.out, Message{To: c.leader, From: c.id, Propose: &Propose{part}})
		s.next += n
	}
}

// Proposer is the replica whose owner's records this leader has taken last; 0: it has taken none.
func (c *Core) Proposer() uint64 { return c.proposer }

// proposed puts what continues the log into it.
func (c *Core) proposed(from uint64, entries []Entry) *Ack {
	if !c.leads || !c.knowTail() {
		return &Ack{}
	}
	tail := c.tail
	fresh, names := make([]pb.Entry, 0, len(entries)), make([]byte, 0, len(entries)*EntrySize)
	for _, e := range entries {
		if tail.Step(e.Kind, e.Name) { // else there already, or after a gap, or of an owner that is no more
			from := len(names)
			names = e.AppendTo(names)
			fresh = append(fresh, pb.Entry{Data: names[from:len(names):len(names)]})
		}
	}
	// All at once: Raft sends a message to each peer for each proposal. If it takes none, the owner proposes again.
	if len(fresh) > 0 && c.raw.Step(pb.Message{Type: pb.MsgProp, From: c.id, Entries: fresh}) == nil {
		c.tail, c.proposer = tail, from
	}
	return &Ack{Leads: true, Tail: c.tail}
}

// knowTail finds the acceptance state at the log's end, once a term; false if a part of the log is not written yet.
func (c *Core) knowTail() bool {
	if c.tailTerm == c.term {
		return true
	}
	if c.raw.HasReady() {
		return false // entries that the log does not have yet
	}
	c.tail = c.acceptance
	for _, e := range c.log.entries {
		if e.Index <= c.delivered || e.Type != pb.EntryNormal || len(e.Data) == 0 {
			continue
		}
		kind, name, err := DecodeName(e.Data)
		if err != nil {
			return false
		}
		c.tail.Step(kind, name)
	}
	c.tailTerm = c.term
	return true
}

// pop drops a record that was accepted, and tells whether it was the first of the stream.
func (s *stream) pop(n record.Name) bool {
	if len(s.entries) == 0 || s.entries[0].Name != n {
		return false
	}
	s.next = max(0, s.next-1)
	if s.entries = s.entries[1:]; len(s.entries) == 0 {
		s.entries = nil
	}
	return true
}

// skip drops what an acceptance state of a peer has accepted. (What is of an epoch before that one may have been accepted, too, and nobody
// can tell any more.)
func (s *stream) skip(a record.Acceptance) {
	for len(s.entries) > 0 && counts(a, s.entries[0]) {
		s.pop(s.entries[0].Name)
	}
}

// review finds what can never be accepted.
func (s *stream) review(a record.Acceptance) {
	for _, e := range s.entries {
		if e.Name.Epoch < a.Epoch || e.Name.Epoch == a.Epoch && (e.Name.Incarnation != a.Incarnation || e.Name.Seq <= a.Last) {
			s.old = true
		}
	}
}

// counts tells whether a record is among what an acceptance state has accepted.
func counts(a record.Acceptance, e Entry) bool {
	return e.Name.Epoch == a.Epoch && e.Name.Incarnation == a.Incarnation && e.Name.Seq <= a.Last
}

// tick proposes everything anew where nothing moves.
func (s *stream) tick(c *Core) {
	if len(s.entries) > 0 && c.ticks-s.moved >= resendTicks && c.ticks-s.again >= resendTicks {
		s.again, s.next = c.ticks, 0
	}
}

// acked takes the leader's word on how far its log has come. What it lacks although it was proposed follows a message that was lost. It is
// proposed again, but not for every Ack that was under way meanwhile.
func (s *stream) acked(from uint64, a Ack, c *Core) {
	if from != c.leader || !a.Leads {
		return
	}
	n := 0
	for n < len(s.entries) && counts(a.Tail, s.entries[n]) {
		n++
	}
	if n == 0 && s.next > 0 && c.ticks-s.again >= HeartbeatTicks {
		s.again, s.next = c.ticks, 0
	}
}

// Unaccepted is how many records of the owner wait for acceptance, and for how many ticks nothing has moved.
func (c *Core) Unaccepted() (n int, still uint64) {
	if len(c.stream.entries) == 0 {
		return 0, 0
	}
	return len(c.stream.entries), c.ticks - c.stream.moved
}

// Fenced tells that another owner has taken over: a part of the stream can never be accepted.
func (c *Core) Fenced() bool { return c.stream.old }

// Drop forgets the stream: what is in it was answered by an owner that is fenced.
func (c *Core) Drop() int {
	n := len(c.stream.entries)
	c.stream = stream{}
	return n
}
