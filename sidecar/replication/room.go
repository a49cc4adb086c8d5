package replication

import (
	"encoding/binary"
	"errors"
	"fmt"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	pb "go.etcd.io/raft/v3/raftpb"
)

// A write that this disk has room for, and another voter's has not, would be acknowledged by fewer and fewer, and in the end by nobody: programs
// would wait for ever. So every replica says with its answers to heartbeats how much it may still take, the leader says with its heartbeats
// what the least is, and the owner admits only what every voter that is there has room for: the program gets ENOSPC.

// room is what a group of several knows of the room at its peers.
type room struct {
	// own is what this replica's disk may still take, after its reserve; peer is what peers have said, and at which tick.
	own  atomic.Int64
	peer map[uint64]told // guarded by Group.mu
	// least is what there is of the least, as the leader has said.
	least told
	// asks is the leader that has said so: it is told what there is here. Others are of an older version, and Raft's library of then dies of
	// an answer to a heartbeat that has a context which it does not know.
	asks uint64 // guarded by Group.mu
	// taken are the bytes that Room has admitted, and at those of the last ticks: a peer that said what it has did not have these yet.
	taken int64 // guarded by Group.mu
	at    [roomTicks]int64
	// looks counts ticks, for who ticks.
	looks int
}

// told is what a replica has.
type told struct {
	bytes int64
	from  uint64
	tick  int // at which it was said
}

const (
	// lookTicks are between two looks at the disk.
	lookTicks = 8
	// roomTicks is for how long what was admitted may be missing in what peers say: a look, a heartbeat, and the way to the peer's disk.
	roomTicks = 24
	// warnEvery is at least between two lines in the log.
	warnEvery = time.Minute
	// unlimited is the room of a disk that cannot tell.
	unlimited = int64(1) << 62
	// scarce is how little room makes a replica give back what is freed soon.
	scarce = 64 << 20
)

// lookForRoom looks how much room the disk has. The caller holds no lock.
func (g *Group) lookForRoom() {
	free, err := g.disk.spare()
	switch {
	case errors.Is(err, vfs.ErrUnsupported):
		free = unlimited
	case err != nil:
		return
	}
	g.peers.room.own.Store(free)
	if free > scarce {
		return
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.store != nil && g.store.Freed() {
		g.pressed, g.short = true, true
		g.work.Signal()
	}
}

// RoomHere is what the disk may still take; false where that is not known.
func (g *Group) RoomHere() (bytes int64, known bool) {
	bytes = g.peers.room.own.Load()
	return bytes, bytes != unlimited
}

// spare is what the disk may still take, beside what must stay free for what was taken.
func (d *Disk) spare() (int64, error) {
	usage, err := d.cfg.FS.GetDiskUsage(d.dir.Path())
	if err != nil {
		return 0, err
	}
	return max(int64(min(usage.AvailBytes, 1<<62))-d.reserve(), 0), nil
}

// tellRoom adds to a heartbeat what the least is, and whose, and to an answer what there is here.
func (p *peers) tellRoom(m *pb.Message) {
	le := binary.LittleEndian
	switch m.Type {
	case pb.MsgHeartbeatResp:
		if len(m.Context) == 0 && m.To == p.room.asks {
			m.Context = le.AppendUint64(make([]byte, 0, 8), uint64(p.room.own.Load()))
		}
	case pb.MsgHeartbeat:
		t := p.leastRoom()
		if own := p.room.own.Load(); own < t.bytes {
			t.bytes, t.from = own, m.From
		}
		m.Context = le.AppendUint64(le.AppendUint64(m.Context, uint64(t.bytes)), t.from)
	}
}

// hearRoom takes it off: Raft has a meaning of its own for the context.
func (p *peers) hearRoom(m *pb.Message) {
	at := len(m.Context)
	switch {
	case m.Type == pb.MsgHeartbeatResp && at == 8:
		p.room.peer[m.From] = toldRoom(m.Context, m.From, p.ticks)
		m.Context = nil
	case m.Type == pb.MsgHeartbeat && at < 16:
		p.room.asks = 0
	case m.Type == pb.MsgHeartbeat:
		p.room.asks = m.From
		p.room.least = toldRoom(m.Context[at-16:], binary.LittleEndian.Uint64(m.Context[at-8:]), p.ticks)
		m.Context = m.Context[:at-16]
	}
}

func toldRoom(b []byte, from uint64, tick int) told {
	return told{int64(min(binary.LittleEndian.Uint64(b), uint64(unlimited))), from, tick}
}

// leastRoom is what the voter has that has the least room, of those that have said so lately.
func (p *peers) leastRoom() told {
	least := told{bytes: unlimited}
	if !p.core.Leads() {
		if p.ticks-p.room.least.tick < roomTicks && p.room.least.from != 0 {
			return p.room.least
		}
		return least
	}
	members := p.core.Members()
	for _, voters := range [...][]uint64{members.Voters, members.VotersOutgoing} {
		for _, id := range voters {
			if t, said := p.room.peer[id]; said && p.ticks-t.tick < roomTicks && t.bytes < least.bytes {
				least = t
			}
		}
	}
	return least
}

// recent is what was admitted lately.
func (r *room) recent(tick int) int64 { return r.taken - r.at[tick%roomTicks] }

// peersRoom takes n bytes of the room of all voters, or says which one has not so much. Where it is little, and much was admitted just now, it
// waits until the peers have said what is left. The caller holds no lock.
func (g *Group) peersRoom(n int64) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	p := g.peers
	for first := p.ticks; ; {
		least := p.leastRoom()
		if n+p.room.recent(p.ticks) <= least.bytes {
			p.room.taken += n
			return nil
		}
		if p.ticks-first > roomTicks || g.stopped() != nil || g.closing {
			g.warnFullLocked(least.from, least.bytes)
			return fmt.Errorf("%w: replica %016x has room for %d bytes", syscall.ENOSPC, least.from, least.bytes)
		}
		g.changed.Wait()
	}
}

// warnFull logs, now and then, whose disk is why programs get ENOSPC.
func (g *Group) warnFull(replica uint64, bytes int64) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.warnFullLocked(replica, bytes)
}

func (g *Group) warnFullLocked(replica uint64, bytes int64) {
	now := time.Now()
	if !g.warned.IsZero() && now.Sub(g.warned) < warnEvery {
		return
	}
	g.warned = now
	node := ""
	if g.peers != nil && g.peers.cfg.Node != nil {
		node = g.peers.cfg.Node(replica)
	}
	g.cfg.Logger.Warn("the disk of a replica is nearly full: programs get ENOSPC until it has room", "replica", fmt.Sprintf("%016x", replica), "node", node, "room_bytes", bytes)
}

// Free is about how many bytes Room would take now: what the disks may take of this replica and of all voters that are there. The caller holds
// no lock.
func (g *Group) Free() int64 {
	free, err := g.disk.spare()
	if err != nil {
		free = unlimited // Room will say it
	}
	if g.peers != nil {
		g.mu.Lock()
		free = min(free, g.peers.leastRoom().bytes-g.peers.room.recent(g.peers.ticks))
		g.mu.Unlock()
	}
	return max(free-overhead, 0)
}
