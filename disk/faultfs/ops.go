package faultfs

import (
	"errors"
	"io/fs"
	"maps"
	"path"
	"slices"
	"syscall"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// Kind of a call.
type Kind uint8

// The kinds of calls that hooks see.
const (
	Create Kind = iota
	Mkdir
	Open
	Read
	Write
	Punch
	Sync    // of a file
	SyncDir // of a directory
	Rename
	Remove
	kinds
)

var kindNames = [kinds]string{"create", "mkdir", "open", "read", "write", "punch", "sync", "syncdir", "rename", "remove"}

func (k Kind) String() string { return kindNames[k] }

// Op is one call of the disk.
type Op struct {
	Kind  Kind
	Path  string
	Off   int64
	Len   int
	Call  int64 // which of all calls this is, from 1
	Sync  int64 // which of all syncs this is, from 1; of others, how many there were
	Grows bool  // it needs space that is not allocated yet
	Part  int   // of a Write: how many bytes to do before the error; Len if there is none

	file *file
	undo *undo
}

// Base is the last part of the path.
func (o *Op) Base() string { return path.Base(o.Path) }

// Hooks watch the calls of a disk and may fail them. They are called without a lock, from every goroutine that uses the disk.
type Hooks struct {
	// Before may return the call's error: nothing is done then, but the first Part bytes of a write, and what a failed sync does.
	// ErrPretend answers success and does nothing.
	Before func(*Op) error
	// After is called when the call is done and not yet answered.
	After func(*Op)
}

// ErrPretend is for Hooks.Before.
var ErrPretend = errors.New("pretend that it was done")

// Watch sets the hooks; nil: none.
func (f *FS) Watch(h *Hooks) { f.hooks.Store(h) }

// Calls and syncs so far.
func (f *FS) Calls() (calls, syncs int64) { return f.calls.Load(), f.syncs.Load() }

// before counts a call and asks the hook.
func (f *FS) before(op *Op) error {
	op.Call = f.calls.Add(1)
	if op.Kind == Sync || op.Kind == SyncDir {
		op.Sync = f.syncs.Add(1)
	} else {
		op.Sync = f.syncs.Load()
	}
	op.Part = op.Len
	h := f.hooks.Load()
	if h == nil || h.Before == nil {
		return nil
	}
	if op.Kind == Write {
		f.mu.RLock()
		op.Grows = op.file.n.grows(op.Off, op.Len)
		f.mu.RUnlock()
	}
	return h.Before(op)
}

// do runs a call that changes the disk, with the hooks around it.
func (f *FS) do(op Op, run func(*Op) error) error {
	err := f.before(&op)
	if errors.Is(err, ErrPretend) {
		return nil
	}
	f.mu.Lock()
	if err != nil {
		switch op.Kind {
		case Sync, SyncDir:
			f.syncFailed(op.file.n)
		case Write:
			if op.Part < op.Len {
				err = errors.Join(err, run(&op))
			}
		}
		f.mu.Unlock()
		return err
	}
	err = run(&op)
	f.mu.Unlock()
	if h := f.hooks.Load(); err == nil && h != nil && h.After != nil {
		h.After(&op)
	}
	return err
}

// Limit makes the disk full at so many bytes; 0: never.
func (f *FS) Limit(bytes int64) {
	f.mu.Lock()
	f.limit = bytes / pageSize
	f.mu.Unlock()
}

// Used is how many bytes are allocated.
func (f *FS) Used() int64 {
	f.mu.RLock()
	defer f.mu.RUnlock()
	return f.used * pageSize
}

// GetDiskUsage tells limit and use, if there is a limit.
func (f *FS) GetDiskUsage(string) (vfs.DiskUsage, error) {
	f.mu.RLock()
	defer f.mu.RUnlock()
	if f.limit == 0 {
		return vfs.DiskUsage{}, vfs.ErrUnsupported
	}
	return vfs.DiskUsage{AvailBytes: uint64(max(0, f.limit-f.used)) * pageSize, TotalBytes: uint64(f.limit) * pageSize,
		UsedBytes: uint64(f.used) * pageSize}, nil
}

// Flip turns one bit of a file over, on the disk and in the cache.
func (f *FS) Flip(name string, off int64, bit uint) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	n := f.find(name)
	if n == nil || n.isDir() || off < 0 || off >= n.size {
		return pathError("flip", name, fs.ErrNotExist)
	}
	i := int(off / pageSize)
	flip := func(pages []*page) {
		if i >= len(pages) {
			return
		}
		fresh := new(page)
		if pages[i] != nil {
			*fresh = *pages[i]
		}
		fresh[off%pageSize] ^= 1 << (bit % 8)
		pages[i] = fresh
	}
	same := i < len(n.disk) && i < len(n.now) && n.disk[i] == n.now[i]
	if i >= len(n.now) {
		return pathError("flip", name, syscall.EINVAL)
	}
	flip(n.now)
	if same {
		n.disk[i] = n.now[i]
	} else {
		flip(n.disk)
	}
	return nil
}

// List returns the names in a directory.
func (f *FS) List(dir string) ([]string, error) {
	f.mu.RLock()
	defer f.mu.RUnlock()
	n := f.find(dir)
	if n == nil || !n.isDir() {
		return nil, pathError("list", dir, fs.ErrNotExist)
	}
	return slices.Sorted(maps.Keys(n.names)), nil
}

// Stat describes a file.
func (f *FS) Stat(name string) (vfs.FileInfo, error) {
	f.mu.RLock()
	defer f.mu.RUnlock()
	n := f.find(name)
	if n == nil {
		return nil, pathError("stat", name, fs.ErrNotExist)
	}
	return info{path.Base(name), n.size, n.isDir()}, nil
}

// PathBase is path.Base.
func (f *FS) PathBase(p string) string { return path.Base(p) }

// PathJoin is path.Join.
func (f *FS) PathJoin(elem ...string) string { return path.Join(elem...) }

// PathDir is path.Dir.
func (f *FS) PathDir(p string) string { return path.Dir(p) }

// Unwrap is nil: nothing is below.
func (f *FS) Unwrap() vfs.FS { return nil }
