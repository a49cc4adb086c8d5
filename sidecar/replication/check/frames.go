package check

import (
	"fmt"
	"path/filepath"

	"github.com/remora-storage/remora/cachefs/meta"
	"github.com/remora-storage/remora/cachefs/record"
	"github.com/remora-storage/remora/sidecar/replication/journal"
)

// frameCheck looks into the frames of a journal, each by itself.
type frameCheck struct {
	*scope
	dir          string
	segmentBytes int64
}

// place is where a frame is.
func (c *frameCheck) place(at journal.LSN) (file, where string) {
	seq := uint64(at) / uint64(c.segmentBytes)
	return filepath.Join(c.dir, fmt.Sprintf("%016x.seg", seq)), fmt.Sprintf("offset %d (LSN %d)", uint64(at)%uint64(c.segmentBytes), uint64(at))
}

// visit notes what is wrong with a frame, as far as that can be told without the volume's key. A body that does not decode is found by
// replication.Logs, which ends the scan.
func (c *frameCheck) visit(f journal.Frame) {
	p, ok, err := journal.PayloadOf(f)
	if !ok || err != nil {
		return
	}
	file, where := c.place(f.LSN)
	h, err := record.DecodeHeader(p.Record)
	if err != nil {
		c.find(file, "record", where, "%d/%d/%d does not decode: %v", p.Epoch, p.Incarnation, p.Seq, err)
		return
	}
	if want := (record.Name{Epoch: record.Epoch(p.Epoch), Incarnation: record.Incarnation(p.Incarnation), Seq: record.Seq(p.Seq)}); h.Name != want {
		c.find(file, "record", where, "is %v in a frame of %v", h.Name, want)
	}
}

// record notes what is wrong with a record.
func (c *frameCheck) record(at journal.LSN, r *record.Record, err error) {
	file, where := c.place(at)
	if err != nil {
		c.find(file, "record", where, "does not decode: %v", err)
		return
	}
	for i := range r.Muts {
		if _, err := meta.ParseKey(r.Muts[i].Key); err != nil {
			c.find(file, "record", where, "%v: mutation %d: %v", r.Name, i, err)
		}
	}
	for i := range r.Ops {
		c.blocks(file, where, r.Name, &r.Ops[i])
	}
}

func (c *frameCheck) blocks(file, where string, n record.Name, o *record.BlockOp) {
	if o.Data == nil {
		return // it is in the arena, and compared there while a blob has it
	}
	for i := range o.Seals {
		if record.Checksum(o.Data[i*record.BlockSize:(i+1)*record.BlockSize]) != o.Seals[i].CRC {
			c.find(file, "record", where, "%v: blob %d block %d does not fit its seal", n, o.Blob, o.First+uint32(i))
		}
	}
}
