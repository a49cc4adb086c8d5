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

// answerSize is the answer of a write that did less than it was asked for.
func answerSize(n int) []byte { return binary.LittleEndian.AppendUint32(nil, uint32(n)) }

// AnswerSize reads a first answer of Write: how much of the n bytes was written.
func AnswerSize(b []byte, n int) int {
	if len(b) != 4 {
		return n
	}
	return int(binary.LittleEndian.Uint32(b))
}
