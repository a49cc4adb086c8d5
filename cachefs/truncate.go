package cachefs

import (
	"errors"
	"syscall"

	"github.com/remora-storage/remora/cachefs/meta"
	"github.com/remora-storage/remora/cachefs/record"
)

// chunksPerRecord bounds the records of a large truncate or delete.
const chunksPerRecord = 512

// setAttrSize is SetAttr with a size. A truncate that frees many chunks is one record that sets the size and marks the inode, and
// bounded ones that free; a crash between them is finished by finishOrphans before anybody sees the file.
func (fs *FS) setAttrSize(caller *Caller, ino meta.Ino, in meta.Inode, s SetAttr) (Attr, error) {
	if in.Mode&syscall.S_IFMT == syscall.S_IFDIR {
		return Attr{}, syscall.EISDIR
	}
	if in.Mode&syscall.S_IFMT != syscall.S_IFREG {
		return Attr{}, syscall.EINVAL
	}
	if *s.Size > MaxFileSize {
		return Attr{}, syscall.EFBIG
	}
	in, err := fs.beforeGrowth(ino, in, *s.Size)
	if err != nil {
		return Attr{}, err
	}
	c := fs.begin(caller)
	changed := in.Size != *s.Size
	more, err := c.resize(ino, &in, *s.Size)
	if err != nil {
		return Attr{}, err
	}
	if err := c.applyAttr(ino, &in, s); err != nil {
		return Attr{}, err
	}
	if changed && s.Mtime == nil {
		in.Mtime = c.now
	}
	c.setInode(ino, in)
	if more && in.Nlink > 0 { // one without a name is marked, and stays so
		c.set(meta.OrphanKey(ino), []byte{byte(meta.OrphanTruncated)})
	}
	if err := c.commit(nil); err != nil {
		return Attr{}, err
	}
	if !more {
		return Attr{ino, in}, nil
	}
	after, err := fs.freeBehind(ino, false)
	if errors.Is(err, syscall.ENOSPC) { // the size is what was asked for; the rest is freed when there is space for that
		fs.unfinished[ino] = true
		fs.later(ino, false)
		return Attr{ino, in}, nil
	}
	return Attr{ino, after}, err
}

// resize changes the size of a file and frees the first chunks behind it; more are left if it returns true.
func (c *change) resize(ino meta.Ino, in *meta.Inode, size uint64) (more bool, err error) {
	if in.Flags&meta.FlagInline != 0 || in.Size == 0 && in.Blocks == 0 && size <= InlineMax {
		if size <= InlineMax {
			return false, c.resizeInline(ino, in, size)
		}
		if err := c.spill(ino, in); err != nil {
			return false, err
		}
	}
	if size < in.Size {
		if err := c.zeroTail(ino, in, size); err != nil {
			return false, err
		}
		if more, err = c.freeChunks(ino, in, chunks(size)); err != nil {
			return false, err
		}
	}
	in.Size = size
	return more, nil
}

// chunks is the number of chunks that a file of size bytes has.
func chunks(size uint64) uint64 { return (size + record.ChunkSize - 1) / record.ChunkSize }

func (c *change) resizeInline(ino meta.Ino, in *meta.Inode, size uint64) error {
	var old []byte
	if in.Flags&meta.FlagInline != 0 {
		var err error
		if old, err = c.fs.inline(ino); err != nil {
			return err
		}
	}
	b := make([]byte, size)
	copy(b, old)
	if err := c.use(int64(size) - int64(len(old))); err != nil {
		return err
	}
	c.set(meta.InlineKey(ino), b)
	in.Size = size
	in.Flags |= meta.FlagInline
	return nil
}

// zeroTail zeroes what is behind size in its block and punches the later blocks of its chunk.
func (c *change) zeroTail(ino meta.Ino, in *meta.Inode, size uint64) error {
	if size%record.ChunkSize == 0 {
		return nil
	}
	return c.punchChunk(chunkID{ino, size / record.ChunkSize}, in, size%record.ChunkSize, record.ChunkSize)
}

