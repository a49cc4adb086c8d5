package fsx

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// mismatch is a difference between a file and its model.
type mismatch struct {
	where, file string
	off         int64
	text        string
}

func (m *mismatch) Error() string {
	return fmt.Sprintf("%s: %s at %#x: %s", m.where, m.file, m.off, m.text)
}

// different compares what was read at off with what should be there.
func different(f *openFile, where string, off int64, got, want []byte) error {
	if bytes.Equal(got, want) {
		return nil
	}
	n := 0
	for got[n] == want[n] {
		n++
	}
	last := len(got) - 1
	for got[last] == want[last] {
		last--
	}
	m := &mismatch{where: where, file: f.path, off: off + int64(n),
		text: fmt.Sprintf("other bytes up to %#x: got %x, want %x", off+int64(last)+1, got[n], want[n])}
	if at := max(0, (off+int64(n))/8*8-off); at+8 <= int64(len(got)) { // the whole word around it
		m.text += fmt.Sprintf("\n  got  %s\n  want %s", writer(got[at:at+8]), writer(want[at:at+8]))
	}
	return m
}

// same reads n bytes from off and compares them with the model.
func (e *exerciser) same(f *openFile, fd int, off, n int64, where string) error {
	got, want := e.buffer[:n], e.want[:n]
	want = want[:f.model.read(off, want)]
	count := 0
	for count < len(got) {
		k, err := unix.Pread(fd, got[count:], off+int64(count))
		if err != nil {
			return fmt.Errorf("%s: %w", where, err)
		}
		if count += k; k == 0 || count%512 != 0 { // the end, or ragged: O_DIRECT goes on at sectors only
			break
		}
	}
	if count != len(want) {
		return &mismatch{where: where, file: f.path, off: off, text: fmt.Sprintf("read %d bytes of %d, want %d", count, n, len(want))}
	}
	return different(f, where, off, got[:count], want)
}

// seek asks for the next data or hole, which must fit what the model has.
func (e *exerciser) seek(f *openFile, o operation) error {
	if err := f.unmap(); err != nil { // the sidecar does not know what is dirty in memory
		return err
	}
	m := f.model
	data, err := unix.Seek(f.buffered, o.off, unix.SEEK_DATA)
	switch {
	case errors.Is(err, unix.ENXIO):
		data = max(m.Size, o.off)
	case err != nil:
		return fmt.Errorf("SEEK_DATA: %w", err)
	case data < o.off || data >= m.Size:
		return &mismatch{"SEEK_DATA", f.path, o.off, fmt.Sprintf("is at %#x", data)}
	}
	if at := m.next(o.off); at < data {
		return &mismatch{"SEEK_DATA", f.path, o.off, fmt.Sprintf("is at %#x, but something is written at %#x", data, at)}
	}
	hole, err := unix.Seek(f.buffered, o.off, unix.SEEK_HOLE)
	switch {
	case errors.Is(err, unix.ENXIO) && o.off >= m.Size:
		return nil
	case err != nil:
		return fmt.Errorf("SEEK_HOLE: %w", err)
	case o.off >= m.Size || hole < o.off || hole > m.Size:
		return &mismatch{"SEEK_HOLE", f.path, o.off, fmt.Sprintf("is at %#x", hole)}
	case hole < m.Size && hole%pageSize == 0 && m.Pages[hole/pageSize] != nil && !isZero(m.Pages[hole/pageSize]):
		return &mismatch{"SEEK_HOLE", f.path, o.off, fmt.Sprintf("is at %#x, where something is written", hole)}
	}
	return nil
}

// next is where the next byte from off on is that is not zero; the size if there is none.
func (c *content) next(off int64) int64 {
	for _, number := range c.numbers() {
		if at := number * pageSize; at+pageSize > off {
			from := max(0, off-at)
			if n := slices.IndexFunc(c.Pages[number][from:], func(x byte) bool { return x != 0 }); n >= 0 {
				return at + from + int64(n)
			}
		}
	}
	return max(off, c.Size)
}

