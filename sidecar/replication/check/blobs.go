package check

import (
	"errors"
	"fmt"
	"maps"
	"math/bits"
	"slices"
	"syscall"

	"github.com/remora-storage/remora/cachefs/meta"
	"github.com/remora-storage/remora/cachefs/record"
	"github.com/remora-storage/remora/cachefs/store"
)

// chunk is what the volume says of a blob.
type chunk struct {
	ino    meta.Ino
	index  uint64
	last   meta.Change
	blocks meta.Bitmap
}

// blob is what this replica has of a blob.
type blob struct {
	slot   uint32
	last   meta.Change
	here   meta.Bitmap
	sealed meta.Bitmap // blocks that have a seal
}

func blockCount(m *meta.Bitmap) (n uint64) {
	for _, w := range m {
		n += uint64(bits.OnesCount64(w))
	}
	return n
}

func (c *content) chunk(k meta.Key, value []byte) error {
	ch, err := meta.DecodeChunk(value)
	if err != nil {
		return err
	}
	n := blockCount(&ch.Blocks)
	c.used += n * record.BlockSize
	c.lastBlob = max(c.lastBlob, ch.Blob)
	where := fmt.Sprintf("%s chunk %d (%s)", inoName(k.Ino), k.Number, blobName(ch.Blob))
	if o := c.owners[ch.Blob]; o != nil {
		c.find(c.path, "chunk", where, "%s chunk %d has the same blob", inoName(o.ino), o.index)
	}
	c.owners[ch.Blob] = &chunk{k.Ino, k.Number, ch.Last, ch.Blocks}
	switch {
	case ch.Blob == 0:
		c.find(c.path, "chunk", where, "has no blob")
	case n == 0:
		c.find(c.path, "chunk", where, "has no block")
	case after(ch.Birth, ch.Last):
		c.find(c.path, "chunk", where, "was born at %d/%d and last changed before, at %d/%d", ch.Birth.Epoch, ch.Birth.Seq, ch.Last.Epoch, ch.Last.Seq)
	}
	in := c.inodes[k.Ino]
	if in == nil {
		return errors.New("belongs to an inode that does not exist")
	}
	in.found += n
	c.chunkOfFile(k, &ch, in, where)
	return nil
}

func (c *content) chunkOfFile(k meta.Key, ch *meta.Chunk, in *inode, where string) {
	if in.format() != syscall.S_IFREG || in.inlined {
		c.find(c.path, "chunk", where, "the inode (mode %o) keeps no content in blocks", in.mode)
		return
	}
	// Orphans come later in the scan: what is behind the end of a file that is being truncated is decided then.
	if last := lastBlock(&ch.Blocks); k.Number*record.ChunkSize+uint64(last)*record.BlockSize >= in.size && !ch.Blocks.IsZero() {
		c.behind = append(c.behind, behind{k.Ino, where})
	}
}

// behind is a chunk with blocks behind the end of its file.
type behind struct {
	ino   meta.Ino
	where string
}

func after(a, b meta.Change) bool { return a.Epoch > b.Epoch || a.Epoch == b.Epoch && a.Seq > b.Seq }

func lastBlock(m *meta.Bitmap) uint32 {
	for i := len(m) - 1; i >= 0; i-- {
		if m[i] != 0 {
			return uint32(i*64 + bits.Len64(m[i]) - 1)
		}
	}
	return 0
}

func (c *content) residency(r *store.Residency) {
	c.blobs[r.Blob] = &blob{slot: r.Slot, last: r.Last, here: r.Here}
	c.lastBlob = max(c.lastBlob, r.Blob)
	if other, taken := c.slots[r.Slot]; taken {
		c.find(c.path, "residency", fmt.Sprintf("%s slot %d", blobName(r.Blob), r.Slot), "%s has the same slot: each overwrites the other", blobName(other))
	}
	c.slots[r.Slot] = r.Blob
}

func (c *content) seals(s *store.Seals) {
	b := c.blobs[s.Blob]
	where := fmt.Sprintf("%s blocks %d to %d", blobName(s.Blob), s.First, int(s.First)+len(s.Seals)-1)
	if b == nil {
		c.find(c.path, "seals", where, "are of a blob that is not here")
		return
	}
	for i := range s.Seals {
		seal, block := &s.Seals[i], s.First+uint32(i)
		switch {
		case !seal.IsZero() && !b.here.Has(block):
			c.find(c.path, "seals", fmt.Sprintf("%s block %d", blobName(s.Blob), block), "has a seal, and is a hole")
		case !seal.IsZero():
			b.sealed.Set(block)
		}
	}
}

// checkBlobs compares what the volume says with what this replica has.
func (c *content) checkBlobs() {
	for _, b := range c.behind {
		if in := c.inodes[b.ino]; in.orphan == 0 {
			c.find(c.path, "chunk", b.where, "has blocks behind the end of the file, at %d", in.size)
		}
	}
	for _, id := range slices.Sorted(maps.Keys(c.owners)) {
		if c.blobs[id] == nil && c.partial {
			c.absent++
		} else if c.blobs[id] == nil {
			o := c.owners[id]
			c.find(c.path, "residency", blobName(id), "is not here, and %s chunk %d needs it", inoName(o.ino), o.index)
		}
	}
	for _, id := range slices.Sorted(maps.Keys(c.blobs)) {
		c.checkBlob(id, c.blobs[id], c.owners[id])
	}
	if c.absent > 0 {
		c.note(c.path, "residency", "", "content of %s is not here yet, or not all of it: the replica was being filled by its peers", count(c.absent, "chunk"))
	}
}

func (c *content) checkBlob(id record.BlobID, b *blob, o *chunk) {
	where := fmt.Sprintf("%s slot %d", blobName(id), b.slot)
	switch {
	case o == nil:
		c.find(c.path, "residency", where, "no chunk has this blob: its slot would never come back")
	case o.last != b.last:
		c.find(c.path, "residency", where, "the content here is of change %d/%d, and the newest is %d/%d", b.last.Epoch, b.last.Seq, o.last.Epoch, o.last.Seq)
	case c.partial && isPart(&b.here, &o.blocks):
		if b.here != o.blocks {
			c.absent++
		}
	case o.blocks != b.here:
		c.find(c.path, "residency", where, "here are %d blocks, and the chunk has %d, or others", blockCount(&b.here), blockCount(&o.blocks))
	}
	for i := range uint32(record.ChunkBlocks) {
		if b.here.Has(i) && !b.sealed.Has(i) {
			c.find(c.path, "seals", fmt.Sprintf("%s block %d", blobName(id), i), "is missing: reading the block is EIO")
		}
	}
}

// isPart tells whether all of a is in b.
func isPart(a, b *meta.Bitmap) bool {
	for i := range a {
		if a[i]&^b[i] != 0 {
			return false
		}
	}
	return true
}
