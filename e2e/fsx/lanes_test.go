package fsx

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"
)

// Lanes are parts of one file, each with a thread of its own: reads, writes and holes of one file at the same time. A lane's borders lie
// within blocks, so that two lanes write parts of one block.
const (
	lanes    = 4
	laneSize = 300_007
)

// lane is what one thread knows: the content of its part.
type lane struct {
	f      *openFile // descriptors of its own
	n      int
	direct bool // O_DIRECT only; else everything else. The kernel does not promise that the two agree while both are under way
	from   int64
	r      *rand.Rand
	e      *exerciser // buffers
	last   []operation
}

// drive takes DIR STATE SEED OPS PLACE, as exercise does. The lanes of one file share its descriptors' page cache, those of the other
// pass it by.
func drive(args []string) error {
	seed, err := strconv.ParseUint(args[2], 10, 64)
	if err != nil {
		return err
	}
	ops, err := strconv.Atoi(args[3])
	if err != nil {
		return err
	}
	ended := make(chan error)
	var models [2 * lanes]*content
	for n := range models {
		l, err := newLane(args[0], seed, n)
		if err != nil {
			return err
		}
		models[n] = l.f.model
		go func() { ended <- l.drive(ops / lanes / 2) }()
	}
	var errs []error
	for range models {
		errs = append(errs, <-ended)
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	fmt.Printf("%d threads on each of 2 files\n", lanes)
	return save(args[1], models)
}

func lanePath(dir string, n int) string { return filepath.Join(dir, "lanes"+strconv.Itoa(n/lanes)) }

func newLane(dir string, seed uint64, n int) (*lane, error) {
	l := &lane{n: n, direct: n >= lanes, from: int64(n%lanes) * laneSize, r: rand.New(rand.NewPCG(seed, uint64(6+n)))}
	l.f = &openFile{path: lanePath(dir, n), model: newContent()}
	if err := l.f.open(unix.O_CREAT); err != nil {
		return nil, err
	}
	l.f.model.Size = lanes * laneSize
	if err := unix.Ftruncate(l.f.buffered, l.f.model.Size); err != nil {
		return nil, err
	}
	buffer, err := unix.Mmap(-1, 0, 1<<20, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	l.e = &exerciser{buffer: buffer, want: make([]byte, 1<<20)}
	if err != nil {
		return nil, err
	}
	_, ragged := unix.Pwrite(l.f.direct, buffer[:100], l.from+3) // of zeros
	l.e.can.DirectRagged = ragged == nil
	return l, nil
}

func (l *lane) drive(ops int) error {
	for n := range ops {
		o := l.next(n + 1)
		l.last = append(l.last, o)
		if err := l.perform(o); err != nil {
			return fmt.Errorf("lane %d: %w\nthe last operations: %v", l.n, err, l.last[max(0, len(l.last)-20):])
		}
	}
	return errors.Join(l.compare(), l.f.close())
}

// next draws an operation within the lane.
func (l *lane) next(n int) operation {
	o := operation{n: n, size: l.f.model.Size, file: l.n / lanes}
	o.off = l.from + l.r.Int64N(laneSize)
	if l.r.IntN(5) == 0 { // near a border, where the neighbour's bytes are in the same block
		o.off = l.from + l.r.Int64N(pageSize)
	}
	long := []int64{100, 2 * pageSize, 130 << 10}[l.r.IntN(3)]
	o.length = 1 + l.r.Int64N(min(long, l.from+laneSize-o.off))
	all := []kind{opRead, opRead, opWrite, opWrite, opMapRead, opMapWrite, opPunch, opZeroKeep, opDrop, opSync}
	if l.direct {
		all = []kind{opDirectRead, opDirectRead, opDirectWrite, opDirectWrite, opPunch, opZeroKeep, opDataSync}
	}
	o.kind = all[l.r.IntN(len(all))]
	if (o.kind == opDirectRead || o.kind == opDirectWrite) && !l.e.can.DirectRagged {
		o.off = (o.off + pageSize - 1) / pageSize * pageSize
		o.length = max(0, min(o.length, l.from+laneSize-o.off)) / pageSize * pageSize
	}
	return o
}

func (l *lane) perform(o operation) error {
	if o.length == 0 {
		return nil
	}
	if o.kind == opMapRead || o.kind == opMapWrite {
		o.n *= 4 // each map ends with its operation: msync comes before
	}
	if err := l.e.performOn(l.f, o); err != nil {
		return err
	}
	if o.kind == opDirectWrite || l.r.IntN(3) > 0 {
		return nil
	}
	return l.same(o.off, o.length, "read back after "+o.kind.String())
}

// same reads within the lane.
func (l *lane) same(off, n int64, where string) error {
	if !l.direct {
		return l.e.same(l.f, l.f.buffered, off, n, where)
	}
	if l.e.can.DirectRagged {
		return l.e.same(l.f, l.f.direct, off, n, where)
	}
	return nil
}

// compare compares the whole lane, in pieces.
func (l *lane) compare() error {
	const most = 1 << 17
	if !l.direct {
		if err := l.f.drop(); err != nil {
			return err
		}
	}
	for off := l.from; off < l.from+laneSize; off += most {
		if err := l.same(off, min(most, l.from+laneSize-off), "compare"); err != nil {
			return err
		}
	}
	return nil
}

// verifyLanes takes DIR STATE and compares the files in DIR with what drive saved.
func verifyLanes(args []string) error {
	var models [2 * lanes]*content
	if err := load(args[1], &models); err != nil {
		return err
	}
	for n, m := range models {
		l := &lane{n: n, from: int64(n%lanes) * laneSize, f: &openFile{path: lanePath(args[0], n), model: m},
			e: &exerciser{buffer: make([]byte, 1<<20), want: make([]byte, 1<<20)}}
		if err := l.f.open(0); err != nil {
			return err
		}
		if err := errors.Join(l.compare(), l.f.close()); err != nil {
			return fmt.Errorf("after a new start: lane %d: %w", n, err)
		}
	}
	return nil
}
