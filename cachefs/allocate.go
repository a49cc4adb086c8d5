package cachefs

import (
	"errors"
	"syscall"

	"github.com/remora-storage/remora/cachefs/meta"
	"github.com/remora-storage/remora/cachefs/record"
)

// Modes of Fallocate, as fallocate(2).
const (
	FallocKeepSize  = 0x01
	FallocPunchHole = 0x02
	FallocZeroRange = 0x10
)

// Whence of Seek, as lseek(2).
const (
	SeekData = 3
	SeekHole = 4
)

// Fallocate changes how a range is stored. Nothing is reserved: a plain allocation only sets the size, after a look whether the
// volume and the disk have room for it.
func (fs *FS) Fallocate(caller *Caller, ino meta.Ino, mode uint32, off, n uint64) error {
	for f := (fetcher{fs: fs, io: caller.IO}); ; {
		err := fs.fallocate(caller, ino, mode, off, n)
		if err != nil {
			if err = f.fetch(err); err == nil {
				continue
			}
		}
		return err
	}
}

func (fs *FS) fallocate(caller *Caller, ino meta.Ino, mode uint32, off, n uint64) error {
	if n == 0 {
		return syscall.EINVAL
	}
	if off > MaxFileSize || n > MaxFileSize-off {
		return syscall.EFBIG
	}
	if err := fs.roomToAllocate(ino, mode, off, n); err != nil {
		return err
	}
	fs.mu.Lock()
	defer fs.mu.Unlock()
	in, err := fs.regular(ino)
	if err != nil {
		return err
	}
	switch mode {
	case 0, FallocKeepSize:
		if err := fs.roomFor(ino, off, n); err != nil {
			return err
		}
	case FallocPunchHole | FallocKeepSize, FallocZeroRange, FallocZeroRange | FallocKeepSize:
		grows := mode&FallocKeepSize == 0 && off+n > in.Size
		end := min(off+n, max(in.Size, off))
		if err := fs.punch(caller, ino, off, end, grows); err != nil || off < end && !grows {
			return err
		}
		if in, err = fs.regular(ino); err != nil {
			return err
		}
	default:
		return syscall.EOPNOTSUPP
	}
	if mode&FallocKeepSize == 0 {
		if in, err = fs.beforeGrowth(ino, in, off+n); err != nil {
			return err
		}
	}
	c := fs.begin(caller)
	if mode&FallocKeepSize == 0 && off+n > in.Size {
		if _, err := c.resize(ino, &in, off+n); err != nil {
			return err
		}
	}
	c.allocated(&in)
	c.setInode(ino, in)
	return c.commit(nil)
}

// allocated marks a file as changed by fallocate, which takes the set-ID bits away from whoever is not root. The kernel, which asks
// for that in a write or truncate, leaves it to us here, and does not say who has CAP_FSETID.
func (c *change) allocated(in *meta.Inode) {
	in.Mtime, in.Ctime = c.now, c.now
	if c.caller.UID != 0 {
		c.killSuidGid(in, false)
	}
}

// roomToAllocate asks whether the disk has room for what a plain allocation would get, and for the growth of any other. fs.mu must not
// be held.
func (fs *FS) roomToAllocate(ino meta.Ino, mode uint32, off, n uint64) error {
	fs.mu.RLock()
	in, err := fs.inode(ino)
	fs.mu.RUnlock()
	switch {
	case err != nil:
		return err
	case mode&^FallocKeepSize == 0:
		err := fs.cfg.Log.Room(int64(n))
		if !errors.Is(err, syscall.ENOSPC) {
			return err
		}
		fs.mu.RLock()
		missing, scanErr := fs.missing(ino, off, n)
		fs.mu.RUnlock()
		if scanErr != nil || missing == 0 && off+n <= in.Size {
			return scanErr // a file that has all of it, and does not grow, needs nothing
		}
		return fs.cfg.Log.Room(int64(missing * record.BlockSize))
	case mode&FallocKeepSize == 0:
		return fs.roomToGrow(ino, off+n)
	}
	return nil
}

// roomFor is ENOSPC if the volume is too full for what [off, off+n) of a file has not got yet. fs.mu must be held.
func (fs *FS) roomFor(ino meta.Ino, off, n uint64) error {
	room := fs.cfg.Size - min(fs.counters.Used, fs.cfg.Size)
	if n <= room {
		return nil
	}
	missing, err := fs.missing(ino, off, n)
	if err == nil && missing*record.BlockSize > room {
		err = syscall.ENOSPC
	}
	return err
}

