package cachefs

import "github.com/remora-storage/remora/cachefs/record"

// maxTops bounds the blobs whose last written block is remembered: those that are being written from start to end.
const maxTops = 4096

// fresh tells whether no record has ever written to the blob's blocks from first on, or punched it: then a replica may write new content
// there before the record is durable. It knows only of blobs that this process made.
func (c *change) fresh(blob record.BlobID, first uint32) bool {
	top, known := c.fs.tops[blob]
	known = known || uint64(blob) >= uint64(c.fs.counters.NextBlob)
	for i := range c.rec.Ops {
		if o := &c.rec.Ops[i]; o.Blob == blob {
			known = known && o.Kind == record.WriteBlocks
			top = max(top, o.First+o.Count)
		}
	}
	return known && first >= top
}

// refreshTops takes in what the change wrote; blobs from made on are its own.
func (c *change) refreshTops(made uint64) {
	tops := c.fs.tops
	for i := range c.rec.Ops {
		o := &c.rec.Ops[i]
		top, known := tops[o.Blob]
		switch {
		case o.Kind != record.WriteBlocks:
			delete(tops, o.Blob)
		case known:
			tops[o.Blob] = max(top, o.First+o.Count)
		case uint64(o.Blob) >= made && o.First+o.Count < record.ChunkBlocks && !c.punched(o.Blob):
			forgetAny(tops, maxTops)
			tops[o.Blob] = o.First + o.Count
		}
	}
}

// punched tells whether the change does anything else than write to a blob.
func (c *change) punched(blob record.BlobID) bool {
	for i := range c.rec.Ops {
		if c.rec.Ops[i].Blob == blob && c.rec.Ops[i].Kind != record.WriteBlocks {
			return true
		}
	}
	return false
}

// forgetAny makes room for one more entry.
func forgetAny[K comparable, V any](m map[K]V, most int) {
	if len(m) < most {
		return
	}
	for k := range m {
		delete(m, k)
		return
	}
}
