package replication

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	pb "go.etcd.io/raft/v3/raftpb"

	"github.com/remora-storage/remora/cachefs/record"
	"github.com/remora-storage/remora/sidecar/replication/consensus"
)

// The kinds of frames between the replicas of a group. The numbers are on the wire; WIRE.md has their bodies.
const (
	FrameRaft    uint8 = 1
	FramePropose uint8 = 2
	FrameAck     uint8 = 3
	FrameReport  uint8 = 4
)

// messageBytes of payloads go into one frame, unless a single record is larger.
const messageBytes = 4 << 20

// maxRecord is the longest payload on the wire.
const maxRecord = record.MaxSize + 64

// ErrMessage: a frame of a peer is not a message.
var ErrMessage = errors.New("malformed message")

// send encodes messages with the records that they name. g.mu is held.
func (g *Group) send(messages []consensus.Message) {
	for _, m := range messages {
		switch {
		case m.Raft != nil:
			g.sendRaft(m.To, m.Raft)
		case m.Propose != nil:
			g.sendPropose(m.To, m.Propose)
		case m.Ack != nil:
			b := []byte{0}
			if m.Ack.Leads {
				b[0] = 1
			}
			g.peers.sendTo(m.To, FrameAck, m.Ack.Tail.Append(b))
		}
	}
}

// sendRaft sends one message of Raft, in parts if its records are large.
func (g *Group) sendRaft(to uint64, m *pb.Message) {
	body := &g.peers.body
	for {
		body.begin()
		bytes, n := 0, 0
		for ; n < len(m.Entries); n++ {
			before := len(body.parts)
			size, err := g.payloadOf(&m.Entries[n])
			if err != nil && g.witness() {
				g.failLocked(err)
				return
			}
			if err != nil {
				g.cfg.Logger.Warn("a peer needs a record that is not here any more: it will be caught up by a copy", "err", err)
				g.peers.stuck = g.hollow.Load()
				g.forgetLog(func() { g.peers.core.Forget(min(m.Entries[n].Index, uint64(g.applied))) })
				return
			}
			if n > 0 && bytes+size > messageBytes {
				body.parts = body.parts[:before]
				break
			}
			bytes += size
		}
		first := m
		if n < len(m.Entries) {
			rest := m.Entries[n:]
			begin, end, prev := *m, *m, m.Entries[n-1]
			begin.Entries = m.Entries[:n]
			end.Index, end.LogTerm, end.Entries = prev.Index, prev.Term, rest
			first, m = &begin, &end
		}
		g.peers.tellRoom(first)
		head := body.head(4 + first.Size())
		binary.LittleEndian.PutUint32(head, uint32(len(head)-4))
		if _, err := first.MarshalTo(head[4:]); err != nil {
			g.failLocked(fmt.Errorf("encode a message: %w", err))
			return
		}
		body.parts[0] = head
		g.peers.sent(to, first)
		g.peers.sendTo(to, FrameRaft, body.parts...)
		body.begin()
		if first == m {
			return
		}
	}
}

func (g *Group) sendPropose(to uint64, p *consensus.Propose) {
	body := &g.peers.body
	for rest := p.Entries; len(rest) > 0; {
		body.begin()
		bytes, n := 0, 0
		for ; n < len(rest); n++ {
			before := len(body.parts)
			size, err := g.parts(rest[n].Name)
			if err != nil {
				g.cfg.Logger.Error("a record of the stream is not here", "err", err)
				return
			}
			if n > 0 && bytes+size > messageBytes {
				body.parts = body.parts[:before]
				break
			}
			bytes += size
		}
		head := binary.LittleEndian.AppendUint32(nil, uint32(n))
		for _, e := range rest[:n] {
			head = e.AppendTo(head)
		}
		body.parts[0] = head
		g.peers.sendTo(to, FramePropose, body.parts...)
		body.begin()
		rest = rest[n:]
	}
}

// body is a frame's that is being put together. What it is made of is used again for the next one.
type body struct {
	parts [][]byte                 // the first is the message
	sums  []func(block int) uint32 // of parts that are content; may be shorter
	bytes []byte                   // heads; parts point into it, or into what it was before it grew
}

// begin lets go of the frame before.
func (b *body) begin() {
	clear(b.parts)
	clear(b.sums)
	b.sums = b.sums[:0]
	b.parts, b.bytes = append(b.parts[:0], nil), b.bytes[:0]
}

// content adds blocks, whose checksums their seals have.
func (b *body) content(data []byte, seals []record.Seal) {
	for len(b.sums) < len(b.parts) {
		b.sums = append(b.sums, nil)
	}
	b.sums = append(b.sums[:len(b.parts)], func(block int) uint32 { return seals[block].CRC })
	b.parts = append(b.parts, data)
}

