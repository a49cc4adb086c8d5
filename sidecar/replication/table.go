package replication

import (
	pb "go.etcd.io/raft/v3/raftpb"

	"github.com/remora-storage/remora/cachefs/record"
	"github.com/remora-storage/remora/sidecar/replication/consensus"
	"github.com/remora-storage/remora/sidecar/replication/journal"
)

// The table has the records that the log in memory names, and those of the owner here that are not in the log yet. A record leaves it when it is
// applied and no peer that is there needs it any more; what the table holds keeps the journal from giving back its segment (needs).

// put keeps a record, and returns the one that the table has.
func (p *peers) put(it *item) *item {
	if old := p.table[it.rec.Name]; old != nil && !old.done {
		return old
	}
	p.drop(it.rec.Name)
	p.table[it.rec.Name] = it
	p.bytes += it.weight()
	p.kept += int64(it.raw)
	return it
}

func (p *peers) drop(n record.Name) {
	if it := p.table[n]; it != nil {
		p.bytes -= it.weight()
		p.kept -= int64(it.raw)
		delete(p.table, n)
	}
}

// newest is a record of a batch as the table has it; nil if that is another one's.
func (p *peers) newest(it *item) *item {
	if it.rec == nil {
		return nil
	}
	if now := p.table[it.rec.Name]; now != nil && !now.done && now.index == it.index {
		return now
	}
	return nil
}

// sweepTicks are between two looks for records that nobody needs.
const sweepTicks = 100

// sweep forgets records that are not in the log, and not this owner's to propose: they came with a message that Raft did not take, or with
// one of an owner that is fenced, or their place in the log was given to others, or the state of a peer has brought what they change. Who
// wants them in the log sends them again. Otherwise they would stay for ever, and the journal, too. g.mu is held.
func (g *Group) sweep() {
	p := g.peers
	in := map[record.Name]bool{}
	note := func(entries []pb.Entry) {
		for _, e := range entries {
			if _, n, err := consensus.DecodeName(e.Data); err == nil {
				in[n] = true
			}
		}
	}
	note(p.core.Entries())
	for i := range p.backlog {
		note(p.backlog[i].Entries)
	}
	for n, it := range p.table {
		if !in[n] && !it.own {
			p.drop(n)
		}
	}
}

// bound notes which index has put content into the arena alone.
func (g *Group) bound(it *item) {
	g.guards.Lock()
	defer g.guards.Unlock()
	for _, pl := range it.placed {
		g.peers.placedAt[it.rec.Ops[pl.Op].Blob] = uint64(it.index)
	}
}

// committed notes that the journal has a commit index durably.
func (g *Group) committed(index uint64) {
	g.guards.Lock()
	defer g.guards.Unlock()
	p := g.peers
	if index <= p.durableCommit {
		return
	}
	p.durableCommit = index
	for blob, at := range p.placedAt {
		if at <= index {
			delete(p.placedAt, blob)
		}
	}
}

// applied forgets what no peer needs any more. g.mu is held.
func (g *Group) forgetApplied(items []item) {
	p := g.peers
	for i := range items {
		delete(p.at, uint64(items[i].index))
		if r := items[i].rec; r != nil {
			if it := p.table[r.Name]; it != nil && it.index <= items[i].index {
				it.done = true
			}
		}
	}
	if p.bytes > tableLogs*p.cfg.LogBytes {
		g.forgetAll()
		return
	}
	most := len(p.core.Entries())
	if p.bytes > p.cfg.LogBytes {
		most /= 2
	}
	g.forgetLog(func() { p.core.Compact(uint64(g.applied), most) })
}

// forgetAll forgets what is applied, whoever lacks it, and returns how many bytes are left in the table. Where it stayed, a group of which
// one replica is being caught up would come to a table that takes nothing more; so nothing would be applied, and nothing ever forgotten.
// g.mu is held.
func (g *Group) forgetAll() int64 {
	if g.witness() { // what it forgets is up to the others: truncate
		return g.peers.bytes
	}
	g.forgetLog(func() { g.peers.core.Forget(uint64(g.applied)) })
	return g.peers.bytes
}

// forgetLog forgets the records of what compact takes out of the log in memory. g.mu is held.
func (g *Group) forgetLog(compact func()) {
	p := g.peers
	base, entries := p.core.Base(), p.core.Entries()
	compact()
	for _, e := range entries[:p.core.Base()-base] {
		if _, n, err := consensus.DecodeName(e.Data); err == nil {
			if it := p.table[n]; it != nil && it.done && uint64(it.index) <= p.core.Base() {
				p.drop(n)
			}
		}
	}
}

// needs is from where on the journal is needed. g.mu is held.
func (p *peers) needs(kept journal.LSN) journal.LSN {
	for _, lsn := range p.at {
		kept = min(kept, lsn)
	}
	for _, it := range p.table {
		if it.payload != 0 && !it.done {
			kept = min(kept, it.payload)
		}
	}
	return kept
}

// needs is from where on the journal is needed, for the group and for what an owner that died here has left. g.mu is held.
func (g *Group) needs(kept journal.LSN) journal.LSN {
	kept = g.peers.needs(kept)
	for i := range g.recovered {
		kept = min(kept, g.recovered[i].payload)
	}
	return kept
}
