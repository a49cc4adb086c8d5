package consensus

import (
	"fmt"
	"log/slog"

	"go.etcd.io/raft/v3"
	pb "go.etcd.io/raft/v3/raftpb"
	"go.etcd.io/raft/v3/tracker"
)

type raftProgress = tracker.Progress

// Status is how a replica stands in its group.
type Status struct {
	ID, Leader, Term uint64
	Leads            bool
	Last, Commit     uint64
	Target           uint64 // what the leader has committed, if it is Known
	Settled          uint64 // what it had committed ElectionTicks to twice as many ago, or when it said so first
	Known            bool
	LastTerm         uint64 // of the entry at Last: of two logs, the one with the higher one is newer
	Voters, Learners []uint64
	Outgoing         []uint64 // those who vote, too, until a change of members is over
	Joint            bool
	Changed          uint64          // index of the newest change of members
	Peers            map[uint64]Peer // where this replica leads
}

// Peer is how far a peer is, as the leader knows.
type Peer struct {
	Match   uint64
	Active  bool // it has answered lately
	Lagging bool // it needs what the log has no more
}

// Status returns how this replica stands.
func (c *Core) Status() Status {
	newest := c.members[len(c.members)-1]
	conf := newest.conf
	s := Status{ID: c.id, Leader: c.leader, Term: c.term, Leads: c.leads, Last: c.log.last(), Commit: c.log.hard.Commit,
		Voters: conf.Voters, Learners: conf.Learners, Outgoing: conf.VotersOutgoing, Joint: c.Joint(), Changed: newest.index}
	s.Target, s.Known = c.target()
	s.Settled = c.settled()
	s.LastTerm, _ = c.log.Term(s.Last)
	if c.leads {
		s.Peers = map[uint64]Peer{}
		c.raw.WithProgress(func(id uint64, _ raft.ProgressType, p raftProgress) {
			s.Peers[id] = Peer{Match: p.Match, Active: p.RecentActive || id == c.id, Lagging: p.State == tracker.StateSnapshot}
		})
	}
	return s
}

// Members are the newest members that this replica has committed.
func (c *Core) Members() *pb.ConfState { return c.members[len(c.members)-1].conf }

// Leader is who leads, 0 if nobody is known to; and the term.
func (c *Core) Leader() (id, term uint64) { return c.leader, c.term }

// Leads tells whether this replica leads.
func (c *Core) Leads() bool { return c.leads }

// logger hands what Raft says to slog. What it calls a panic is one: its state is not what it believes.
type logger struct{ to *slog.Logger }

func (l logger) Debug(v ...any)                 {}
func (l logger) Debugf(format string, v ...any) {}
func (l logger) Info(v ...any)                  { l.to.Debug(fmt.Sprint(v...)) }
func (l logger) Infof(format string, v ...any)  { l.to.Debug(fmt.Sprintf(format, v...)) }
func (l logger) Warning(v ...any)               { l.to.Warn(fmt.Sprint(v...)) }
func (l logger) Warningf(format string, v ...any) {
	l.to.Warn(fmt.Sprintf(format, v...))
}
func (l logger) Error(v ...any)                 { l.to.Error(fmt.Sprint(v...)) }
func (l logger) Errorf(format string, v ...any) { l.to.Error(fmt.Sprintf(format, v...)) }
func (l logger) Fatal(v ...any)                 { panic(fmt.Sprint(v...)) }
func (l logger) Fatalf(format string, v ...any) { panic(fmt.Sprintf(format, v...)) }
func (l logger) Panic(v ...any)                 { panic(fmt.Sprint(v...)) }
func (l logger) Panicf(format string, v ...any) { panic(fmt.Sprintf(format, v...)) }