// head returns room for n bytes.
func (b *body) head(n int) []byte {
	from := len(b.bytes)
	b.bytes = slices.Grow(b.bytes, n)[:from+n]
	return b.bytes[from : from+n : from+n]
}

// payloadOf adds the record of an entry to g.peers.body, and returns its size.
func (g *Group) payloadOf(e *pb.Entry) (size int, err error) {
	if e.Type != pb.EntryNormal || len(e.Data) == 0 {
		return 0, nil
	}
	_, n, err := consensus.DecodeName(e.Data)
	if err != nil {
		return 0, err
	}
	return g.parts(n)
}

// parts adds a record's bytes to g.peers.body, with a header: length u32, number of operations with fresh content u32, their numbers u32.
func (g *Group) parts(n record.Name) (size int, err error) {
	it := g.peers.table[n]
	if it == nil {
		return 0, fmt.Errorf("record %v is not here", n)
	}
	if it.raw > 0 {
		return g.rawParts(it)
	}
	b := &g.peers.body
	at, fresh := len(b.parts), 0
	size = len(it.meta)
	b.parts = append(b.parts, nil, it.meta)
	for i := range it.rec.Ops {
		o := &it.rec.Ops[i]
		data := o.Data
		if data == nil && o.Kind == record.WriteBlocks {
			if data, err = g.placedContent(it, i); err != nil {
				return 0, err
			}
		}
		if o.Fresh || isPlaced(it.placed, i) {
			fresh++
		}
		size += len(data)
		if len(data) > 0 {
			b.content(data, o.Seals)
		}
	}
	head := b.head(8 + 4*fresh)
	binary.LittleEndian.PutUint32(head, uint32(size))
	binary.LittleEndian.PutUint32(head[4:], uint32(fresh))
	for i, to := 0, head[8:]; len(to) > 0; i++ {
		if it.rec.Ops[i].Fresh || isPlaced(it.placed, i) {
			binary.LittleEndian.PutUint32(to, uint32(i))
			to = to[4:]
		}
	}
	b.parts[at] = head
	return size + len(head), nil
}

// placedContent reads from the arena what a record's frame has not.
func (g *Group) placedContent(it *item, op int) ([]byte, error) {
	for _, p := range it.placed {
		if p.Op == op && g.store == nil {
			return nil, errNotHere
		}
		if p.Op == op {
			return g.store.Placed(p.Slot, &it.rec.Ops[op])
		}
	}
	return nil, fmt.Errorf("record %v: operation %d has no content", it.rec.Name, op)
}

// Receive takes a frame of a peer of the group. The body belongs to the group.
func (g *Group) Receive(kind uint8, from uint64, body []byte) error {
	owes, err := g.take(kind, from, body)
	if owes {
		g.disk.poke(true)
	}
	return err
}

// Deliver is Receive for who calls Disk.Commit when no more frames are there to be delivered: one sync serves all of them, in the
// goroutine that brought them. What takes long to be synced is left to the background: the goroutine has the next frame to read.
func (g *Group) Deliver(kind uint8, from uint64, body []byte) error {
	owes, err := g.take(kind, from, body)
	switch {
	case owes && g.disk.large(int64(len(body))):
		g.disk.poke(true)
	case owes && !g.disk.owed.Swap(true):
		g.disk.poke(false) // whatever becomes of the caller
	}
	return err
}

func (g *Group) take(kind uint8, from uint64, body []byte) (owes bool, err error) {
	if g.peers == nil {
		return false, fmt.Errorf("%w: a group of one has no peers", ErrMessage)
	}
	if kind == FrameReport {
		return false, g.reported(from, body)
	}
	m, items, err := g.decode(kind, from, body)
	if err != nil {
		return false, err
	}
	return g.receive(m, items), nil
}

