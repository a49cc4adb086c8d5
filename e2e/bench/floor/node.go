package floor

import (
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
)

const chunkSize = 1 << 20

// node is a file, a directory or a symbolic link.
type node struct {
	mu      sync.RWMutex // content and attributes
	attr    fuse.Attr
	chunks  [][]byte // nil: zeros
	target  []byte
	entries map[string]*entry
	listed  []*entry // in the order of their cookies; those of removed names stay, without a node
}

type entry struct {
	name string
	node *node // nil: removed
}

func newNode(ino uint64, mode uint32, owner fuse.Owner) *node {
	n := &node{attr: fuse.Attr{Ino: ino, Mode: mode, Nlink: 1, Owner: owner, Blksize: 4096}}
	if mode&syscall.S_IFMT == syscall.S_IFDIR {
		n.attr.Nlink, n.entries = 2, map[string]*entry{}
	}
	n.touch()
	n.attr.Atime, n.attr.Atimensec = n.attr.Mtime, n.attr.Mtimensec
	return n
}

// touch sets mtime and ctime to now.
func (n *node) touch() {
	now := time.Now()
	n.attr.Mtime, n.attr.Mtimensec = uint64(now.Unix()), uint32(now.Nanosecond())
	n.attr.Ctime, n.attr.Ctimensec = n.attr.Mtime, n.attr.Mtimensec
}

func (n *node) isDir() bool { return n.entries != nil }

// add gives a directory a name.
func (n *node) add(name string, child *node) {
	e := &entry{name: name, node: child}
	n.entries[name] = e
	n.listed = append(n.listed, e)
	n.touch()
}

// remove takes a name away. What was listed begins anew when nothing is left, so that a directory in long use stays small.
func (n *node) remove(name string) {
	n.entries[name].node = nil
	delete(n.entries, name)
	if len(n.entries) == 0 {
		n.listed = nil
	}
	n.touch()
}

// read fills buf from offset and answers how much there was.
func (n *node) read(buf []byte, offset uint64) int {
	n.mu.RLock()
	defer n.mu.RUnlock()
	if offset >= n.attr.Size {
		return 0
	}
	buf = buf[:min(uint64(len(buf)), n.attr.Size-offset)]
	for done := 0; done < len(buf); {
		chunk, from := int((offset+uint64(done))/chunkSize), int((offset+uint64(done))%chunkSize)
		piece := buf[done:min(len(buf), done+chunkSize-from)]
		if chunk < len(n.chunks) && n.chunks[chunk] != nil {
			copy(piece, n.chunks[chunk][from:])
		} else {
			clear(piece)
		}
		done += len(piece)
	}
	return len(buf)
}

// write puts data at offset; small files have small chunks, which grow.
func (n *node) write(data []byte, offset uint64) {
	n.mu.Lock()
	defer n.mu.Unlock()
	end := offset + uint64(len(data))
	for done := 0; done < len(data); {
		chunk, from := int((offset+uint64(done))/chunkSize), int((offset+uint64(done))%chunkSize)
		for chunk >= len(n.chunks) {
			n.chunks = append(n.chunks, nil)
		}
		to := min(chunkSize, from+len(data)-done)
		n.grow(chunk, to)
		copy(n.chunks[chunk][from:to], data[done:])
		done += to - from
	}
	n.attr.Size = max(n.attr.Size, end)
	n.attr.Blocks = (n.attr.Size + 511) / 512
	n.touch()
}

// grow gives a chunk at least so many bytes, in whole blocks: the first one as many as are needed, any other all of them.
func (n *node) grow(chunk, size int) {
	have := n.chunks[chunk]
	switch {
	case chunk > 0 || size > 64<<10:
		size = chunkSize
	default:
		size = (size + 4095) &^ 4095
	}
	if size > len(have) {
		n.chunks[chunk] = append(make([]byte, 0, size), have...)[:size]
	}
}

// truncate cuts, and clears what a longer file would show again.
func (n *node) truncate(size uint64) {
	if size < n.attr.Size {
		whole := int((size + chunkSize - 1) / chunkSize)
		if whole < len(n.chunks) {
			n.chunks = slices.Delete(n.chunks, whole, len(n.chunks))
		}
		if from := int(size % chunkSize); from > 0 && whole == len(n.chunks) && from < len(n.chunks[whole-1]) {
			clear(n.chunks[whole-1][from:])
		}
	}
	n.attr.Size = size
	n.attr.Blocks = (size + 511) / 512
	n.touch()
}
