package cachefs

import (
	"errors"
	"syscall"

	"github.com/remora-storage/remora/cachefs/meta"
	"github.com/remora-storage/remora/cachefs/record"
)

// Write writes data at off, as one record, and returns how much it wrote: less than all where the volume has no room for the rest, or a
// file cannot be longer. It is done with data when it returns.
func (fs *FS) Write(caller *Caller, ino meta.Ino, off uint64, data []byte, killSuidgid bool) (int, error) {
	for f := (fetcher{fs: fs, io: caller.IO}); ; {
		n, err := fs.write(caller, ino, off, data, killSuidgid, len(data))
		if err != nil {
			if err = f.fetch(err); err == nil {
				continue
			}
		}
		return n, err
	}
}

// write is Write for a request that asked for so many bytes, of which data are the first.
func (fs *FS) write(caller *Caller, ino meta.Ino, off uint64, data []byte, killSuidgid bool, asked int) (int, error) {
	if off >= MaxFileSize && len(data) > 0 {
		return 0, syscall.EFBIG
	}
	data = data[:min(uint64(len(data)), record.ChunkSize, MaxFileSize-min(off, MaxFileSize))]
	if err := fs.cfg.Log.Room(int64(len(data))); err != nil {
		return 0, err
	}
	fs.mu.Lock()
	defer fs.mu.Unlock()
	in, err := fs.regular(ino)
	if err == nil {
		in, err = fs.beforeGrowth(ino, in, off+uint64(len(data)))
	}
	if err != nil || len(data) == 0 {
		return 0, err
	}
	c := fs.begin(caller)
	if killSuidgid {
		c.killSuidGid(&in, false)
	}
	before, answer := in, []byte(nil)
	if len(data) < asked {
		answer = answerSize(len(data))
	}
	err = c.write(ino, &in, off, data)
	if errors.Is(err, syscall.ENOSPC) {
		n, errFits := fs.fits(ino, &before, off, len(data))
		if errFits != nil || n == 0 {
			return 0, errors.Join(errFits, err)
		}
		c, in, data, answer = fs.begin(caller), before, data[:n], answerSize(n)
		err = c.write(ino, &in, off, data)
	}
	if err != nil {
		return 0, err
	}
	in.Mtime, in.Ctime = c.now, c.now
	c.setInode(ino, in)
	if err := c.commit(answer); err != nil {
		return 0, err
	}
	return len(data), nil
}

// regular reads an inode that must be a regular file.
func (fs *FS) regular(ino meta.Ino) (meta.Inode, error) {
	in, err := fs.inode(ino)
	if err == nil && in.Mode&syscall.S_IFMT != syscall.S_IFREG {
		err = syscall.EINVAL
		if in.Mode&syscall.S_IFMT == syscall.S_IFDIR {
			err = syscall.EISDIR
		}
	}
	return in, err
}

// write puts data into the file: into its inline content while that is small, into blocks otherwise.
func (c *change) write(ino meta.Ino, in *meta.Inode, off uint64, data []byte) error {
	end := off + uint64(len(data))
	if end <= InlineMax && (in.Flags&meta.FlagInline != 0 || in.Size == 0 && in.Blocks == 0) {
		return c.writeInline(ino, in, off, data)
	}
	if err := c.spill(ino, in); err != nil {
		return err
	}
	for len(data) > 0 {
		id := chunkID{ino, off / record.ChunkSize}
		in0 := off % record.ChunkSize
		n := min(record.ChunkSize-in0, uint64(len(data)))
		if err := c.writeChunk(id, in, in0, data[:n]); err != nil {
			return err
		}
		off, data = off+n, data[n:]
	}
	in.Size = max(in.Size, end)
	return nil
}

func (c *change) writeInline(ino meta.Ino, in *meta.Inode, off uint64, data []byte) error {
	var old []byte
	if in.Flags&meta.FlagInline != 0 {
		var err error
		if old, err = c.fs.inline(ino); err != nil {
			return err
		}
	}
	size := max(in.Size, off+uint64(len(data)))
	b := make([]byte, size)
	copy(b, old)
	copy(b[off:], data)
	if err := c.use(int64(size) - int64(len(old))); err != nil {
		return err
	}
	c.set(meta.InlineKey(ino), b)
	in.Size = size
	in.Flags |= meta.FlagInline
	return nil
}

