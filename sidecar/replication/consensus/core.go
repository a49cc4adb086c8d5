package consensus

import (
	"errors"
	"fmt"
	"log/slog"

	"go.etcd.io/raft/v3"
	pb "go.etcd.io/raft/v3/raftpb"

	"github.com/remora-storage/remora/cachefs/record"
)

// The clock of a group, in ticks. The driver decides how long one is.
const (
	HeartbeatTicks = 2
	ElectionTicks  = 10 // an election begins after 10 to 19 ticks without a leader
	resendTicks    = 10 // without progress, after which the owner proposes again
)

// Config of a Core: what this replica had when it stopped.
type Config struct {
	ID         uint64      // of this replica
	Index      uint64      // of the checkpoint: the log begins behind it
	Term       uint64      // of that index
	Terms      []TermStart // up to that index
	Acceptance record.Acceptance
	Members    *pb.ConfState // at that index
	Hard       HardState
	Entries    []pb.Entry // behind the checkpoint, without a gap
	// Ignore changes of members up to this index: they are not to happen any more.
	Ignore uint64
	// Witness: it asks to lead only when nobody else does.
	Witness bool
	Logger  *slog.Logger
}

// HardState is what must be durable before any answer: Raft's own.
type HardState struct{ Term, Vote, Commit uint64 }

// Core is one replica's part in its group.
type Core struct {
	id  uint64
	raw *raft.RawNode
	log memory

	acceptance record.Acceptance // of what came out of Ready as committed
	delivered  uint64            // the newest index of that
	members    []membership      // at and behind the start of the log, ascending
	history    []TermStart       // up to the start of the log
	restoring  []TermStart       // of the state that Raft is to take
	leader     uint64
	term       uint64
	leads      bool
	heard      heard             // of a leader
	spell      spell             // see look
	asked      map[uint64]uint64 // last index of a peer that asked for a vote

	tail     record.Acceptance // where this replica leads: of its whole log
	proposer uint64            // whose records it took last, since it was started
	tailTerm uint64            // for which term tail holds; 0: not known

	stream   stream
	waiting  []Message // Propose messages that nobody has looked at yet
	out      []Message
	output   Output                 // what Ready gave last
	answers  []Message              // what Wrote gave last
	held     map[uint64]*pb.Message // by peer: see hold
	quick    uint64                 // the follower that answered first; 0: not known
	answered uint64                 // the newest index that a follower has
	owners   map[uint64]uint64      // tick at which a peer proposed last
	ignore   uint64
	persist  bool // a change of members was committed, and no HardState written since
	ticks    uint64
	campaign uint64 // tick at which to ask to lead; 0: none
	witness  bool
	alive    uint64 // tick of the leader's last message
	failed   error
}

// New starts a replica. It is a follower until Raft says otherwise.
func New(cfg Config) (*Core, error) {
	if cfg.Members == nil {
		cfg.Members = &pb.ConfState{}
	}
	c := &Core{id: cfg.ID, acceptance: cfg.Acceptance, delivered: cfg.Index, ignore: cfg.Ignore, witness: cfg.Witness, members: []membership{{cfg.Index, cfg.Members}},
		history: cfg.Terms, held: map[uint64]*pb.Message{}, owners: map[uint64]uint64{}, asked: map[uint64]uint64{}}
	c.log = memory{initial: cfg.Members, base: cfg.Index, term: cfg.Term, entries: cfg.Entries, snapshot: c.snapshot}
	hard := cfg.Hard
	hard.Commit = min(max(hard.Commit, cfg.Index), c.log.last())
	c.log.hard = pb.HardState{Term: hard.Term, Vote: hard.Vote, Commit: hard.Commit}
	raw, err := raft.NewRawNode(&raft.Config{
		ID: cfg.ID, ElectionTick: ElectionTicks, HeartbeatTick: HeartbeatTicks, Storage: &c.log, Applied: cfg.Index,
		AsyncStorageWrites: true, MaxSizePerMsg: 16 << 10, MaxCommittedSizePerReady: 1 << 20, MaxInflightMsgs: 64,
		CheckQuorum: true, PreVote: true, DisableProposalForwarding: true, StepDownOnRemoval: true, Logger: logger{cfg.Logger},
	})
	if err != nil {
		return nil, fmt.Errorf("raft: %w", err)
	}
	c.raw, c.term = raw, hard.Term
	return c, nil
}

