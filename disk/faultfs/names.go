package faultfs

import (
	"cmp"
	"io"
	"io/fs"
	"maps"
	"path"
	"slices"
	"syscall"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/remora-storage/remora/disk"
)

// Link gives a file a second name.
func (f *FS) Link(from, to string) error {
	return f.do(Op{Kind: Rename, Path: to, Grows: true}, func(*Op) error {
		n := f.find(from)
		dir, base, err := f.parent(to)
		if n == nil || err != nil {
			return pathError("link", from, fs.ErrNotExist)
		}
		if dir.names[base] != nil {
			return pathError("link", to, fs.ErrExist)
		}
		n.links++
		f.put(dir, base, n, "")
		return nil
	})
}

// Remove removes a file or an empty directory.
func (f *FS) Remove(name string) error {
	return f.do(Op{Kind: Remove, Path: name}, func(*Op) error {
		dir, base, err := f.parent(name)
		if err != nil || dir.names[base] == nil {
			return pathError("remove", name, fs.ErrNotExist)
		}
		n := dir.names[base]
		if len(n.names) > 0 {
			return pathError("remove", name, syscall.ENOTEMPTY)
		}
		f.put(dir, base, nil, "")
		f.unlink(n)
		return nil
	})
}

// RemoveAll removes what is there.
func (f *FS) RemoveAll(name string) error {
	f.mu.RLock()
	n := f.find(name)
	var below []string
	if n != nil {
		below = slices.Sorted(maps.Keys(n.names))
	}
	f.mu.RUnlock()
	if n == nil {
		return nil
	}
	for _, b := range below {
		if err := f.RemoveAll(path.Join(name, b)); err != nil {
			return err
		}
	}
	return f.Remove(name)
}

// Rename renames, over what has the new name.
func (f *FS) Rename(from, to string) error {
	return f.do(Op{Kind: Rename, Path: to}, func(*Op) error {
		fromDir, a, err := f.parent(from)
		toDir, b, err2 := f.parent(to)
		if err = cmp.Or(err, err2); err != nil || fromDir.names[a] == nil {
			return pathError("rename", from, fs.ErrNotExist)
		}
		n, old := fromDir.names[a], toDir.names[b]
		if n == old {
			return nil
		}
		if fromDir == toDir {
			f.put(toDir, b, n, a)
		} else {
			f.put(toDir, b, n, "")
			f.put(fromDir, a, nil, "")
		}
		f.unlink(old)
		return nil
	})
}

// ReuseForWrite renames a file and opens it for writing.
func (f *FS) ReuseForWrite(from, to string, _ vfs.DiskWriteCategory) (vfs.File, error) {
	if err := f.Rename(from, to); err != nil {
		return nil, err
	}
	return asFile(f.openExisting(to, true))
}

// Lock keeps others out. The lock is gone in an image.
func (f *FS) Lock(name string) (io.Closer, error) {
	f.mu.Lock()
	taken := f.locks[name]
	f.locks[name] = true
	f.mu.Unlock()
	if taken {
		return nil, pathError("lock", name, syscall.EAGAIN)
	}
	file, err := f.OpenReadWrite(name, disk.Category)
	if err != nil {
		f.unlock(name)
		return nil, err
	}
	return &lock{f, name, file}, nil
}

func (f *FS) unlock(name string) {
	f.mu.Lock()
	delete(f.locks, name)
	f.mu.Unlock()
}

type lock struct {
	fs   *FS
	name string
	file vfs.File
}

func (l *lock) Close() error {
	l.fs.unlock(l.name)
	return l.file.Close()
}