// spill moves inline content into blocks, in this change.
func (c *change) spill(ino meta.Ino, in *meta.Inode) error {
	if in.Flags&meta.FlagInline == 0 {
		return nil
	}
	old, err := c.fs.inline(ino)
	if err != nil {
		return err
	}
	in.Flags &^= meta.FlagInline
	c.delete(meta.InlineKey(ino))
	if err := c.use(-int64(len(old))); err != nil || len(old) == 0 {
		return err
	}
	return c.writeChunk(chunkID{ino, 0}, in, 0, old)
}

// writeChunk writes data, which does not cross the chunk's end, at off in the chunk.
func (c *change) writeChunk(id chunkID, in *meta.Inode, off uint64, data []byte) error {
	ch, err := c.chunk(id)
	if err != nil {
		return err
	}
	if ch.Blob != 0 && len(data) == record.ChunkSize {
		// A new blob is written once, the old one would be written twice: it must stay whole until the new content is durable.
		if err := c.punchBlocks(id, &ch, in, 0, record.ChunkBlocks); err != nil {
			return err
		}
		ch = meta.Chunk{}
	}
	if ch.Blob == 0 {
		ch = meta.Chunk{Blob: record.BlobID(c.counters.NextBlob), Birth: c.last()}
		c.counters.NextBlob++
	}
	first, count := uint32(off/record.BlockSize), uint32(0)
	for skip := off % record.BlockSize; len(data) > 0; skip = 0 {
		part := plain{op: len(c.rec.Ops), first: count}
		n := len(data) / record.BlockSize * record.BlockSize
		if skip == 0 && n > 0 {
			part.data = data[:n]
		} else {
			part.edge, part.data = true, c.fs.edges.buffer()
			if err := c.readBlock(id, &ch, first+count, part.data); err != nil {
				return err
			}
			n = copy(part.data[skip:], data)
		}
		c.plain = append(c.plain, part)
		count += uint32(len(part.data) / record.BlockSize)
		data = data[n:]
	}
	return c.putBlocks(id, ch, in, first, count)
}

// chunk is the newest state of a chunk, this change included.
func (c *change) chunk(id chunkID) (meta.Chunk, error) {
	for i := len(c.chunks) - 1; i >= 0; i-- {
		if c.chunks[i].id == id {
			return c.chunks[i].chunk, nil
		}
	}
	return c.fs.chunk(id)
}

// readBlock reads one block of a chunk as this change leaves it so far; a hole is zeros.
func (c *change) readBlock(id chunkID, ch *meta.Chunk, block uint32, dst []byte) error {
	if b := c.written(blockID{ch.Blob, block}); b != nil {
		copy(dst, b)
		return nil
	}
	if !ch.Blocks.Has(block) {
		clear(dst)
		return nil
	}
	if b := c.fs.edges.get(blockID{ch.Blob, block}); b != nil {
		copy(dst, b)
		return nil
	}
	p := plan{}
	p.blocks(c.fs, id, ch.Blob, block, 1, 0, dst)
	if p.err != nil {
		return p.err
	}
	if lack := p.fill(c.fs); lack != nil {
		return lack
	}
	return nil
}

// putBlocks adds whole blocks to the record and accounts for them. Their content is in c.plain already.
func (c *change) putBlocks(id chunkID, ch meta.Chunk, in *meta.Inode, first, count uint32) error {
	op := record.BlockOp{Kind: record.WriteBlocks, Blob: ch.Blob, First: first, Count: count, Data: make([]byte, count*record.BlockSize)}
	op.Seals = c.seals(op.Count)
	op.Fresh = c.fresh(ch.Blob, first)
	added := uint64(0)
	for block := first; block < first+op.Count; block++ {
		if !ch.Blocks.Has(block) {
			ch.Blocks.Set(block)
			added++
		}
	}
	if err := c.use(int64(added) * record.BlockSize); err != nil {
		return err
	}
	in.Blocks += added
	ch.Last = c.last()
	c.rec.Ops = append(c.rec.Ops, op)
	c.setChunk(id, ch)
	return nil
}
