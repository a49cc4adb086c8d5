package replication

import (
	"fmt"

	pb "go.etcd.io/raft/v3/raftpb"

	"github.com/remora-storage/remora/cachefs/record"
	"github.com/remora-storage/remora/sidecar/replication/consensus"
	"github.com/remora-storage/remora/sidecar/replication/journal"
)

// frames are those of one write, which go to the journal together where they are small. The slices are used again for the next one.
type frames struct {
	g      *Group
	pieces []journal.Piece
	bytes  int
	bodies bodies          // pieces point into it
	run    journal.Binding // that is not a piece yet
	fresh  []numbered      // records whose payloads are among the pieces
}

// bodies are what bodies of frames are made of. What was taken of it stays where it is when it grows.
type bodies struct {
	heads []byte   // the fixed parts
	parts [][]byte // point into heads, and to what records have
}

// end lets go of what they were made of; the memory is used again for the next ones.
func (b *bodies) end() {
	clear(b.parts)
	b.heads, b.parts = b.heads[:0], b.parts[:0]
}

// numbered is a record that gets an index.
type numbered struct {
	it    *item
	index uint64
	piece int // that has the payload
}

// writeEntries writes the frames of a write. What is in the journal twice after an error does no harm. g.mu is held.
func (g *Group) writeEntries(w *consensus.Write) error {
	f := &g.peers.frames
	f.begin(g)
	defer f.end()
	if w.Restored {
		f.add(journal.KindBinding, func(b []byte) []byte { return journal.Binding{Index: w.Start + 1, Term: 1}.AppendTo(b) })
	}
	for i := range w.Entries {
		if err := f.entry(&w.Entries[i]); err != nil {
			return err
		}
	}
	f.bind()
	if w.Hard != nil {
		h := g.hardState()
		f.add(journal.KindHardState, h.AppendTo)
	}
	return f.flush()
}

func (f *frames) begin(g *Group) {
	f.g, f.pieces, f.bytes, f.run, f.fresh = g, f.pieces[:0], 0, journal.Binding{}, f.fresh[:0]
}

// end lets go of what the frames were made of. (An error may have left some that are not written.)
func (f *frames) end() {
	clear(f.pieces)
	clear(f.fresh)
	f.bodies.end()
}

func (f *frames) entry(e *pb.Entry) error {
	if e.Type != pb.EntryNormal || len(e.Data) == 0 {
		f.bind()
		if err := f.flush(); err != nil {
			return err
		}
		f.g.peers.at[e.Index] = f.g.disk.journal.End()
		own := journal.Entry{Index: e.Index, Term: e.Term, Type: uint32(e.Type), Data: e.Data}
		f.add(journal.KindEntry, own.AppendTo)
		return nil
	}
	_, n, err := consensus.DecodeName(e.Data)
	if err != nil {
		return err
	}
	if err := f.record(n, e.Index); err != nil {
		return err
	}
	r := &f.run
	if r.Count > 0 && r.Term == e.Term && r.Epoch == uint64(n.Epoch) && r.Seq+uint64(r.Count) == uint64(n.Seq) && r.Index+uint64(r.Count) == e.Index {
		r.Count++
		return nil
	}
	f.bind()
	f.run = journal.Binding{Index: e.Index, Term: e.Term, Epoch: uint64(n.Epoch), Seq: uint64(n.Seq), Count: 1}
	return nil
}

// record makes sure that the journal has the payload of a record that gets an index.
func (f *frames) record(n record.Name, index uint64) error {
	it := f.g.peers.table[n]
	if it == nil {
		return fmt.Errorf("record %v has an index and no payload", n)
	}
	if it.payload != 0 && !it.done {
		f.g.number(numbered{it: it, index: index})
		return nil
	}
	piece, err := f.g.payload(it, &f.bodies)
	if err != nil {
		return err
	}
	if len(it.placed) > 0 || f.bytes+piece.Bytes() > journal.BatchBytes {
		if err := f.flush(); err != nil {
			return err
		}
	}
	f.fresh = append(f.fresh, numbered{it, index, len(f.pieces)})
	f.pieces, f.bytes = append(f.pieces, piece), f.bytes+piece.Bytes()
	if len(it.placed) > 0 { // alone, because note wants to know where it ends
		return f.flush()
	}
	return nil
}

// number notes the index of a record whose payload is in the journal. g.mu is held.
func (g *Group) number(n numbered) {
	n.it.index = record.Index(n.index)
	g.peers.at[n.index] = n.it.payload
	g.bound(n.it)
}

// bind makes a piece of the bindings that came one after the other.
func (f *frames) bind() {
	if f.run.Count > 0 {
		f.add(journal.KindBinding, f.run.AppendTo)
		f.run = journal.Binding{}
	}
}

func (f *frames) add(kind journal.Kind, body func([]byte) []byte) {
	b := &f.bodies
	from := len(b.heads)
	b.heads = body(b.heads)
	b.parts = append(b.parts, b.heads[from:len(b.heads):len(b.heads)])
	piece := journal.Piece{Kind: kind, Parts: b.parts[len(b.parts)-1 : len(b.parts) : len(b.parts)]}
	f.pieces, f.bytes = append(f.pieces, piece), f.bytes+piece.Bytes()
}

// flush writes the pieces.
func (f *frames) flush() error {
	if len(f.pieces) == 0 {
		return nil
	}
	key := f.g.key()
	end, err := f.g.disk.journal.AppendAll(uint64(key.group), uint64(key.replica), f.pieces)
	if err != nil {
		return err
	}
	for _, n := range f.fresh {
		n.it.payload, n.it.done = f.pieces[n.piece].At, false
		f.g.leaveToJournal(n.it)
		if len(n.it.placed) > 0 {
			f.g.note(n.it.rec, n.it.placed, end)
		}
		f.g.number(n)
	}
	clear(f.pieces)
	clear(f.fresh)
	f.pieces, f.fresh, f.bytes = f.pieces[:0], f.fresh[:0], 0
	return nil
}