// ErrLost: the disk has lost what it had synced. Whoever has lost what it acknowledged must not vote: the replica stops.
var ErrLost = errors.New("the disk has lost a part of the log that was synced")

// Step takes a message from a peer. Errors are of messages that mean nothing here any more.
func (c *Core) Step(m Message) error {
	switch {
	case m.Raft != nil:
		if t := m.Raft.Type; t < 0 || raft.IsLocalMsg(t) || t == pb.MsgProp {
			return fmt.Errorf("a %s never comes from a peer", t)
		}
		c.hear(m.Raft)
		// A leader names in a heartbeat what this replica has acknowledged, at most.
		if last := c.log.last(); m.Raft.Type == pb.MsgHeartbeat && m.Raft.Term >= c.term && m.Raft.Commit > last {
			c.failed = fmt.Errorf("%w: the log ends at %d, and this replica has acknowledged %d", ErrLost, last, m.Raft.Commit)
			return c.failed
		}
		if m.Raft.From == c.leader {
			c.alive = c.ticks
		}
		if m.Raft.Type == pb.MsgAppResp {
			c.answer(m.Raft)
		}
		return c.raw.Step(*m.Raft)
	case m.Propose != nil:
		c.owners[m.From] = c.ticks
		c.waiting = append(c.waiting, m) // until all of the log is known: Ready
		return nil
	case m.Ack != nil:
		c.stream.acked(m.From, *m.Ack, c)
		return nil
	}
	return errors.New("an empty message")
}

// Write is what must become durable, in the order in which Ready gives it.
type Write struct {
	Entries   []pb.Entry
	Hard      *HardState // nil: as it was
	Restored  bool       // the log begins anew at Start: bindings behind it are void
	Start     uint64
	responses []pb.Message
	// Urgent is false if nobody waits for it.
	Urgent bool
}

// Committed is an entry that the group has committed and this replica has made durable.
type Committed struct {
	Index, Term uint64
	Record      bool // else an entry of Raft's own
	Kind        record.Kind
	Name        record.Name
	Accepted    bool
}

// Output is what there is to do.
type Output struct {
	Writes    []Write
	Messages  []Message // may be sent before the writes are durable
	Committed []Committed
}

// Ready returns what there is to do. Nothing may be lost of it; the writes go to the journal in order. The slices are used again by the next
// Ready.
func (c *Core) Ready() (Output, error) {
	if c.failed != nil {
		return Output{}, c.failed
	}
	out := &c.output
	out.begin()
	c.give(out) // before what follows: an append that overtakes another one is refused
	for {
		for c.raw.HasReady() && c.failed == nil {
			c.take(out)
		}
		if c.failed != nil {
			return *out, c.failed
		}
		c.answerProposals()
		c.flush()
		if !c.raw.HasReady() {
			break
		}
	}
	if c.persist {
		h := c.Hard()
		out.Writes = append(out.Writes, Write{Hard: &h, Urgent: true})
		c.persist = false
	}
	c.give(out)
	return *out, nil
}

// give has Ready give what was put aside for it.
func (c *Core) give(out *Output) {
	out.Messages = append(out.Messages, c.out...)
	clear(c.out)
	c.out = c.out[:0]
}

// begin lets go of what was given last.
func (o *Output) begin() {
	clear(o.Writes)
	clear(o.Messages)
	o.Writes, o.Messages, o.Committed = o.Writes[:0], o.Messages[:0], o.Committed[:0]
}

