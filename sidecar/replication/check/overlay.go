package check

import (
	"errors"
	"io"
	"io/fs"
	"path/filepath"
	"sync"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/remora-storage/remora/disk"
)

// overlay is a file system whose writes stay in memory: base is only ever opened for reading, listed and looked at. So the product's
// own code can recover a replica without changing it. Names must be written in one way (no links, no "..").
type overlay struct {
	base disk.FS

	mu    sync.Mutex
	files map[string]*copied // made or changed here
	gone  map[string]bool    // removed here
	dirs  map[string]bool    // made here
}

func newOverlay(base disk.FS) *overlay {
	return &overlay{base: base, files: map[string]*copied{}, gone: map[string]bool{}, dirs: map[string]bool{}}
}

// close gives back the files of base that were copied.
func (o *overlay) close() error {
	o.mu.Lock()
	defer o.mu.Unlock()
	var errs []error
	for _, c := range o.files {
		errs = append(errs, c.close())
	}
	return errors.Join(errs...)
}

func notExist(op, name string) error { return &fs.PathError{Op: op, Path: name, Err: fs.ErrNotExist} }

// find returns the copy of a file, made of base's file if need be.
func (o *overlay) find(op, name string) (*copied, error) {
	if c := o.files[name]; c != nil {
		return c, nil
	}
	if o.gone[name] {
		return nil, notExist(op, name)
	}
	f, err := o.base.Open(name)
	if err != nil {
		return nil, err
	}
	c, err := copyOf(f, o.base.PathBase(name))
	if err == nil {
		o.files[name] = c
	}
	return c, err
}

func (o *overlay) put(name string, c *copied) {
	o.files[name] = c
	delete(o.gone, name)
}

// Create implements vfs.FS.
func (o *overlay) Create(name string, _ vfs.DiskWriteCategory) (vfs.File, error) {
	name = filepath.Clean(name)
	o.mu.Lock()
	defer o.mu.Unlock()
	c := &copied{name: o.base.PathBase(name), pages: map[int64]*page{}}
	o.put(name, c)
	return &handle{copied: c}, nil
}

// Link implements vfs.FS.
func (o *overlay) Link(from, to string) error {
	from, to = filepath.Clean(from), filepath.Clean(to)
	o.mu.Lock()
	defer o.mu.Unlock()
	c, err := o.find("link", from)
	if err == nil {
		o.put(to, c)
	}
	return err
}

// Open implements vfs.FS.
func (o *overlay) Open(name string, opts ...vfs.OpenOption) (vfs.File, error) {
	name = filepath.Clean(name)
	o.mu.Lock()
	defer o.mu.Unlock()
	if c := o.files[name]; c != nil {
		return &handle{copied: c}, nil
	}
	if o.gone[name] {
		return nil, notExist("open", name)
	}
	return o.base.Open(name, opts...)
}

// OpenReadWrite implements vfs.FS.
func (o *overlay) OpenReadWrite(name string, _ vfs.DiskWriteCategory, _ ...vfs.OpenOption) (vfs.File, error) {
	name = filepath.Clean(name)
	o.mu.Lock()
	defer o.mu.Unlock()
	c, err := o.find("open", name)
	if errors.Is(err, fs.ErrNotExist) {
		c, err = &copied{name: o.base.PathBase(name), pages: map[int64]*page{}}, nil
		o.put(name, c)
	}
	if err != nil {
		return nil, err
	}
	return &handle{copied: c}, nil
}

// OpenDir implements vfs.FS.
func (o *overlay) OpenDir(string) (vfs.File, error) {
	return &handle{copied: &copied{pages: map[int64]*page{}}}, nil
}

// Remove implements vfs.FS.
func (o *overlay) Remove(name string) error {
	name = filepath.Clean(name)
	if _, err := o.Stat(name); err != nil {
		return err
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	delete(o.files, name)
	delete(o.dirs, name)
	o.gone[name] = true
	return nil
}

// RemoveAll implements vfs.FS.
func (o *overlay) RemoveAll(string) error { return errors.ErrUnsupported }

// Rename implements vfs.FS.
func (o *overlay) Rename(from, to string) error {
	from, to = filepath.Clean(from), filepath.Clean(to)
	o.mu.Lock()
	defer o.mu.Unlock()
	c, err := o.find("rename", from)
	if err != nil {
		return err
	}
	o.put(to, c)
	delete(o.files, from)
	o.gone[from] = true
	return nil
}

// ReuseForWrite implements vfs.FS.
func (o *overlay) ReuseForWrite(from, to string, category vfs.DiskWriteCategory) (vfs.File, error) {
	if err := o.Rename(from, to); err != nil {
		return nil, err
	}
	return o.OpenReadWrite(to, category)
}

// MkdirAll implements vfs.FS.
func (o *overlay) MkdirAll(dir string, _ fs.FileMode) error {
	dir = filepath.Clean(dir)
	if _, err := o.Stat(dir); err == nil {
		return nil
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	o.dirs[dir] = true
	return nil
}

// Lock implements vfs.FS: nobody else sees this file system.
func (o *overlay) Lock(string) (io.Closer, error) { return io.NopCloser(nil), nil }

// List implements vfs.FS.
func (o *overlay) List(dir string) ([]string, error) {
	dir = filepath.Clean(dir)
	o.mu.Lock()
	defer o.mu.Unlock()
	names, err := o.base.List(dir)
	if err != nil && !o.dirs[dir] {
		return nil, err
	}
	found := map[string]bool{}
	for _, n := range names {
		found[n] = !o.gone[filepath.Join(dir, n)]
	}
	for path := range o.files {
		if filepath.Dir(path) == dir {
			found[filepath.Base(path)] = true
		}
	}
	names = names[:0]
	for n, here := range found {
		if here {
			names = append(names, n)
		}
	}
	return names, nil
}

// Stat implements vfs.FS.
func (o *overlay) Stat(name string) (vfs.FileInfo, error) {
	name = filepath.Clean(name)
	o.mu.Lock()
	defer o.mu.Unlock()
	switch c := o.files[name]; {
	case c != nil:
		return c.info(), nil
	case o.dirs[name]:
		return info{name: filepath.Base(name), mode: fs.ModeDir | 0o700}, nil
	case o.gone[name]:
		return nil, notExist("stat", name)
	}
	return o.base.Stat(name)
}

// PathBase implements vfs.FS.
func (o *overlay) PathBase(path string) string { return o.base.PathBase(path) }

// PathJoin implements vfs.FS.
func (o *overlay) PathJoin(elem ...string) string { return o.base.PathJoin(elem...) }

// PathDir implements vfs.FS.
func (o *overlay) PathDir(path string) string { return o.base.PathDir(path) }

// GetDiskUsage implements vfs.FS.
func (o *overlay) GetDiskUsage(path string) (vfs.DiskUsage, error) { return o.base.GetDiskUsage(path) }

// Unwrap implements vfs.FS.
func (o *overlay) Unwrap() vfs.FS { return nil }
