package cachefs

import (
	"fmt"
	"math"
	"slices"

	"github.com/remora-storage/remora/cachefs/record"
	"github.com/remora-storage/remora/cachefs/seal"
)

// plain is what blocks of an operation are before they are sealed. Whole blocks are sealed out of the caller's buffer, so that nobody
// copies them; a block that is written in part is put together in a buffer of its own, an edge.
type plain struct {
	op    int    // of the record
	first uint32 // block of the operation
	data  []byte // whole blocks
	edge  bool   // one block, and the buffer is ours
}

// written is what this change writes to a block, nil if it does not.
func (c *change) written(id blockID) []byte {
	for _, part := range slices.Backward(c.plain) {
		if part.op >= len(c.rec.Ops) { // of the operation that is being put together
			continue
		}
		o := &c.rec.Ops[part.op]
		if first := o.First + part.first; o.Blob == id.blob && id.block >= first && int(id.block-first) < len(part.data)/record.BlockSize {
			return part.data[(id.block-first)*record.BlockSize:][:record.BlockSize]
		}
	}
	return nil
}

// seal seals the blocks that this change writes into the record. A change that the log refused used up its nonces: the next one, which
// gets the same seq, goes on behind them.
func (c *change) seal() error {
	n := int(c.fs.nonces)
	c.rec.SealN = uint16(n)
	for i := range c.rec.Ops {
		o := &c.rec.Ops[i]
		for k := range o.Seals {
			n++
			o.Seals[k] = record.Seal{Incarnation: c.rec.Name.Incarnation, Seq: c.rec.Name.Seq, N: uint16(n),
				Origin: o.Blob, Block: o.First + uint32(k)}
		}
	}
	if n >= math.MaxUint16-record.ChunkBlocks*2 {
		return fmt.Errorf("record %v: its nonces are used up by attempts to append it: restart the sidecar", c.rec.Name)
	}
	for i := range c.plain {
		if err := c.sealPart(&c.plain[i]); err != nil {
			return err
		}
	}
	c.fs.nonces = uint16(n) + 1
	return nil
}

func (c *change) sealPart(part *plain) error {
	n := len(part.data) / record.BlockSize
	if n == 1 { // which most have: there is nothing to do at a time
		return c.sealBlocks(part, 0, 1)
	}
	return seal.InParts(n, func(from, to int) error { return c.sealBlocks(part, from, to) })
}

func (c *change) sealBlocks(part *plain, from, to int) error {
	o, keys := &c.rec.Ops[part.op], c.fs.cfg.Keys
	for k := from; k < to; k++ {
		at := (int(part.first) + k) * record.BlockSize
		end := at + record.BlockSize
		if k+1 < to {
			end += seal.Spare // the next block is sealed into its place after this one
		}
		if err := keys.Block(&o.Seals[int(part.first)+k], o.Data[at:end], part.data[k*record.BlockSize:][:record.BlockSize]); err != nil {
			return err
		}
	}
	return nil
}

// maxEdges bounds the blocks that edges keeps, 4 KiB each.
const maxEdges = 32

// edges keeps what was written to blocks in part, as it was before it was sealed: whoever appends to a file in small pieces, as databases
// do to their logs, writes to the same block again and again, and needs what is in it. Guarded by FS.mu, held for writing.
type edges struct {
	blocks []edge
	next   int // to be forgotten, when there are too many
	spare  [][]byte
}

type edge struct {
	id   blockID
	data []byte
}

// buffer is room for a block; it may hold anything.
func (e *edges) buffer() []byte {
	if n := len(e.spare); n > 0 {
		b := e.spare[n-1]
		e.spare = e.spare[:n-1]
		return b
	}
	return make([]byte, record.BlockSize)
}

func (e *edges) get(id blockID) []byte {
	for i := range e.blocks {
		if e.blocks[i].id == id {
			return e.blocks[i].data
		}
	}
	return nil
}

// take takes in a change that the log has taken: its edges are kept, and what it replaces is forgotten.
func (e *edges) take(c *change) {
	parts := c.plain
	for i := range c.rec.Ops {
		o := &c.rec.Ops[i]
		e.drop(o)
		for ; len(parts) > 0 && parts[0].op == i; parts = parts[1:] {
			if parts[0].edge {
				e.put(edge{blockID{o.Blob, o.First + parts[0].first}, parts[0].data})
			}
		}
	}
}

func (e *edges) drop(o *record.BlockOp) {
	for i := 0; i < len(e.blocks); {
		id := e.blocks[i].id
		if id.blob != o.Blob || o.Kind != record.FreeBlob && (id.block < o.First || id.block >= o.First+o.Count) {
			i++
			continue
		}
		e.spare = append(e.spare, e.blocks[i].data)
		last := len(e.blocks) - 1
		e.blocks[i], e.blocks[last] = e.blocks[last], edge{}
		e.blocks = e.blocks[:last]
	}
}

func (e *edges) put(new edge) {
	if len(e.blocks) < maxEdges {
		e.blocks = append(e.blocks, new)
		return
	}
	old := &e.blocks[e.next]
	e.next = (e.next + 1) % maxEdges
	e.spare = append(e.spare, old.data)
	*old = new
}
