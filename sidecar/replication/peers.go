package replication

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"syscall"
	"time"

	pb "go.etcd.io/raft/v3/raftpb"

	"github.com/remora-storage/remora/cachefs/record"
	"github.com/remora-storage/remora/cachefs/store"
	"github.com/remora-storage/remora/sidecar/replication/consensus"
	"github.com/remora-storage/remora/sidecar/replication/journal"
	"github.com/remora-storage/remora/telemetry"
)

// PeersConfig makes a group one of several replicas.
type PeersConfig struct {
	// Founders are the voters of a volume that is being made: a replica with an empty log starts with them. Nil: it is caught up by a leader.
	Founders []uint64
	// Members are who the Volume object names, now; Copies how many voters it wants. Nil: nobody changes the members.
	Members func() []Member
	Copies  func() int
	// Node is where a member's disk is, for the log; nil: nobody knows.
	Node func(replica uint64) string
	// Send hands a message to the transport. It never blocks, and may lose it. It copies the parts: they change when it has returned.
	// Only those of 32 KiB and more behind the first are content that never changes, and need no copy.
	Send func(to uint64, kind uint8, parts ...[]byte)
	// SendSummed, if it is set, is called in place of Send: sums are the CRC32C of each 4 KiB of parts that are whole blocks, where they are known.
	SendSummed func(to uint64, kind uint8, sums []func(block int) uint32, parts ...[]byte)
	// Flush, if it is set, is called soon after one or more calls of Send, without locks: until then what was sent may be kept together.
	// It never blocks either.
	Flush func(to uint64)
	// Fetch opens the answer of a peer to a bulk request (Group.Bulk).
	Fetch func(ctx context.Context, from uint64, request []byte) (io.ReadCloser, error)
	// Changed is told who the members are, when they or the leader have changed, in a goroutine of its own. Of two calls the one with the
	// higher index is right.
	Changed func(index uint64, voters, learners []uint64, leads bool)
	// Witness makes this replica one that keeps records and no state (witness.go).
	Witness bool
	// KeepBytes of records are kept by a witness for a member that is away; 0 means 256 MiB.
	KeepBytes int64
	// Force makes this replica the only member, whatever its log says: a majority was lost, and somebody has accepted the loss of data.
	Force bool
	// FillRate bounds the bytes a second at which absent content is filled in the background; 0 means 200 MiB.
	FillRate int64
	// LogBytes of payloads are kept in memory for peers that are away, four times as much for those that are there and lag; 0 means 16 MiB.
	LogBytes int64
	// After calls f in a while, in another goroutine; nil: time.AfterFunc. See lateness.
	After func(d time.Duration, f func())
	// Tick is the distance of two ticks (consensus.ElectionTicks); 0 means 50 ms, less than 0 that the caller ticks.
	Tick time.Duration
}

// logBytes of payloads are kept in memory for peers that are away (PeersConfig.LogBytes); who needs more is caught up by a copy of the state.
const logBytes = 16 << 20

// tableLogs times as much is kept for peers that are there and lag.
const tableLogs = 4

// tableBytes of payloads are as much as a replica takes that cannot write or apply them: more than an owner may have unaccepted.
const tableBytes = tableLogs * logBytes

