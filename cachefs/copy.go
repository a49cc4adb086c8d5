package cachefs

import (
	"errors"
	"syscall"

	"github.com/remora-storage/remora/cachefs/meta"
	"github.com/remora-storage/remora/cachefs/record"
)

// maxHole is how much of a hole one call of CopyRange copies.
const maxHole = chunksPerRecord * record.ChunkSize

// CopyRange copies up to n bytes at off of a file to toOff of another one, or of the same one where the ranges do not overlap, and returns
// how many: fewer where the source ends, or changes between data and holes, where the destination's chunk ends, and where the volume has
// no room for more. The bytes are carried; a hole stays one. It is one record, with an answer for whoever asks again.
//
// The source is read before the destination is locked: who writes to it meanwhile finds his bytes copied or not, as with read and write.
func (fs *FS) CopyRange(caller *Caller, from meta.Ino, off uint64, to meta.Ino, toOff, n uint64) (int, error) {
	for f := (fetcher{fs: fs, io: caller.IO}); ; {
		done, err := fs.copyRange(caller, from, off, to, toOff, n)
		if err != nil {
			if err = f.fetch(err); err == nil {
				continue
			}
		}
		return done, err
	}
}

func (fs *FS) copyRange(caller *Caller, from meta.Ino, off uint64, to meta.Ino, toOff, n uint64) (int, error) {
	if toOff >= MaxFileSize {
		return 0, syscall.EFBIG
	}
	if off >= MaxFileSize || n == 0 {
		return 0, nil
	}
	asked := n
	n = min(n, MaxFileSize-off, MaxFileSize-toOff)
	if from == to && off < toOff+n && toOff < off+n {
		return 0, syscall.EINVAL
	}
	length, hole, err := fs.segment(from, off)
	switch n = min(n, length); {
	case err != nil || n == 0:
		return 0, err
	case hole:
		return fs.copyHole(caller, to, toOff, n)
	}
	buf := make([]byte, min(n, record.ChunkSize-toOff%record.ChunkSize))
	got, err := fs.read(from, off, buf)
	if err != nil || got == 0 {
		return 0, err
	}
	return fs.write(caller, to, toOff, buf[:got], caller.UID != 0, int(asked))
}

// segment is how many bytes from off on are all data, or all in a hole, before the end of the file: 0 at its end.
func (fs *FS) segment(ino meta.Ino, off uint64) (length uint64, hole bool, err error) {
	fs.mu.RLock()
	defer fs.mu.RUnlock()
	in, err := fs.regular(ino)
	if err != nil || off >= in.Size {
		return 0, false, err
	}
	if in.Flags&meta.FlagInline != 0 {
		return in.Size - off, false, nil
	}
	data, err := fs.seekData(ino, &in, off)
	switch {
	case errors.Is(err, syscall.ENXIO):
		return in.Size - off, true, nil
	case err != nil || data > off:
		return data - off, true, err
	}
	end, err := fs.seekHole(ino, &in, off)
	return end - off, false, err
}

// copyHole makes n bytes at off read as zeros, and the file so long that it has them.
func (fs *FS) copyHole(caller *Caller, ino meta.Ino, off, n uint64) (int, error) {
	n = min(n, maxHole-off%record.ChunkSize)
	if err := fs.roomToGrow(ino, off+n); err != nil {
		return 0, err
	}
	fs.mu.Lock()
	defer fs.mu.Unlock()
	in, err := fs.regular(ino)
	if err == nil {
		in, err = fs.beforeGrowth(ino, in, off+n)
	}
	if err != nil {
		return 0, err
	}
	c := fs.begin(caller)
	if _, err := c.punchRange(ino, &in, off, min(off+n, in.Size)); err != nil {
		return 0, err
	}
	if off+n > in.Size {
		if _, err := c.resize(ino, &in, off+n); err != nil {
			return 0, err
		}
	}
	c.allocated(&in)
	c.setInode(ino, in)
	return int(n), c.commit(answerSize(int(n)))
}