// compare reads the whole file from the sidecar, by its data and its holes, and looks at its size and blocks.
func (e *exerciser) compare(n int) error {
	f := e.files[n]
	if err := errors.Join(f.unmap(), f.drop()); err != nil {
		return err
	}
	// What the volume says, not what the kernel remembers: an fstat that was under way while dirty pages of a map were written back can
	// leave older times and st_blocks there. The size is the kernel's own, and compared after every call.
	var st unix.Statx_t
	if err := unix.Statx(f.buffered, "", unix.AT_EMPTY_PATH|unix.AT_STATX_FORCE_SYNC, unix.STATX_BASIC_STATS, &st); err != nil {
		return fmt.Errorf("statx: %w", err)
	}
	m := f.model
	if int64(st.Size) != m.Size {
		return &mismatch{"compare", f.path, 0, fmt.Sprintf("the size is %#x, want %#x", st.Size, m.Size)}
	}
	// A page of zeros may be a hole or not. The first 2 KiB may be counted by the byte, and become a block as a whole.
	least, most := m.written(), int64(len(m.Pages))+1
	if blocks := int64(st.Blocks) * 512; e.exact && (blocks > most*pageSize || blocks < (least-1)*pageSize || blocks < least*pageSize && m.Size > 2048) {
		return &mismatch{"compare", f.path, 0, fmt.Sprintf("st_blocks is %d, want %d to %d", st.Blocks, least*8, most*8)}
	}
	for off := int64(0); off < m.Size; {
		data, err := unix.Seek(f.buffered, off, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) {
			data = m.Size
		} else if err != nil {
			return fmt.Errorf("SEEK_DATA: %w", err)
		}
		if at := m.next(off); at < data {
			return &mismatch{"compare", f.path, off, fmt.Sprintf("SEEK_DATA is at %#x, but something is written at %#x", data, at)}
		}
		hole := data
		if data < m.Size {
			if hole, err = unix.Seek(f.buffered, data, unix.SEEK_HOLE); err != nil || hole <= data {
				return fmt.Errorf("SEEK_HOLE from %#x, where data is, is at %#x: %w", data, hole, err)
			}
		}
		if err := e.sameParts(f, off, data, hole); err != nil {
			return err
		}
		off = hole
	}
	return nil
}

// sameParts compares a hole and the data behind it. Of a large hole only the ends are read.
func (e *exerciser) sameParts(f *openFile, hole, data, end int64) error {
	const most = 1 << 20
	if data-hole > 4*most {
		if err := e.same(f, f.buffered, hole, most, "compare"); err != nil {
			return err
		}
		hole = data - most
	}
	for off := hole; off < end; off += most {
		if err := e.same(f, f.buffered, off, min(most, end-off), "compare"); err != nil {
			return err
		}
	}
	return nil
}

// report adds to an error what led to it: the last operations, and those before that touched the place of a mismatch.
func (e *exerciser) report(err error) error {
	var b strings.Builder
	fmt.Fprintf(&b, "after %d operations (%s, %s): %v\n", len(e.log), e.plan.p.name, e.can, err)
	var m *mismatch
	if errors.As(err, &m) {
		var lines []operation
		for _, o := range e.log {
			if e.touches(o, m) {
				lines = append(lines, o)
			}
		}
		fmt.Fprintln(&b, "operations that touched the place, or moved it, the last of them:")
		for _, o := range lines[max(0, len(lines)-30):] {
			fmt.Fprintln(&b, "  ", o)
		}
	}
	fmt.Fprintln(&b, "the last operations:")
	for _, o := range e.log[max(0, len(e.log)-15):] {
		fmt.Fprintln(&b, "  ", o)
	}
	return errors.New(b.String())
}

func (e *exerciser) touches(o operation, m *mismatch) bool {
	from, to := m.off/pageSize*pageSize, m.off/pageSize*pageSize+pageSize
	hit := func(file int, off, n int64) bool { return e.files[file].path == m.file && off < to && off+n > from }
	switch o.kind {
	case opCollapse, opInsert, opTruncate, opOpenTruncate:
		return e.files[o.file].path == m.file
	case opCopy:
		return hit(o.to, o.at, o.length)
	case opSync, opDataSync, opReopen, opDrop, opSeek, opCompare, opRead, opDirectRead, opMapRead:
		return false
	}
	return hit(o.file, o.off, o.length)
}

// verify takes DIR STATE and compares the files in DIR with what exercise saved.
func verify(args []string) error {
	e, err := newVerifier(args[0], args[1])
	if err != nil {
		return err
	}
	for n, f := range e.files {
		if err := errors.Join(e.compare(n), f.close()); err != nil {
			return fmt.Errorf("after a new start: %w", err)
		}
	}
	return nil
}

func newVerifier(dir, state string) (*exerciser, error) {
	var models [2]*content
	if err := load(state, &models); err != nil {
		return nil, err
	}
	e := &exerciser{buffer: make([]byte, 2<<20), want: make([]byte, 2<<20)}
	for n := range e.files {
		e.files[n] = &openFile{path: fmt.Sprint(dir, "/file", n), model: models[n]}
		if err := e.files[n].open(0); err != nil {
			return nil, err
		}
	}
	return e, nil
}