// peers is what a group of several has beside one of one. Guarded by Group.mu.
type peers struct {
	cfg   PeersConfig
	core  *consensus.Core
	table map[record.Name]*item // the records of the log in memory, and of the owner's stream
	bytes int64                 // of them
	kept  int64                 // bytes of records that this witness keeps, in the journal most of them
	// tableBytes bounds what is taken from others.
	tableBytes int64
	backlog    []consensus.Write      // not in the journal yet: it has no space
	pending    []pending              // in the journal, not synced
	at         map[uint64]journal.LSN // from where on the journal is needed for an index that is not applied
	fenced     error
	lost       int // answered records that were discarded
	install    chan *pb.Message
	changing   uint64 // index of the change of members that was proposed last
	forcedTo   uint64 // the end of the log when PeersConfig.Force made this replica the only member
	joint      joint  // the change of members that is under way, where this replica leads
	gave       uint64 // the newest index of which a copy of the state was given away
	// confirming is the entry that makes the newest change of members known to the members.
	confirming confirmation
	lateSoon   bool // late is to be called
	ticks      int
	followed   int // tick at which the owner was asked to lead
	serving    int // peers that fetch the state
	served     int // tick of the last one's end
	// placedAt is, of blobs, the newest index that put content into the arena alone and is above durableCommit, the commit index that the
	// journal has durably. Guarded by Group.guards.
	placedAt      map[record.BlobID]uint64
	durableCommit uint64
	flights       map[uint64][]flight // by peer
	parts         []part              // of the commit that is under way
	waiters       []*waiter           // in Wait
	idle          sync.Pool           // of *waiter
	room          room
	stuck         bool                       // a peer needs what this replica cannot give while its state is being replaced
	asks          int                        // how often it has asked others to lead for that
	copying       bool                       // a copy of the state is to be fetched, or being installed
	frames        frames                     // scratch of writeEntries
	writes        []consensus.Write          // what backlog is made in
	taken         []item                     // scratch of takeCommitted
	body          body                       // scratch of sendRaft and its like
	unsent        []uint64                   // peers that something was sent to since flush
	users         int                        // of the store, so far
	using         map[int]context.CancelFunc // those who do now
	progress      store.Progress
	filled        int64 // bytes, when progress was counted
	fetching      map[fetched]chan struct{}
	marks         []mark
	// applyingTo is the last index that the store was given, or is being given.
	applyingTo record.Index
	reports    map[uint64]report // what members have said of themselves
	heard      map[uint64]int    // tick of a peer's last message
	joined     map[uint64]int    // tick at which this witness has heard of a learner
	floor      store.Checkpoint  // of a witness: the log begins behind it
	stop       context.CancelFunc
	ctx        context.Context
}

type pending struct {
	write consensus.Write
	end   journal.LSN
	since int64 // when it was to be written
}

// receive stashes the records that came with a message, steps it and does what follows. owes: the journal has something to be synced.
func (g *Group) receive(m consensus.Message, records []*item) (owes bool) {
	g.mu.Lock()
	defer g.unlock()
	if g.failed != nil || g.closing {
		return false
	}
	p := g.peers
	p.heard[m.From] = p.ticks
	if len(records) > 0 && p.bytes > p.tableBytes && g.forgetAll() > p.tableBytes {
		return false // this replica is slower than the others: it gets them again
	}
	for _, it := range records {
		p.put(it)
	}
	if m.Raft != nil && (m.Raft.Type == pb.MsgSnap && !p.has(m.Raft) || m.Raft.Type == pb.MsgApp && p.memberless()) {
		select {
		case p.install <- m.Raft:
		default: // one is under way
		}
		return false
	}
	if m.Raft != nil {
		g.answered(m.Raft)
		p.hearRoom(m.Raft)
	}
	_ = p.core.Step(m) // a message that means nothing any more
	g.process()
	return len(p.pending) > 0
}

// unlock gives back g.mu of a group of several, and then sends what was to be sent.
func (g *Group) unlock() {
	p := g.peers
	var to [4]uint64
	unsent := append(to[:0], p.unsent...)
	p.unsent = p.unsent[:0]
	g.mu.Unlock()
	if p.cfg.Flush != nil {
		for _, id := range unsent {
			p.cfg.Flush(id)
		}
	}
}

// sendTo hands a frame to the transport. g.mu is held, and given back by unlock.
func (p *peers) sendTo(to uint64, kind uint8, parts ...[]byte) {
	if p.cfg.SendSummed != nil {
		p.cfg.SendSummed(to, kind, p.body.sums[:min(len(p.body.sums), len(parts))], parts...)
	} else {
		p.cfg.Send(to, kind, parts...)
	}
	if !slices.Contains(p.unsent, to) {
		p.unsent = append(p.unsent, to)
	}
}

// has tells whether what a MsgSnap offers is here: then Raft answers it.
func (p *peers) has(snap *pb.Message) bool {
	index, _ := p.core.Delivered()
	return snap.Snapshot == nil || snap.Snapshot.Metadata.Index <= index
}

// memberless tells that this replica does not know who the members are: it has died as a founder before it had anything, and the volume
// was made without it. The leader's log does not say it either; a copy of the state does.
func (p *peers) memberless() bool { return len(p.core.Members().Voters) == 0 }

// process does what the core wants done: sends, writes to the journal, and queues what is committed. g.mu is held.
func (g *Group) process() {
	p := g.peers
	leader, _ := p.core.Leader()
	members, confirmed := p.core.Members(), p.confirmed()
	for again := true; again && g.failed == nil; {
		out, err := p.core.Ready()
		if err != nil {
			g.failLocked(err)
			return
		}
		g.send(out.Messages)
		if len(p.backlog) == 0 {
			p.backlog = p.writes[:0]
		}
		p.backlog = append(p.backlog, out.Writes...)
		p.writes = p.backlog
		g.takeCommitted(out.Committed)
		again = g.writeBacklog()
	}
	if l, _ := p.core.Leader(); l != leader || p.core.Members() != members || p.confirmed() != confirmed {
		g.announce()
	}
	if p.fenced == nil && (p.core.Fenced() || g.usurped()) {
		g.fence()
	}
	g.awaitLate()
	g.changed.Broadcast()
}