// punchChunk makes [from, to) of a chunk read as zeros: whole blocks become holes, ragged ends are written.
func (c *change) punchChunk(id chunkID, in *meta.Inode, from, to uint64) error {
	ch, err := c.chunk(id)
	if err != nil || ch.Blob == 0 {
		return err
	}
	zero := func(a, b uint64) error { // within one block
		if block := uint32(a / record.BlockSize); a == b || !ch.Blocks.Has(block) {
			return nil
		}
		if err := c.writeChunk(id, in, a, make([]byte, b-a)); err != nil {
			return err
		}
		ch, err = c.chunk(id)
		return err
	}
	first, last := (from+record.BlockSize-1)/record.BlockSize, to/record.BlockSize
	if first > last {
		return zero(from, to)
	}
	if err := zero(from, first*record.BlockSize); err != nil {
		return err
	}
	if err := zero(last*record.BlockSize, to); err != nil {
		return err
	}
	return c.punchBlocks(id, &ch, in, uint32(first), uint32(last))
}

// punchBlocks makes holes of blocks [first, last); a chunk without content loses its blob.
func (c *change) punchBlocks(id chunkID, ch *meta.Chunk, in *meta.Inode, first, last uint32) error {
	freed := uint64(0)
	for i := first; i < last; i++ {
		if ch.Blocks.Has(i) {
			ch.Blocks.Clear(i)
			freed++
		}
	}
	if freed == 0 {
		return nil
	}
	in.Blocks -= freed
	if err := c.use(-int64(freed) * record.BlockSize); err != nil {
		return err
	}
	if ch.Blocks.IsZero() {
		c.rec.Ops = append(c.rec.Ops, record.BlockOp{Kind: record.FreeBlob, Blob: ch.Blob})
		c.deleteChunk(id)
		return nil
	}
	ch.Last = c.last()
	c.rec.Ops = append(c.rec.Ops, record.BlockOp{Kind: record.PunchBlocks, Blob: ch.Blob, First: first, Count: last - first})
	c.setChunk(id, *ch)
	return nil
}

// freeChunks frees the chunks from the given one on, as many as one record may.
func (c *change) freeChunks(ino meta.Ino, in *meta.Inode, from uint64) (more bool, err error) {
	if in.Blocks == 0 {
		return false, nil
	}
	lower, upper := meta.ChunkKey(ino, from), meta.ChunkKey(ino+1, 0)
	n := 0
	err = c.fs.scan(lower, upper, func(key, value []byte) (bool, error) {
		if n == chunksPerRecord {
			more = true
			return false, nil
		}
		n++
		ch, err := meta.DecodeChunk(value)
		if err != nil {
			return false, err
		}
		return true, c.punchBlocks(chunkID{ino, meta.ChunkIndex(key)}, &ch, in, 0, record.ChunkBlocks)
	})
	return more, err
}

// freeBehind frees all chunks behind the end of a file, or all of them and the inode too, in bounded records. fs.mu must be held.
func (fs *FS) freeBehind(ino meta.Ino, remove bool) (meta.Inode, error) {
	for {
		in, err := fs.inode(ino)
		if err != nil {
			return in, err
		}
		c := fs.begin(&Caller{})
		from := chunks(in.Size)
		if remove {
			from = 0
		}
		more, err := c.freeChunks(ino, &in, from)
		if err != nil {
			return in, err
		}
		switch {
		case more:
			c.setInode(ino, in)
		case remove:
			if err := c.removeInode(ino, &in); err != nil {
				return in, err
			}
		default:
			if in.Nlink > 0 {
				c.delete(meta.OrphanKey(ino))
			}
			c.setInode(ino, in)
		}
		if err := c.commit(nil); err != nil || !more {
			return in, err
		}
	}
}

// tail tells whether a file has chunks behind its end. fs.mu must be held.
func (fs *FS) tail(ino meta.Ino) (found bool, err error) {
	in, err := fs.inode(ino)
	if err != nil {
		return false, err
	}
	lower, upper := meta.ChunkKey(ino, chunks(in.Size)), meta.ChunkKey(ino+1, 0)
	err = fs.scan(lower, upper, func(_, _ []byte) (bool, error) {
		found = true
		return false, nil
	})
	return found, err
}

// removeInode removes what is left of an inode whose chunks are gone.
func (c *change) removeInode(ino meta.Ino, in *meta.Inode) error {
	if in.Flags&meta.FlagInline != 0 {
		if err := c.use(-int64(in.Size)); err != nil {
			return err
		}
		c.delete(meta.InlineKey(ino))
	}
	var err error
	if in.Flags&meta.FlagPlain == 0 {
		lower, upper := meta.XattrRange(ino)
		err = c.fs.scan(lower, upper, func(key, _ []byte) (bool, error) {
			c.delete(append([]byte{}, key...))
			return true, nil
		})
	}
	c.delete(meta.OrphanKey(ino))
	c.deleteInode(ino)
	return err
}