func (g *Group) decode(kind uint8, from uint64, body []byte) (m consensus.Message, items []*item, err error) {
	m = consensus.Message{From: from, To: uint64(g.key().replica)}
	d := decoder{b: body, g: g}
	switch kind {
	case FrameRaft:
		m.Raft = &pb.Message{}
		message := d.bytes(int(d.u32()))
		if n := len(message) / leastEntry; n > 1 {
			m.Raft.Entries = make([]pb.Entry, 0, n)
		}
		if err := m.Raft.Unmarshal(message); err != nil {
			return m, nil, fmt.Errorf("%w: %w", ErrMessage, err)
		}
		d.expect(len(m.Raft.Entries))
		if m.Raft.From != from || m.Raft.To != m.To {
			return m, nil, fmt.Errorf("%w: from %x to %x in a frame from %x to %x", ErrMessage, m.Raft.From, m.Raft.To, from, m.To)
		}
		for i, e := range m.Raft.Entries {
			if e.Type < pb.EntryNormal || e.Type > pb.EntryConfChangeV2 {
				return m, nil, fmt.Errorf("%w: an entry of type %d, which this version does not know", ErrMessage, e.Type)
			}
			if e.Type != pb.EntryNormal || len(e.Data) == 0 {
				continue
			}
			if d.record(e.Data); d.sealed {
				// It is of an incarnation whose Owner record has not come here. Raft must see the message all the same: only its answer tells
				// the leader what is missing.
				m.Raft.Entries, d.b, d.err = m.Raft.Entries[:i], nil, nil
				break
			}
		}
	case FramePropose:
		m.Propose = &consensus.Propose{}
		names := d.bytes(int(d.u32()) * consensus.EntrySize)
		if d.err == nil && len(names) == 0 {
			d.err = fmt.Errorf("%w: a proposal of nothing", ErrMessage)
		}
		d.expect(len(names) / consensus.EntrySize)
		for ; len(names) > 0; names = names[consensus.EntrySize:] {
			if kind, n, ok := d.record(names[:consensus.EntrySize]); ok {
				m.Propose.Entries = append(m.Propose.Entries, consensus.Entry{Kind: kind, Name: n})
			}
		}
	case FrameAck:
		b := d.bytes(1 + record.AcceptanceSize)
		if d.err == nil && b[0] > 1 {
			d.err = fmt.Errorf("%w: an acknowledgement that begins with %d", ErrMessage, b[0])
		}
		if d.err == nil {
			m.Ack = &consensus.Ack{Leads: b[0] == 1}
			m.Ack.Tail, d.err = record.DecodeAcceptance(b[1:])
		}
	default:
		d.err = fmt.Errorf("%w: a frame of kind %d, which this version does not know", ErrMessage, kind)
	}
	if d.err == nil && len(d.b) > 0 {
		d.err = fmt.Errorf("%w: %d bytes left over", ErrMessage, len(d.b))
	}
	return m, d.items, d.err
}

type decoder struct {
	b     []byte
	g     *Group
	items []*item
	room  *record.Room // of their records
	made  []item       // that are no items yet
	err   error
	// sealed: the last record has no salt here that opens it.
	sealed bool
}

func (d *decoder) bytes(n int) []byte {
	if n < 0 || n > len(d.b) {
		if d.err == nil {
			d.err = fmt.Errorf("%w: %d bytes expected, %d are there", ErrMessage, n, len(d.b))
		}
		d.b = nil
		return nil
	}
	b := d.b[:n:n]
	d.b = d.b[n:]
	return b
}

func (d *decoder) u32() uint32 {
	if b := d.bytes(4); d.err == nil {
		return binary.LittleEndian.Uint32(b)
	}
	return 0
}

// leastEntry is less than an entry that names a record takes in a message of Raft.
const leastEntry = consensus.EntrySize + 2

// expect makes room for so many records, and no more of them than the bytes that are left may have.
func (d *decoder) expect(records int) {
	if records = min(records, len(d.b)/8); records > 0 {
		d.room, d.made, d.items = record.NewRoom(records), make([]item, records), make([]*item, 0, records)
	}
}

// record reads the payload that a name announces, and checks that it is that record, sealed for this volume.
func (d *decoder) record(name []byte) (record.Kind, record.Name, bool) {
	kind, n, err := consensus.DecodeName(name)
	size, fresh := int(d.u32()), int(d.u32())
	if err == nil && size > maxRecord {
		err = fmt.Errorf("%w: a record of %d bytes, at most %d", ErrMessage, size, maxRecord)
	}
	flags := d.bytes(4 * fresh)
	b := d.bytes(size)
	if d.err != nil || err != nil {
		d.err = errors.Join(d.err, err)
		return 0, n, false
	}
	if d.g.witness() {
		return d.raw(b, kind, n)
	}
	if salted := d.g.cfg.Keys.Knows(n.Incarnation); salted != nil && kind != record.Owner {
		d.err, d.sealed = salted, true
		return 0, n, false
	}
	r, err := d.room.Decode(b, d.g.cfg.Keys.Sealer())
	if err == nil && (r.Name != n || r.Kind != kind) {
		err = fmt.Errorf("%w: record %v came as %v", ErrMessage, r.Name, n)
	}
	if err == nil {
		err = learn(d.g.cfg.Keys, r)
	}
	for ; err == nil && len(flags) > 0; flags = flags[4:] {
		i := int(binary.LittleEndian.Uint32(flags))
		if i >= len(r.Ops) || r.Ops[i].Kind != record.WriteBlocks {
			err = fmt.Errorf("%w: operation %d of %v has no content", ErrMessage, i, n)
			break
		}
		r.Ops[i].Fresh = true
	}
	if err != nil {
		d.err = err
		return 0, n, false
	}
	it := &d.made[len(d.items)] // each has 8 bytes at least: expect
	*it = item{rec: r, meta: b[:len(b)-r.DataBytes()], encoded: r.EncodedSize()}
	d.items = append(d.items, it)
	return kind, n, true
}
