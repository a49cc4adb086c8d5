package check

import (
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"slices"

	"github.com/remora-storage/remora/cachefs/record"
	"github.com/remora-storage/remora/cachefs/store"
)

// arena compares every block in use with its seal, by the product's own read path. Slots and blocks that nobody uses may hold anything.
func (c *content) arena() error {
	if !c.replayed {
		return nil
	}
	buf := make([]byte, record.ChunkSize)
	for _, id := range slices.Sorted(maps.Keys(c.blobs)) {
		if err := c.ctx.Err(); err != nil {
			return err
		}
		b := c.blobs[id]
		for first := uint32(0); first < record.ChunkBlocks; first++ {
			n := uint32(0)
			for first+n < record.ChunkBlocks && b.here.Has(first+n) && b.sealed.Has(first+n) {
				n++
			}
			if n > 0 {
				c.run(id, b, first, n, buf)
				first += n
			}
		}
	}
	return nil
}

// run checks a run of blocks: as a whole, and block by block if that fails.
func (c *content) run(id record.BlobID, b *blob, first, n uint32, buf []byte) {
	c.result.Blocks += int(n)
	for i := first; c.disk.cfg.OnBlock != nil && i < first+n; i++ {
		c.disk.cfg.OnBlock(store.BlockOffset(b.slot, i))
	}
	if c.read(id, first, n, buf) == nil {
		return
	}
	from, cause := uint32(0), error(nil)
	flush := func(to uint32) {
		if cause != nil {
			c.find(filepath.Join(c.replicaCheck.path, "arena"), "arena", fmt.Sprintf("offset %d, slot %d: %s blocks %d to %d",
				store.BlockOffset(b.slot, from), b.slot, blobName(id), from, to-1), "%s", c.means(id, cause))
		}
		cause = nil
	}
	for i := first; i < first+n; i++ {
		err := c.read(id, i, 1, buf)
		switch {
		case err == nil:
			flush(i)
		case cause == nil:
			from, cause = i, err
		}
	}
	flush(first + n)
}

func (c *content) read(id record.BlobID, first, n uint32, buf []byte) error {
	e, err := c.store.Locate(id, first, n)
	if err == nil {
		err = c.store.Read(e, buf[:n*record.BlockSize])
	}
	return err
}

// means says what a bad block is to the application.
func (c *content) means(id record.BlobID, err error) string {
	file := ""
	if o := c.owners[id]; o != nil {
		file = fmt.Sprintf("; reading them in %s, chunk %d, is EIO", inoName(o.ino), o.index)
	}
	if errors.Is(err, store.ErrStale) {
		return "the content does not fit its seal" + file
	}
	return err.Error() + file
}
