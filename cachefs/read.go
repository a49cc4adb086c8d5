package cachefs

import (
	"errors"
	"fmt"

	"github.com/remora-storage/remora/cachefs/meta"
	"github.com/remora-storage/remora/cachefs/record"
	"github.com/remora-storage/remora/cachefs/store"
)

// Read reads into dst from off and returns how much there was before the end of the file. dst beyond that may be overwritten.
func (fs *FS) Read(caller *Caller, ino meta.Ino, off uint64, dst []byte) (int, error) {
	for f := (fetcher{fs: fs, io: caller.IO}); ; {
		n, err := fs.read(ino, off, dst)
		if err != nil {
			if err = f.fetch(err); err == nil {
				continue
			}
		}
		return n, err
	}
}

func (fs *FS) read(ino meta.Ino, off uint64, dst []byte) (int, error) {
	var seen *store.Extent
	for {
		fs.mu.RLock()
		p, n, err := fs.planRead(ino, off, dst)
		fs.mu.RUnlock()
		if err != nil {
			return 0, err
		}
		lack := p.fill(fs)
		if lack == nil {
			return n, nil
		}
		// The block does not fit the seal that we saw: it has been written meanwhile, and the next look finds another seal or
		// the overlay; or it is damaged, and the next look finds the same.
		at := lack.at
		if !errors.Is(lack, store.ErrStale) || seen != nil && at.Blob == seen.Blob && at.First == seen.First && sameSeals(at.Seals, seen.Seals) {
			return 0, lack
		}
		seen = at
	}
}

func sameSeals(a, b []record.Seal) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if a[i] != b[i] {
			return false
		}
	}
	return true
}

// plan is where the bytes of a read come from: copied already, or to be read from the store.
type plan struct {
	pieces []piece
	err    error
}

// piece is a run of blocks in the store, or one of the overlay, and where they go: into dst at once if they fit, else through a
// buffer from skip on.
type piece struct {
	id   chunkID
	at   store.Extent
	over *overBlock
	dst  []byte
	skip int
}

// planRead copies what the inode has and locates the rest. fs.mu must be held.
func (fs *FS) planRead(ino meta.Ino, off uint64, dst []byte) (*plan, int, error) {
	in, err := fs.regular(ino)
	if err != nil || off >= in.Size {
		return &plan{}, 0, err
	}
	dst = dst[:min(uint64(len(dst)), in.Size-off)]
	if in.Flags&meta.FlagInline != 0 {
		b, err := fs.inline(ino)
		if err == nil && uint64(len(b)) != in.Size {
			err = fmt.Errorf("%w: inode %d has %d bytes of %d", store.ErrDamaged, ino, len(b), in.Size)
		}
		if err != nil {
			return &plan{}, 0, err
		}
		return &plan{}, copy(dst, b[off:]), nil
	}
	p := &plan{}
	for rest := dst; len(rest) > 0; {
		in0 := off % record.ChunkSize
		n := min(record.ChunkSize-in0, uint64(len(rest)))
		id := chunkID{ino, off / record.ChunkSize}
		ch, err := fs.chunk(id)
		if err != nil {
			return p, 0, err
		}
		p.chunk(fs, id, &ch, in0, rest[:n])
		off, rest = off+n, rest[n:]
	}
	return p, len(dst), p.err
}

// chunk plans the reading of dst from off in a chunk.
func (p *plan) chunk(fs *FS, id chunkID, ch *meta.Chunk, off uint64, dst []byte) {
	if ch.Blob == 0 {
		clear(dst)
		return
	}
	for len(dst) > 0 && p.err == nil {
		block, skip := uint32(off/record.BlockSize), off%record.BlockSize
		n := min(record.BlockSize-skip, uint64(len(dst)))
		switch {
		case !ch.Blocks.Has(block):
			clear(dst[:n])
		case skip == 0 && n == record.BlockSize:
			run := fs.run(ch, block, uint32(len(dst)/record.BlockSize))
			n = uint64(run) * record.BlockSize
			p.blocks(fs, id, ch.Blob, block, run, 0, dst[:n])
		default:
			p.blocks(fs, id, ch.Blob, block, 1, int(skip), dst[:n])
		}
		off, dst = off+n, dst[n:]
	}
}

// run counts the blocks from first on that come from the store in one piece; a block of the overlay is a piece of its own.
func (fs *FS) run(ch *meta.Chunk, first, most uint32) uint32 {
	n := uint32(0)
	for n < most && ch.Blocks.Has(first+n) {
		if _, ok := fs.over.block(blockID{ch.Blob, first + n}); ok {
			return max(n, 1)
		}
		n++
	}
	return n
}

// blocks plans the reading of a run of blocks, from the overlay if it has the first of them. dst begins skip bytes into it.
func (p *plan) blocks(fs *FS, id chunkID, blob record.BlobID, first, count uint32, skip int, dst []byte) {
	if over, ok := fs.over.block(blockID{blob, first}); ok {
		p.pieces = append(p.pieces, piece{over: &over, dst: dst, skip: skip})
		return
	}
	e, err := fs.cfg.State.Locate(blob, first, count)
	if err != nil {
		p.err = lacks(id, first, count, err)
		return
	}
	p.pieces = append(p.pieces, piece{id: id, at: e, dst: dst, skip: skip})
}

// fill reads and opens what was planned, or says what is lacking for that.
func (p *plan) fill(fs *FS) *lackError {
	for i := range p.pieces {
		pc := &p.pieces[i]
		if err := pc.fill(fs); err != nil {
			return &lackError{id: pc.id, first: pc.at.First, count: uint32(len(pc.at.Seals)), at: &pc.at, cause: err}
		}
	}
	return nil
}

func (pc *piece) fill(fs *FS) error {
	whole := max(len(pc.at.Seals), 1) * record.BlockSize
	buf := pc.dst
	if len(buf) != whole {
		buf = make([]byte, whole)
	}
	var err error
	if pc.over != nil {
		copy(buf, pc.over.data)
		err = fs.cfg.Keys.OpenBlock(pc.over.seal, buf)
	} else {
		err = fs.cfg.State.Read(pc.at, buf)
	}
	if err != nil {
		return err
	}
	if len(buf) != len(pc.dst) {
		copy(pc.dst, buf[pc.skip:])
	}
	return nil
}
