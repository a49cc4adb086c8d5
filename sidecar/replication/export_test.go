package replication

import (
	"fmt"
	"strings"

	pb "go.etcd.io/raft/v3/raftpb"
)

// BulkContent is the first byte of a request for content.
const BulkContent = bulkContent

// NextChange is nextChange as text. Of voters, those with lower IDs have more of the log.
func NextChange(want []Member, voters, learners []uint64, copies int) string {
	var text []string
	for _, c := range nextChange(want, voters, learners, copies, 1000, func(id uint64) uint64 { return 1000 - id }) {
		sign := map[pb.ConfChangeType]string{pb.ConfChangeAddNode: "+", pb.ConfChangeAddLearnerNode: "+learner ", pb.ConfChangeRemoveNode: "-"}[c.Type]
		text = append(text, fmt.Sprint(sign, c.NodeID))
	}
	return strings.Join(text, " ")
}

// replacedBy tells that a peer's state has taken the place of the one that was opened.
func (g *Group) replacedBy() bool { st := g.Status(); return st.Replaced && !st.Hollow }

// BoundTable has the replica take fewer bytes of records from others.
func (g *Group) BoundTable(bytes int64) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.peers.tableBytes = bytes
}

// Lead has the replica ask to lead.
func (g *Group) Lead() {
	g.mu.Lock()
	defer g.unlock()
	g.peers.core.Campaign()
	g.process()
}

// HandOver has the leader, if this replica is it, hand over.
func (g *Group) HandOver(to uint64) {
	g.mu.Lock()
	defer g.unlock()
	g.peers.core.Transfer(to)
	g.process()
}

// LogBase is the index before the first entry that the replica has in memory.
func (g *Group) LogBase() uint64 {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.peers.core.Base()
}

// Tick advances the clock of a replica whose caller ticks.
func (g *Group) Tick() { g.tick() }

// BeCaughtUp has the replica try to be caught up by a copy of the leader's state, as if it had just been told that it lacks something.
func (g *Group) BeCaughtUp() {
	g.mu.Lock()
	g.peers.copying = true
	g.mu.Unlock()
	g.peers.install <- &pb.Message{}
}

// Serve is as if a peer began to fetch the state; the function that it returns ends that.
func (g *Group) Serve() (done func()) { return g.serving() }

// Review has the leader look at the members now.
func (g *Group) Review() {
	g.mu.Lock()
	defer g.unlock()
	g.review()
}
