package fsx

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// perform does an operation to a file and to its model.
func (e *exerciser) perform(o operation) error {
	switch f := e.files[o.file]; o.kind {
	case opOpenTruncate:
		return f.openTruncate()
	case opCopy:
		return e.copy(f, e.files[o.to], o)
	case opReopen:
		return errors.Join(f.unmap(), f.close(), f.open(0))
	case opSeek:
		return e.seek(f, o)
	case opCompare:
		return e.compare(o.file)
	default:
		return e.performOn(f, o)
	}
}

// performOn does an operation that others may do to the same file at the same time.
func (e *exerciser) performOn(f *openFile, o operation) error {
	switch o.kind {
	case opRead:
		return e.same(f, f.buffered, o.off, o.length, "read")
	case opDirectRead:
		return e.same(f, f.direct, o.off, o.length, "direct read")
	case opWrite, opDirectWrite, opAppend:
		return e.write(f, o)
	case opTruncate:
		f.model.truncate(o.off)
		return wrap("ftruncate", unix.Ftruncate(f.buffered, o.off))
	case opMapRead, opMapWrite:
		return e.mapped(f, o)
	case opAllocate, opAllocateKeep, opPunch, opZero, opZeroKeep, opCollapse, opInsert:
		return e.allocate(f, o)
	case opSync:
		return wrap("fsync", unix.Fsync(f.buffered))
	case opDataSync:
		return wrap("fdatasync", unix.Fdatasync(f.buffered))
	case opDrop:
		return f.drop()
	default:
		panic(o.kind)
	}
}

func (f *openFile) openTruncate() error {
	f.model.truncate(0)
	fd, err := unix.Open(f.path, unix.O_RDWR|unix.O_TRUNC|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open with O_TRUNC: %w", err)
	}
	return unix.Close(fd)
}

func wrap(what string, err error) error {
	if err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	return nil
}

// drop gives back the file's clean pages, so that the next read asks the sidecar.
func (f *openFile) drop() error {
	return wrap("fadvise", unix.Fadvise(f.buffered, 0, 0, unix.FADV_DONTNEED))
}

func (e *exerciser) write(f *openFile, o operation) error {
	b := e.buffer[:o.length]
	fill(b, o.off, o.n, o.file)
	f.model.write(o.off, b)
	var n int
	var err error
	switch o.kind {
	case opWrite:
		n, err = unix.Pwrite(f.buffered, b, o.off)
	case opDirectWrite:
		n, err = unix.Pwrite(f.direct, b, o.off)
	default:
		n, err = unix.Write(f.append, b)
	}
	if err != nil || n != len(b) {
		return fmt.Errorf("%v: wrote %d of %d bytes: %w", o.kind, n, len(b), err)
	}
	return nil
}

// mapped reads or writes through a shared map. Half of the written ones stay, with pages that the kernel writes back when it likes.
func (e *exerciser) mapped(f *openFile, o operation) error {
	from := o.off / pageSize * pageSize
	m, err := unix.Mmap(f.buffered, from, int(o.off-from+o.length), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return fmt.Errorf("mmap: %w", err)
	}
	in := m[o.off-from:]
	if o.kind == opMapRead {
		f.model.read(o.off, e.want[:o.length])
		err = different(f, "map", o.off, in, e.want[:o.length])
		return errors.Join(err, wrap("munmap", unix.Munmap(m)))
	}
	b := e.buffer[:o.length]
	fill(b, o.off, o.n, o.file)
	copy(in, b)
	f.model.write(o.off, b)
	switch o.n % 4 {
	case 0:
		return errors.Join(wrap("msync", unix.Msync(m, unix.MS_SYNC)), wrap("munmap", unix.Munmap(m)))
	case 1:
		return wrap("munmap", unix.Munmap(m))
	}
	old := f.held
	if f.held = m; old != nil {
		return wrap("munmap", unix.Munmap(old))
	}
	return nil
}

func (e *exerciser) allocate(f *openFile, o operation) error {
	end, mode, m := o.off+o.length, uint32(0), f.model
	within := max(o.off, min(end, m.Size)) // a page of which only the part before the end is in the range may stay
	switch o.kind {
	case opAllocateKeep:
		mode = unix.FALLOC_FL_KEEP_SIZE
	case opPunch:
		mode = unix.FALLOC_FL_PUNCH_HOLE | unix.FALLOC_FL_KEEP_SIZE
		m.zero(o.off, within)
	case opZero:
		mode = unix.FALLOC_FL_ZERO_RANGE
		m.zero(o.off, within)
	case opZeroKeep:
		mode = unix.FALLOC_FL_ZERO_RANGE | unix.FALLOC_FL_KEEP_SIZE
		m.zero(o.off, within)
	case opCollapse:
		mode = unix.FALLOC_FL_COLLAPSE_RANGE
		m.collapse(o.off, o.length)
	case opInsert:
		mode = unix.FALLOC_FL_INSERT_RANGE
		m.insert(o.off, o.length)
	}
	if o.kind == opAllocate || o.kind == opZero {
		m.Size = max(m.Size, end)
	}
	return wrap("fallocate", unix.Fallocate(f.buffered, mode, o.off, o.length))
}

// copy has the kernel copy a range, in as many calls as it takes.
func (e *exerciser) copy(from, to *openFile, o operation) error {
	b := e.want[:o.length]
	b = b[:from.model.read(o.off, b)]
	to.model.write(o.at, b)
	in, out := o.off, o.at
	for rest := int(o.length); rest > 0; {
		n, err := unix.CopyFileRange(from.buffered, &in, to.buffered, &out, rest, 0)
		if err != nil {
			return fmt.Errorf("copy_file_range: %w", err)
		}
		if n == 0 {
			break
		}
		rest -= n
	}
	if got := in - o.off; got != int64(len(b)) || out-o.at != got {
		return fmt.Errorf("copy_file_range: copied %d bytes from %#x to %#x, want %d", got, in, out, len(b))
	}
	if e.r.IntN(2) == 0 {
		if err := to.drop(); err != nil {
			return err
		}
	}
	return e.same(to, to.buffered, max(0, o.at-5000), min(o.length+10000, int64(len(e.buffer))), "read back after copy")
}