func (c *Core) take(out *Output) {
	rd := c.raw.Ready()
	if rd.SoftState != nil {
		c.leader, c.leads = rd.SoftState.Lead, rd.SoftState.RaftState == raft.StateLeader
		c.stream.next = 0 // to the new leader, everything
		c.proposer = 0
		clear(c.held)
		c.quick, c.answered = 0, 0
	}
	for i := range rd.Messages {
		m := &rd.Messages[i] // Raft has let go of it
		switch m.To {
		case raft.LocalAppendThread:
			c.write(m, out)
		case raft.LocalApplyThread:
			c.commit(m, out)
		default:
			if c.tell(m); !c.hold(m, out) {
				out.Messages = append(out.Messages, Message{To: m.To, From: c.id, Raft: m})
			}
		}
	}
}

func (c *Core) write(m *pb.Message, out *Output) {
	w := Write{Entries: m.Entries, responses: m.Responses, Urgent: len(m.Responses) > 0}
	if m.Term != 0 {
		h := HardState{m.Term, m.Vote, m.Commit}
		if h.Term != c.log.hard.Term || h.Vote != c.log.hard.Vote || len(w.Entries) > 0 {
			w.Hard = &h
		}
		c.term = h.Term
		c.log.hard = pb.HardState{Term: m.Term, Vote: m.Vote, Commit: m.Commit}
	}
	if s := m.Snapshot; s != nil && !raft.IsEmptySnap(*s) {
		at := s.Metadata
		c.log.restore(at.Index, at.Term)
		c.history, c.restoring = c.restoring, nil
		c.members = []membership{{at.Index, &s.Metadata.ConfState}}
		c.delivered = at.Index
		w.Restored, w.Start = true, at.Index
	}
	if err := c.log.append(w.Entries); err != nil {
		c.failed = err
		return
	}
	out.Writes = append(out.Writes, w)
}

// Wrote says that a write is durable, and returns what may be sent now. The slice is used again by the next Wrote.
func (c *Core) Wrote(w Write) []Message {
	clear(c.answers)
	send := c.answers[:0]
	for i := range w.responses {
		m := &w.responses[i]
		if m.To == c.id {
			_ = c.raw.Step(*m) // of a term that is over: means nothing any more
		} else {
			c.tell(m)
			send = append(send, Message{To: m.To, From: c.id, Raft: m})
		}
	}
	c.answers = send
	return send
}

func (c *Core) commit(m *pb.Message, out *Output) {
	for i := range m.Entries {
		e := &m.Entries[i]
		done := Committed{Index: e.Index, Term: e.Term}
		if err := c.commitOne(e, &done); err != nil {
			c.failed = fmt.Errorf("entry %d: %w", e.Index, err)
			return
		}
		c.delivered = done.Index
		out.Committed = append(out.Committed, done)
	}
	for _, r := range m.Responses {
		_ = c.raw.Step(r)
	}
	c.stream.review(c.acceptance)
}

func (c *Core) commitOne(e *pb.Entry, done *Committed) error {
	switch e.Type {
	case pb.EntryConfChange, pb.EntryConfChangeV2:
		if e.Index <= c.ignore {
			return nil
		}
		change, err := confChange(e)
		if err != nil {
			return err
		}
		// Who starts again goes by the members that it knows to be committed. If those that are left did not know of a change, they might
		// wait for members that were lost since, or for one that takes itself for a learner: so the commit index is made durable with it.
		c.persist = true
		c.members = append(c.members, membership{e.Index, c.raw.ApplyConfChange(change)})
		return nil
	}
	if len(e.Data) == 0 {
		return nil // of a new leader
	}
	kind, name, err := DecodeName(e.Data)
	if err != nil {
		return err
	}
	done.Record, done.Kind, done.Name = true, kind, name
	done.Accepted = c.acceptance.Step(kind, name)
	if done.Accepted && c.stream.pop(name) {
		c.stream.moved = c.ticks
	}
	return nil
}