// missing is how many of the blocks in [off, off+n) a file has not got yet. fs.mu must be held, for reading at least.
func (fs *FS) missing(ino meta.Ino, off, n uint64) (uint64, error) {
	first, last := off/record.BlockSize, (off+n-1)/record.BlockSize
	missing := last - first + 1
	lower, upper := meta.ChunkKey(ino, off/record.ChunkSize), meta.ChunkKey(ino, chunks(off+n))
	err := fs.scan(lower, upper, func(key, value []byte) (bool, error) {
		ch, err := meta.DecodeChunk(value)
		start := meta.ChunkIndex(key) * record.ChunkBlocks
		for b := max(first, start); b <= min(last, start+record.ChunkBlocks-1); b++ {
			if ch.Blocks.Has(uint32(b - start)) {
				missing--
			}
		}
		return err == nil, err
	})
	return missing, err
}

// punch makes [off, end) of a file read as zeros, a bounded number of chunks a record. Only the last record of a request carries its
// name: a request that is re-sent before that record is there must do all of it again, which punching can. With more, the caller adds a
// record for the same request.
func (fs *FS) punch(caller *Caller, ino meta.Ino, off, end uint64, more bool) error {
	for off < end {
		in, err := fs.inode(ino)
		if err != nil {
			return err
		}
		c := fs.begin(caller)
		if off, err = c.punchRange(ino, &in, off, end); err != nil {
			return err
		}
		c.allocated(&in)
		c.setInode(ino, in)
		if more || off < end {
			c.rec.Unique = 0
		}
		if err := c.commit(nil); err != nil {
			return err
		}
	}
	return nil
}

// punchRange makes [off, end), which is not behind the end of the file, read as zeros, as far as one record may, and returns how far that
// is. It looks only at chunks that have content: a hole costs nothing, however large it is.
func (c *change) punchRange(ino meta.Ino, in *meta.Inode, off, end uint64) (uint64, error) {
	if off >= end {
		return end, nil
	}
	if in.Flags&meta.FlagInline != 0 {
		return end, c.write(ino, in, off, make([]byte, end-off))
	}
	var indexes []uint64
	lower, upper := meta.ChunkKey(ino, off/record.ChunkSize), meta.ChunkKey(ino, chunks(end))
	err := c.fs.scan(lower, upper, func(key, _ []byte) (bool, error) {
		indexes = append(indexes, meta.ChunkIndex(key))
		return len(indexes) <= chunksPerRecord, nil
	})
	if err != nil {
		return 0, err
	}
	upTo := end
	if end == in.Size { // the rest of the last block is zeros already, so that it can go
		upTo += -end % record.BlockSize
	}
	if len(indexes) > chunksPerRecord {
		end = indexes[chunksPerRecord] * record.ChunkSize
		indexes = indexes[:chunksPerRecord]
	}
	for _, index := range indexes {
		start := index * record.ChunkSize
		from, to := max(off, start)-start, min(upTo, start+record.ChunkSize)-start
		if err := c.punchChunk(chunkID{ino, index}, in, from, to); err != nil {
			return 0, err
		}
	}
	return end, nil
}

// Seek finds the next data or hole at or behind off.
func (fs *FS) Seek(ino meta.Ino, off uint64, whence uint32) (uint64, error) {
	fs.mu.RLock()
	defer fs.mu.RUnlock()
	in, err := fs.regular(ino)
	if err != nil {
		return 0, err
	}
	if whence != SeekData && whence != SeekHole {
		return 0, syscall.EINVAL
	}
	if off >= in.Size {
		return 0, syscall.ENXIO
	}
	if in.Flags&meta.FlagInline != 0 {
		if whence == SeekData {
			return off, nil
		}
		return in.Size, nil
	}
	if whence == SeekData {
		return fs.seekData(ino, &in, off)
	}
	return fs.seekHole(ino, &in, off)
}

func (fs *FS) seekData(ino meta.Ino, in *meta.Inode, off uint64) (uint64, error) {
	found := in.Size
	lower, upper := meta.ChunkKey(ino, off/record.ChunkSize), meta.ChunkKey(ino+1, 0)
	err := fs.scan(lower, upper, func(key, value []byte) (bool, error) {
		ch, err := meta.DecodeChunk(value)
		if err != nil {
			return false, err
		}
		start := meta.ChunkIndex(key) * record.ChunkSize
		for b := uint32(0); b < record.ChunkBlocks; b++ {
			if at := start + uint64(b)*record.BlockSize; at+record.BlockSize > off && ch.Blocks.Has(b) {
				found = max(at, off)
				return false, nil
			}
		}
		return true, nil
	})
	if err == nil && found >= in.Size {
		err = syscall.ENXIO
	}
	return found, err
}

func (fs *FS) seekHole(ino meta.Ino, in *meta.Inode, off uint64) (uint64, error) {
	for at := off; at < in.Size; {
		ch, err := fs.chunk(chunkID{ino, at / record.ChunkSize})
		if err != nil {
			return 0, err
		}
		start := at - at%record.ChunkSize
		for b := uint32(at % record.ChunkSize / record.BlockSize); b < record.ChunkBlocks; b++ {
			if !ch.Blocks.Has(b) {
				return min(max(start+uint64(b)*record.BlockSize, off), in.Size), nil
			}
		}
		at = start + record.ChunkSize
	}
	return in.Size, nil
}
