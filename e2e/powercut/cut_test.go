package powercut

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// Entries of a disk's log.
const (
	kindWrite  = 1
	kindFlush  = 2
	kindRevert = 3 // the disk has lost a write that it had taken, or has it after all

	headerBytes = 32
	sector      = 512
)

// entry is one entry of the log.
type entry struct {
	kind  uint32
	off   int64 // on the disk; of a flush, the position in the log that it covers
	began int64 // the log's end when the request came
	end   int64 // the log's end with this entry
	data  []byte
}

func (e entry) header(n int) []byte {
	b := make([]byte, headerBytes)
	le := binary.LittleEndian
	le.PutUint32(b, e.kind)
	le.PutUint32(b[4:], uint32(n))
	le.PutUint64(b[8:], uint64(e.off))
	le.PutUint64(b[16:], uint64(e.began))
	return b
}

// diskLog is all that was asked of a disk.
type diskLog struct {
	entries []entry
	mapped  []byte
}

func readLog(t testing.TB, file string) *diskLog {
	f, err := os.Open(file)
	require.NoError(t, err)
	defer func() { require.NoError(t, f.Close()) }()
	info, err := f.Stat()
	require.NoError(t, err)
	l := &diskLog{}
	if info.Size() == 0 {
		return l
	}
	l.mapped, err = unix.Mmap(int(f.Fd()), 0, int(info.Size()), unix.PROT_READ, unix.MAP_SHARED)
	require.NoError(t, err)
	le := binary.LittleEndian
	for b, at := l.mapped, int64(0); len(b) >= headerBytes; {
		n := int(le.Uint32(b[4:]))
		require.LessOrEqual(t, headerBytes+n, len(b), "the log is cut short")
		e := entry{kind: le.Uint32(b), off: int64(le.Uint64(b[8:])), began: int64(le.Uint64(b[16:])), data: b[headerBytes : headerBytes+n]}
		b = b[headerBytes+n:]
		at += int64(headerBytes + n)
		e.end = at
		l.entries = append(l.entries, e)
	}
	return l
}

func (l *diskLog) close() error {
	if l.mapped == nil {
		return nil
	}
	return unix.Munmap(l.mapped)
}

// point is the end of a random entry that ends behind position from and not behind to; every other time, of one that comes just
// before a flush, when most is in doubt.
func (l *diskLog) point(rng *rand.Rand, from, to int64) int64 {
	var all, late []int64
	for i, e := range l.entries {
		if e.end <= from || e.end > to {
			continue
		}
		all = append(all, e.end)
		if i+1 < len(l.entries) && l.entries[i+1].kind == kindFlush && e.kind != kindFlush {
			late = append(late, e.end)
		}
	}
	switch {
	case len(all) == 0:
		return from
	case len(late) > 0 && rng.IntN(2) == 0:
		return late[rng.IntN(len(late))]
	}
	return all[rng.IntN(len(all))]
}

// cutter makes images of a disk after power cuts at ascending positions.
type cutter struct {
	log     *diskLog
	durable *os.File // the disk with what is covered by flushes
	done    int      // entries that are in it
	tally   *tally
}

// newCutter takes the disk as it was when the log began.
func newCutter(t testing.TB, log *diskLog, durable string, tally *tally) *cutter {
	f, err := os.OpenFile(durable, os.O_RDWR, 0)
	require.NoError(t, err)
	return &cutter{log: log, durable: f, tally: tally}
}

func (c *cutter) close(t testing.TB) { require.NoError(t, c.durable.Close()) }

// tally counts what was tried.
type tally struct {
	images, runs                 int
	broken                       int // images without a file system; images does not count them
	durable, kept, dropped, torn int // writes behind an image: flushed, there by chance, not there, there in parts
}

func (s tally) String() string {
	return fmt.Sprintf("%d images of %d runs (%d more that the file system did not survive); writes: %d flushed, %d kept (%d of them torn), %d dropped",
		s.images, s.runs, s.broken, s.durable, s.kept, s.torn, s.dropped)
}

// covered is the position up to which flushes that ended before at have made writes durable.
func (l *diskLog) covered(at int64) (covered int64) {
	for _, e := range l.entries {
		if e.end > at {
			break
		}
		if e.kind == kindFlush {
			covered = max(covered, e.off)
		}
	}
	return covered
}

// cut writes into image what a power cut at a position leaves of the disk.
func (c *cutter) cut(t testing.TB, rng *rand.Rand, image string, at int64) {
	covered := c.log.covered(at)
	for ; c.done < len(c.log.entries) && c.log.entries[c.done].end <= covered; c.done++ {
		c.apply(t, c.durable, c.log.entries[c.done])
	}
	copyFile(t, image, c.durable.Name())
	f, err := os.OpenFile(image, os.O_RDWR, 0)
	require.NoError(t, err)
	defer func() { require.NoError(t, f.Close()) }()
	c.tally.images++
	c.tally.durable += c.done
	chance := []float64{0, 0.1, 0.5, 0.5, 0.9, 1}[rng.IntN(6)]
	for _, e := range c.inSomeOrder(rng, at) {
		switch {
		case e.kind == kindFlush:
		case e.kind == kindRevert:
			c.apply(t, f, e)
		case rng.Float64() >= chance:
			c.tally.dropped++
		case rng.IntN(4) > 0 || len(e.data) <= sector:
			c.tally.kept++
			c.apply(t, f, e)
		default:
			c.tally.kept++
			c.tally.torn++
			c.tear(t, rng, f, e)
		}
	}
}

// inSomeOrder returns the writes up to at that no flush covers, as a disk may have done them: each at some moment between its
// request and its answer.
func (c *cutter) inSomeOrder(rng *rand.Rand, at int64) []entry {
	type timed struct {
		e      entry
		moment int64
	}
	var es []timed
	for _, e := range c.log.entries[c.done:] {
		if e.end > at {
			break
		}
		moment := e.end
		if e.kind == kindWrite {
			moment = e.began + 1 + rng.Int64N(max(e.end-e.began, 1))
		}
		es = append(es, timed{e, moment})
	}
	slices.SortStableFunc(es, func(a, b timed) int { return int(min(max(a.moment-b.moment, -1), 1)) })
	out := make([]entry, len(es))
	for i := range es {
		out[i] = es[i].e
	}
	return out
}

func (c *cutter) apply(t testing.TB, f *os.File, e entry) {
	if e.kind == kindFlush {
		return
	}
	_, err := f.WriteAt(e.data, e.off)
	require.NoError(t, err)
}

// tear does a part of a write: its first sectors, its last, or any.
func (c *cutter) tear(t testing.TB, rng *rand.Rand, f *os.File, e entry) {
	n := len(e.data) / sector
	how, edge := rng.IntN(3), rng.IntN(n)
	for i := range n {
		if there := []bool{i < edge, i >= edge, rng.IntN(2) == 0}[how]; there {
			_, err := f.WriteAt(e.data[i*sector:(i+1)*sector], e.off+int64(i*sector))
			require.NoError(t, err)
		}
	}
}
