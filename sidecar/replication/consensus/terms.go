package consensus

import (
	pb "go.etcd.io/raft/v3/raftpb"
)

// TermStart says that the log's entries from an index on, up to the next TermStart's, are of a term.
type TermStart struct{ Index, Term uint64 }

// maxTerms of a log are remembered, the newest.
const maxTerms = 32

// Terms are those of the log up to an index that this replica has, oldest first. What it has forgotten of its log is in them, as far back as
// maxTerms elections.
//
// Two logs that have the same term at an index are alike up to it (Raft's log matching). So a replica that is told the terms of a log of which
// all is committed finds how much of its own is: Learn.
func (c *Core) Terms(upTo uint64) []TermStart {
	var terms []TermStart
	for _, t := range c.history {
		if t.Index <= min(upTo, c.log.base) {
			terms = append(terms, t)
		}
	}
	if len(terms) == 0 && c.log.base <= upTo {
		terms = append(terms, TermStart{c.log.base, c.log.term})
	}
	for _, e := range c.log.entries {
		if e.Index > upTo {
			break
		}
		if len(terms) == 0 || terms[len(terms)-1].Term != e.Term {
			terms = append(terms, TermStart{e.Index, e.Term})
		}
	}
	return terms[max(0, len(terms)-maxTerms):]
}

// Learn takes the terms of the group's log up to an index at which all is committed, and has Ready give as committed what of this replica's log
// is part of it.
func (c *Core) Learn(terms []TermStart, upTo uint64) error {
	if c.leader == 0 || c.leads {
		return nil
	}
	for i := min(c.log.last(), upTo); i > max(c.delivered, c.log.base); i-- {
		have, err := c.log.Term(i)
		if err != nil {
			return err
		}
		if have != termAt(terms, i) {
			continue
		}
		// As the leader would say it, if it knew how far our logs are alike.
		return c.raw.Step(pb.Message{Type: pb.MsgHeartbeat, To: c.id, From: c.leader,
			Term: c.raw.BasicStatus().HardState.Term, Commit: i})
	}
	return nil
}

// termAt is the term of an index; 0 if that is too long ago.
func termAt(terms []TermStart, index uint64) (term uint64) {
	for _, t := range terms {
		if t.Index <= index {
			term = t.Term
		}
	}
	return term
}