// writeBacklog puts writes into the journal, in order, and tells whether that gave the core something to do. g.mu is held.
func (g *Group) writeBacklog() (again bool) {
	p := g.peers
	for len(p.backlog) > 0 {
		w, since := p.backlog[0], telemetry.Now()
		before := g.disk.journal.End()
		err := g.writeEntries(&w)
		if errors.Is(err, journal.ErrNoSpace) || errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) { // tried again at the next tick
			g.noSpace = noSpace(err)
			g.wakeAll()
			return again
		}
		if err != nil {
			g.failLocked(fmt.Errorf("write the log: %w", err))
			return false
		}
		p.backlog[0], p.backlog = consensus.Write{}, p.backlog[1:]
		end := g.disk.journal.End()
		switch {
		case end == before && len(p.pending) == 0: // nothing was written, and nothing is under way
			g.send(p.core.Wrote(w))
			again = true
		case end != before || w.Urgent:
			p.pending = append(p.pending, pending{w, end, since})
		}
	}
	p.backlog, g.noSpace = nil, nil
	return again
}

// takeCommitted leaves what is committed to the apply loop. g.mu is held.
func (g *Group) takeCommitted(done []consensus.Committed) {
	p := g.peers
	items := p.taken[:0]
	var bytes, accepted int64
	var first, last record.Seq
	now, since := telemetry.Now(), int64(0)
	for _, c := range done {
		if record.Index(c.Index) <= g.installed {
			continue
		}
		it := item{}
		if c.Record {
			have := p.table[c.Name]
			if have == nil {
				g.failLocked(fmt.Errorf("record %v is committed at %d, and its payload is not here", c.Name, c.Index))
				return
			}
			it = *have
			if c.Accepted && len(g.recovered) > 0 {
				g.recovered = slices.DeleteFunc(g.recovered, func(r item) bool { return r.rec.Name == c.Name })
			}
			if have.own && c.Accepted {
				have.own = false
				if accepted == 0 {
					first, since = c.Name.Seq, have.since
				}
				last = c.Name.Seq
				accepted += it.size()
			} else {
				g.unapplied += it.size()
			}
			bytes += it.size()
		}
		it.index = record.Index(c.Index)
		items = append(items, it)
		if g.cfg.Committed != nil {
			g.cfg.Committed(it.index, c.Term, it.rec)
		}
	}
	p.taken = items
	defer clear(items) // the queue has them: a record must not live on here
	_, g.core.acceptance = p.core.Delivered()
	g.giveUpRecovered(g.core.acceptance)
	if len(items) == 0 {
		return
	}
	g.core.committed = items[len(items)-1].index
	g.core.last = g.core.committed
	g.unaccepted -= accepted
	g.wakeReached()
	if accepted > 0 {
		g.commit = g.cfg.Trace.Commit(since, now, len(items), accepted, uint64(first), uint64(last), nil)
		for i := range items {
			if items[i].own {
				n := items[i].rec.Name
				g.cfg.Trace.Accepted(items[i].span, items[i].since, now, uint64(n.Epoch), uint64(n.Seq), g.commit)
			}
		}
	}
	for _, d := range p.parts {
		g.cfg.Trace.Part(g.commit, d.Part)
	}
	p.parts = p.parts[:0]
	if g.witness() { // there is nothing to apply it to
		g.applied, g.unapplied = g.core.committed, 0
		return
	}
	g.enqueue(items, bytes)
}

// durable takes the result of a sync. g.mu is held.
func (g *Group) durable(lsn journal.LSN, start, end int64) {
	p := g.peers
	if len(p.parts) < maxFlights {
		p.parts = append(p.parts, part{Part: telemetry.Part{Start: start, End: end}})
	}
	n := 0
	for n < len(p.pending) && p.pending[n].end <= lsn {
		if h := p.pending[n].write.Hard; h != nil {
			g.committed(h.Commit)
		}
		messages := p.core.Wrote(p.pending[n].write)
		addTimes(messages, p.pending[n].since, start, end)
		g.send(messages)
		n++
	}
	p.pending = slices.Delete(p.pending, 0, n)
	if n > 0 {
		g.process()
	}
}
