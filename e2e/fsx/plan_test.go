package fsx

import (
	"fmt"
	"math/rand/v2"
)

// kind of an operation on a file.
type kind int

const (
	opRead kind = iota
	opWrite
	opDirectRead
	opDirectWrite
	opAppend
	opTruncate
	opOpenTruncate
	opMapRead
	opMapWrite
	opAllocate
	opAllocateKeep
	opPunch
	opZero
	opZeroKeep
	opCollapse
	opInsert
	opCopy
	opSync
	opDataSync
	opReopen
	opDrop
	opSeek
	opCompare
	kinds
)

var kindNames = [kinds]string{"read", "write", "direct-read", "direct-write", "append", "truncate", "open-truncate", "map-read", "map-write",
	"allocate", "allocate-keep", "punch", "zero", "zero-keep", "collapse", "insert", "copy", "fsync", "fdatasync", "reopen", "drop", "seek", "compare"}

func (k kind) String() string { return kindNames[k] }

// weights say how often a kind comes.
var weights = [kinds]int{opRead: 14, opWrite: 16, opDirectRead: 6, opDirectWrite: 6, opAppend: 4, opTruncate: 7, opOpenTruncate: 1, opMapRead: 5,
	opMapWrite: 7, opAllocate: 2, opAllocateKeep: 1, opPunch: 6, opZero: 3, opZeroKeep: 2, opCollapse: 3, opInsert: 3, opCopy: 6, opSync: 2,
	opDataSync: 1, opReopen: 1, opDrop: 4, opSeek: 4, opCompare: 1}

// operation is one of them, with everything that it needs.
type operation struct {
	n           int // counted from 1
	kind        kind
	file        int   // 0 or 1
	off, length int64 // where, and how many bytes; of a truncate, off is the size
	to          int   // of a copy: the file
	at          int64 // of a copy: where in it
	size        int64 // of the file before
}

func (o operation) String() string {
	s := fmt.Sprintf("%d: file %d (%#x bytes) %v [%#x, %#x)", o.n, o.file, o.size, o.kind, o.off, o.off+o.length)
	if o.kind == opCopy {
		s += fmt.Sprintf(" to file %d at %#x", o.to, o.at)
	}
	return s
}

// profile is a sort of file.
type profile struct {
	name   string
	window int64   // operations fall within so many bytes
	bases  []int64 // from one of these on
	long   int64   // the longest of them
}

const maxSize = 1<<44 - pageSize // of a file on ext4 with blocks of 4 KiB

// profiles: up to a few blocks (a volume keeps the first 2 KiB elsewhere), within a chunk, over some chunks, and far apart.
// The last place is not at the very end of what a file can be: ext4 refuses an insert there if something is allocated behind the end.
var profiles = []profile{
	{"small", 20 << 10, []int64{0}, 5 << 10},
	{"medium", 300 << 10, []int64{0}, 100 << 10},
	{"large", 4 << 20, []int64{0}, 1<<20 + 1<<17},
	{"sparse", 400 << 10, []int64{0, 1<<31 - 1<<16, 1<<32 - 1<<16, 1<<40 + 1<<20 - 1<<16, maxSize - 1<<30}, 130 << 10},
}

// planner draws operations. What it draws depends on the seed and on the models only.
type planner struct {
	r       *rand.Rand
	p       profile
	can     abilities
	files   [2]*content
	total   int // of all weights
	count   int
	weights [kinds]int
}

func newPlanner(seed uint64, can abilities, files [2]*content) *planner {
	p := &planner{r: rand.New(rand.NewPCG(seed, 1)), p: profiles[seed%uint64(len(profiles))], can: can, files: files, weights: weights}
	if !can.Collapse {
		p.weights[opCollapse] = 0
	}
	if !can.Insert {
		p.weights[opInsert] = 0
	}
	if p.p.long < 1<<20 { // cheap here
		p.weights[opCompare] *= 4
	}
	for _, w := range p.weights {
		p.total += w
	}
	return p
}

