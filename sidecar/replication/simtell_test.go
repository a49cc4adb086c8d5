package replication

import (
	"fmt"
	"time"

	"github.com/remora-storage/remora/sidecar/replication/consensus"
)

// aside says something to who reads the story that is no part of it: it may come from any goroutine.
func (s *sim) aside(format string, args ...any) {
	if s.tell != nil {
		fmt.Fprintf(s.tell, "%12v      "+format+"\n", append([]any{time.Since(s.begin)}, args...)...)
	}
}

// asideFrame says what a message is, for who reads the story.
func (s *sim) asideFrame(l *simLife, kind uint8, from uint64, body []byte) {
	if s.tell == nil {
		return
	}
	m, items, err := l.group.decode(kind, from, body)
	switch {
	case err != nil:
		s.aside("%v", err)
	case m.Raft != nil:
		s.aside("%s, %d records", m.Raft.String(), len(items))
	case m.Propose != nil:
		s.aside("propose %d from %v", len(m.Propose.Entries), m.Propose.Entries[0].Name)
	case m.Ack != nil:
		s.aside("ack %+v", *m.Ack)
	}
}

// asideAll says how each replica stands: at the end of a group that is not well.
func (s *sim) asideAll() {
	if s.tell == nil {
		return
	}
	s.aside("the object: %+v", s.members())
	for _, n := range s.nodes {
		l := n.life
		if l == nil || l.alone || !l.opened.Load() {
			s.aside("node %d: gone %v, no process", n.id, n.gone)
			continue
		}
		g := l.group
		st := g.Status()
		of := consensus.Status{}
		if st.Group != nil {
			of = *st.Group
		}
		g.mu.Lock()
		first, pending, backlog := g.peers.core.Base(), len(g.peers.pending), len(g.peers.backlog)
		g.mu.Unlock()
		s.aside("node %d: gone %v, hollow %v, filled %v, applying %v, committed %d, applied %d, base %d, pending %d, backlog %d, acceptance %+v, fill %+v\n      %+v",
			n.id, n.gone, g.hollow.Load(), g.Filled(), l.applying.Load(), st.Committed, st.Applied, first, pending, backlog, st.Acceptance, g.FillStatus(), of)
	}
}
