package cachefs

import (
	"encoding/binary"

	"github.com/remora-storage/remora/cachefs/meta"
	"github.com/remora-storage/remora/cachefs/record"
)

// fits is how many of the n bytes at off the volume has room for: those before the first block that would be one too many. fs.mu must
// be held.
func (fs *FS) fits(ino meta.Ino, in *meta.Inode, off uint64, n int) (int, error) {
	room := int64(fs.cfg.Size) - int64(fs.counters.Used)
	if in.Flags&meta.FlagInline != 0 { // what is inline moves to block 0
		room += int64(in.Size)
		if off >= record.BlockSize {
			room -= record.BlockSize
		}
	}
	end := off + uint64(n)
	for at := off; at < end; at += record.BlockSize - at%record.BlockSize {
		ch, err := fs.chunk(chunkID{ino, at / record.ChunkSize})
		if err != nil {
			return 0, err
		}
		if ch.Blocks.Has(uint32(at % record.ChunkSize / record.BlockSize)) {
			continue
		}
		if room -= record.BlockSize; room < 0 {
			return int(at - off), nil
		}
	}
	return n, nil
}

// roomToGrow asks for the room that a file needs to get another size, content not included: a small file is kept whole in the metadata,
// and one that was small gets a block. fs.mu must not be held.
func (fs *FS) roomToGrow(ino meta.Ino, size uint64) error {
	fs.mu.RLock()
	in, err := fs.inode(ino)
	fs.mu.RUnlock()
	if err != nil || size <= in.Size {
		return nil //nolint:nilerr // who changes the file meets the error again
	}
	return fs.cfg.Log.Room(int64(min(size-in.Size, record.BlockSize)))
}

// answerSize is the answer of a write that did less than it was asked for.
func answerSize(n int) []byte { return binary.LittleEndian.AppendUint32(nil, uint32(n)) }

// AnswerSize reads a first answer of Write: how much of the n bytes was written.
func AnswerSize(b []byte, n int) int {
	if len(b) != 4 {
		return n
	}
	return int(binary.LittleEndian.Uint32(b))
}
