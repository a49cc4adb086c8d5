package faultfs

import (
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path"
	"slices"
	"syscall"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// file is an open file or directory.
type file struct {
	fs       *FS
	name     string
	n        *node
	pos      int64
	writable bool
	closed   bool
}

// undo is what a write replaced.
type undo struct {
	n        *node
	off      int64
	len      int
	first    int
	old, put []*page
	size     int64
}

func (f *file) Close() error {
	f.fs.mu.Lock()
	defer f.fs.mu.Unlock()
	if f.closed {
		return pathError("close", f.name, fs.ErrClosed)
	}
	f.closed = true
	f.n.refs--
	f.fs.free(f.n)
	return nil
}

func (f *file) Read(p []byte) (int, error) {
	n, err := f.ReadAt(p, f.pos)
	f.pos += int64(n)
	if n > 0 {
		err = nil
	}
	return n, err
}

func (f *file) ReadAt(p []byte, off int64) (int, error) {
	if err := f.fs.before(&Op{Kind: Read, Path: f.name, Off: off, Len: len(p)}); err != nil {
		return 0, err
	}
	f.fs.mu.RLock()
	defer f.fs.mu.RUnlock()
	switch {
	case f.closed:
		return 0, pathError("read", f.name, fs.ErrClosed)
	case f.n.isDir():
		return 0, pathError("read", f.name, syscall.EISDIR)
	case off >= f.n.size:
		return 0, io.EOF
	}
	n := int(min(int64(len(p)), f.n.size-off))
	for done := 0; done < n; {
		at := off + int64(done)
		i, in := int(at/pageSize), int(at%pageSize)
		k := min(n-done, pageSize-in)
		if i < len(f.n.now) && f.n.now[i] != nil {
			copy(p[done:done+k], f.n.now[i][in:])
		} else {
			clear(p[done : done+k])
		}
		done += k
	}
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

func (f *file) Write(p []byte) (int, error) {
	n, err := f.WriteAt(p, f.pos)
	f.pos += int64(n)
	return n, err
}

func (f *file) WriteAt(p []byte, off int64) (int, error) {
	done := 0
	err := f.fs.do(Op{Kind: Write, Path: f.name, Off: off, Len: len(p), file: f}, func(op *Op) error {
		switch {
		case f.closed:
			return pathError("write", f.name, fs.ErrClosed)
		case !f.writable:
			return pathError("write", f.name, syscall.EBADF)
		}
		done = f.fs.write(f.n, p[:min(len(p), op.Part)], off, op)
		if done < op.Part {
			return pathError("write", f.name, syscall.ENOSPC)
		}
		return nil
	})
	return done, err
}

// grows tells whether a write needs pages that the file has not got.
func (n *node) grows(off int64, length int) bool {
	for i := off / pageSize; i*pageSize < off+int64(length); i++ {
		if int(i) >= len(n.now) || n.now[i] == nil {
			return true
		}
	}
	return false
}

// write writes as much as there is space for. f.mu must be held.
func (f *FS) write(n *node, p []byte, off int64, op *Op) int {
	u := &undo{n: n, off: off, first: int(off / pageSize), size: n.size}
	done := 0
	for done < len(p) {
		at := off + int64(done)
		i, in := int(at/pageSize), int(at%pageSize)
		if i >= len(n.now) {
			n.now = append(n.now, make([]*page, i+1-len(n.now))...)
		}
		old := n.now[i]
		if old == nil {
			if f.limit > 0 && f.used >= f.limit {
				break
			}
			f.used++
		}
		f.writeBack(n, i)
		fresh := new(page)
		if old != nil {
			*fresh = *old
		}
		done += copy(fresh[in:], p[done:])
		n.now[i] = fresh
		n.dirty[i] = true
		u.old, u.put = append(u.old, old), append(u.put, fresh)
	}
	u.len = done
	if end := off + int64(done); end > n.size {
		n.size, n.sizeDirty = end, true
	}
	f.last = u
	if op != nil {
		op.undo = u
	}
	return done
}

// writeBack sometimes writes a dirty page before it changes again: a disk may have any version of it.
func (f *FS) writeBack(n *node, i int) {
	if n.dirty[i] && f.rng.IntN(8) == 0 {
		n.writeOut(i)
	}
}

// writeOut makes a page durable as it is now.
func (n *node) writeOut(i int) {
	if i >= len(n.disk) {
		n.disk = append(n.disk, make([]*page, i+1-len(n.disk))...)
	}
	var p *page
	if i < len(n.now) {
		p = n.now[i]
	}
	n.disk[i] = p
	n.diskSize = max(n.diskSize, min(n.size, int64(i+1)*pageSize))
	delete(n.dirty, i)
}

// PunchHole gives whole pages back and zeroes the ends.
func (f *file) PunchHole(off, length int64) error {
	return f.fs.do(Op{Kind: Punch, Path: f.name, Off: off, Len: int(length)}, func(*Op) error {
		first, last := (off+pageSize-1)/pageSize, min((off+length)/pageSize, int64(len(f.n.now)))
		for i := first; i < last; i++ {
			if f.n.now[i] != nil {
				f.fs.used--
				f.n.now[i] = nil
				f.n.dirty[int(i)] = true
			}
		}
		if off%pageSize != 0 || length%pageSize != 0 {
			return fmt.Errorf("punch hole at %d, %d bytes: whole pages only", off, length)
		}
		return nil
	})
}

// DropCache forgets what is clean in memory: what the disk has is seen again, also where a failed sync has not written it.
func (f *file) DropCache(off, length int64) error {
	f.fs.mu.Lock()
	defer f.fs.mu.Unlock()
	for i := int(off / pageSize); int64(i)*pageSize < off+length && i < len(f.n.now); i++ {
		if f.n.dirty[i] {
			continue
		}
		var have *page
		if i < len(f.n.disk) {
			have = f.n.disk[i]
		}
		switch was := f.n.now[i]; {
		case was == nil && have != nil:
			f.fs.used++
		case was != nil && have == nil:
			f.fs.used--
		}
		f.n.now[i] = have
	}
	return nil
}

func (f *file) Sync() error { return f.sync() }

func (f *file) SyncData() error { return f.sync() }

// SyncTo promises nothing, as vfs allows.
func (f *file) SyncTo(int64) (bool, error) { return false, nil }

func (f *file) sync() error {
	kind := Sync
	if f.n.isDir() {
		kind = SyncDir
	}
	return f.fs.do(Op{Kind: kind, Path: f.name, file: f}, func(*Op) error {
		if f.n.isDir() {
			f.n.diskNames, f.n.pending = maps.Clone(f.n.names), nil
			return nil
		}
		for i := range f.n.dirty {
			f.n.writeOut(i)
		}
		if f.n.sizeDirty {
			f.n.diskSize, f.n.sizeDirty = f.n.size, false
		}
		return nil
	})
}

// syncFailed writes some of the dirty pages and forgets that the others are not written. f.mu must be held.
func (f *FS) syncFailed(n *node) {
	if n.isDir() {
		return
	}
	dirty := slices.Sorted(maps.Keys(n.dirty))
	for _, i := range dirty {
		if f.rng.IntN(3) == 0 {
			n.writeOut(i)
		}
	}
	clear(n.dirty)
	n.sizeDirty = false
}

func (f *file) Stat() (vfs.FileInfo, error) {
	f.fs.mu.RLock()
	defer f.fs.mu.RUnlock()
	return info{path.Base(f.name), f.n.size, f.n.isDir()}, nil
}

func (f *file) Preallocate(int64, int64) error { return nil }

func (f *file) Prefetch(int64, int64) error { return nil }

func (f *file) Fd() uintptr { return vfs.InvalidFd }

// info is a FileInfo.
type info struct {
	name string
	size int64
	dir  bool
}

func (i info) Name() string           { return i.name }
func (i info) Size() int64            { return i.size }
func (i info) IsDir() bool            { return i.dir }
func (i info) ModTime() time.Time     { return time.Time{} }
func (i info) Sys() any               { return nil }
func (i info) DeviceID() vfs.DeviceID { return vfs.DeviceID{} }

func (i info) Mode() os.FileMode {
	if i.dir {
		return os.ModeDir | 0o755
	}
	return 0o644
}