func (p *planner) next() operation {
	p.count++
	o := operation{n: p.count, kind: p.kind()}
	if p.r.IntN(4) == 0 {
		o.file = 1
	}
	o.size = p.files[o.file].Size
	o.off = p.offset()
	o.length = min(p.length(), maxSize-o.off)
	switch o.kind {
	case opTruncate:
		o.length = 0
		if p.r.IntN(3) == 0 && o.size > 0 { // near the end
			o.off = max(0, o.size-p.r.Int64N(2*pageSize))
		}
		if p.p.name == "sparse" && p.r.IntN(20) == 0 {
			o.off = maxSize
		}
	case opDirectRead, opDirectWrite:
		if !p.can.DirectRagged || p.r.IntN(4) > 0 {
			o.align()
		}
	case opCollapse, opInsert:
		o.align()
		p.shift(&o)
	case opAppend:
		o.off, o.length = o.size, min(o.length, maxSize-o.size)
	case opCopy:
		o.to, o.at = p.r.IntN(2), p.offset()
		p.copy(&o)
	case opMapRead, opMapWrite: // of what is there
		if o.size == 0 {
			o.kind = opRead
			break
		}
		if o.off >= o.size {
			o.off = max(0, o.size-1-p.r.Int64N(min(o.size, p.p.window)))
		}
		o.length = min(o.length, o.size-o.off)
	case opPunch:
		if p.p.name == "sparse" && p.r.IntN(8) == 0 { // terabytes
			o.length = 1 + p.r.Int64N(maxSize-o.off)
		}
	case opRead, opWrite, opAllocate, opAllocateKeep, opZero, opZeroKeep, opSeek:
	default:
		o.off, o.length = 0, 0 // of the whole file
	}
	if o.length == 0 && (o.kind == opCollapse || o.kind == opInsert || o.kind == opCopy) {
		o = operation{n: o.n, kind: opCompare, file: o.file, size: o.size}
	}
	return o
}

func (p *planner) kind() kind {
	n := p.r.IntN(p.total)
	for k, w := range p.weights {
		if n < w {
			return kind(k)
		}
		n -= w
	}
	panic("weights")
}

// offset is anywhere in the window, often at or near the start of a block or a chunk.
func (p *planner) offset() int64 {
	off := p.r.Int64N(p.p.window)
	base := p.p.bases[p.r.IntN(len(p.p.bases))]
	switch p.r.IntN(8) {
	case 0, 1, 2:
		off = off / pageSize * pageSize
	case 3:
		off = max(0, off/pageSize*pageSize+p.r.Int64N(17)-8)
	case 4:
		if p.p.window > 1<<20 {
			off = max(0, (off+1<<19)>>20<<20+p.r.Int64N(33)-16)
		}
	}
	return base + min(off, p.p.window)
}

func (p *planner) length() int64 {
	n := p.p.long
	switch p.r.IntN(6) {
	case 0:
		n = 16
	case 1:
		n = pageSize + 2
	case 2, 3, 4:
		n = min(n, 16*pageSize)
	}
	n = 1 + p.r.Int64N(n)
	if p.r.IntN(3) == 0 {
		n = (n + pageSize - 1) / pageSize * pageSize
	}
	return n
}

// align makes whole pages of the range.
func (o *operation) align() {
	o.off = o.off / pageSize * pageSize
	o.length = max(pageSize, o.length/pageSize*pageSize)
	o.length = min(o.length, maxSize-o.off)
}

// shift makes a collapse end before the end of the file, an insert begin before it, and the file not grow without bound.
func (p *planner) shift(o *operation) {
	last := (o.size - 1) / pageSize * pageSize // the last page's offset
	if o.size == 0 || last <= 0 {
		o.length = 0
		return
	}
	o.off = min(o.off, last-pageSize)
	if o.kind == opCollapse {
		o.length = min(o.length, last-o.off)
		return
	}
	if o.size+o.length > p.p.bases[len(p.p.bases)-1]+2*p.p.window || o.size+o.length > maxSize {
		o.length = 0
	}
}

// copy makes a copy one that copies something, and not onto itself.
func (p *planner) copy(o *operation) {
	o.length = max(0, min(o.length, maxSize-o.at))
	if o.off >= o.size {
		o.off = max(0, o.size-1-p.r.Int64N(p.p.window))
	}
	o.length = min(o.length, o.size-o.off) // a second call would find more, were the end of the file what is copied to
	if o.to == o.file && o.off < o.at+o.length && o.at < o.off+o.length {
		o.length = max(o.at-o.off, o.off-o.at)
	}
}
