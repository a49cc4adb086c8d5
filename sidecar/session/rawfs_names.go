package session

import (
	"context"
	"syscall"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"

	"github.com/remora-storage/remora/cachefs"
	"github.com/remora-storage/remora/cachefs/meta"
)

// cacheTime is how long the kernel may believe names and attributes. There is one writer, and it is this mount: for ever.
const cacheTime = 365 * 24 * time.Hour

func fillAttr(a *cachefs.Attr, out *fuse.Attr) {
	*out = fuse.Attr{
		Ino: uint64(a.Ino), Size: a.Size, Blocks: a.Blocks * 8, Mode: a.Mode, Nlink: a.Nlink, Rdev: a.Rdev, Blksize: 4096,
		Atime: uint64(a.Atime.Sec), Mtime: uint64(a.Mtime.Sec), Ctime: uint64(a.Ctime.Sec),
		Atimensec: a.Atime.Nsec, Mtimensec: a.Mtime.Nsec, Ctimensec: a.Ctime.Nsec,
		Owner: fuse.Owner{Uid: a.UID, Gid: a.GID},
	}
	if a.Flags&meta.FlagInline != 0 {
		out.Blocks = (a.Size + 511) / 512
	}
}

func fillEntry(a *cachefs.Attr, out *fuse.EntryOut) {
	out.NodeId, out.Generation = uint64(a.Ino), 1
	out.SetEntryTimeout(cacheTime)
	out.SetAttrTimeout(cacheTime)
	fillAttr(a, &out.Attr)
}

// Lookup answers "no such name" as a name of inode 0, which the kernel remembers.
func (w *worker) Lookup(_ <-chan struct{}, h *fuse.InHeader, name string, out *fuse.EntryOut) fuse.Status {
	a, err := w.fs.Lookup(meta.Ino(h.NodeId), name)
	status := w.status(err)
	switch status {
	case fuse.OK:
		fillEntry(&a, out)
	case fuse.ENOENT:
		out.NodeId = 0
		out.SetEntryTimeout(cacheTime)
		return fuse.OK
	}
	return status
}

func (w *worker) Forget(node, n uint64) { w.fs.Forget(meta.Ino(node), n) }

// create is what all calls that make an inode share.
func (w *worker) create(parent uint64, name string, n cachefs.Node, out *fuse.EntryOut) fuse.Status {
	a, err := w.firstEntry(func() (cachefs.Attr, error) {
		if err := w.fs.Admit(); err != nil {
			return cachefs.Attr{}, err
		}
		return w.fs.Create(&w.caller, meta.Ino(parent), name, n)
	})
	if err == nil {
		fillEntry(&a, out)
	}
	return w.status(err)
}

// firstEntry answers a re-sent request with the inode that its first run made, and runs any other.
func (w *worker) firstEntry(run func() (cachefs.Attr, error)) (cachefs.Attr, error) {
	b, ok := w.first()
	if !ok {
		return run()
	}
	ino, ok := cachefs.AnswerIno(b)
	if !ok {
		return cachefs.Attr{}, syscall.EIO
	}
	a, err := w.fs.Attr(ino)
	if err == nil {
		w.fs.Remembered(ino)
	}
	return a, err
}

// once runs a change without an answer, unless it is re-sent and had its effect already.
func (w *worker) once(run func() error) fuse.Status {
	if _, ok := w.first(); ok {
		return fuse.OK
	}
	if err := w.fs.Admit(); err != nil {
		return w.status(err)
	}
	return w.status(run())
}

// umask is what the kernel has left to us: all of it if it was told not to take it off.
func (w *worker) umask(of uint32) uint32 {
	if w.s.flags&fuse.CAP_DONT_MASK == 0 {
		return 0
	}
	return of
}

func (w *worker) regular(in *fuse.CreateIn) cachefs.Node {
	return cachefs.Node{Mode: in.Mode&0o7777 | syscall.S_IFREG, Umask: w.umask(in.Umask)}
}

func (w *worker) Mknod(_ <-chan struct{}, in *fuse.MknodIn, name string, out *fuse.EntryOut) fuse.Status {
	return w.create(in.NodeId, name, cachefs.Node{Mode: in.Mode, Umask: w.umask(in.Umask), Rdev: in.Rdev}, out)
}

func (w *worker) Mkdir(_ <-chan struct{}, in *fuse.MkdirIn, name string, out *fuse.EntryOut) fuse.Status {
	return w.create(in.NodeId, name, cachefs.Node{Mode: in.Mode&0o7777 | syscall.S_IFDIR, Umask: w.umask(in.Umask)}, out)
}

func (w *worker) Symlink(_ <-chan struct{}, h *fuse.InHeader, target, name string, out *fuse.EntryOut) fuse.Status {
	if len(target) > cachefs.MaxSymlink {
		return fuse.Status(syscall.ENAMETOOLONG)
	}
	return w.create(h.NodeId, name, cachefs.Node{Mode: syscall.S_IFLNK | 0o777, Target: target}, out)
}

func (w *worker) Create(_ <-chan struct{}, in *fuse.CreateIn, name string, out *fuse.CreateOut) fuse.Status {
	out.OpenOut = fuse.OpenOut{OpenFlags: fuse.FOPEN_KEEP_CACHE}
	return w.create(in.NodeId, name, w.regular(in), &out.EntryOut)
}

func (w *worker) Tmpfile(_ <-chan struct{}, in *fuse.CreateIn, out *fuse.CreateOut) fuse.Status {
	out.OpenOut = fuse.OpenOut{OpenFlags: fuse.FOPEN_KEEP_CACHE}
	a, err := w.firstEntry(func() (cachefs.Attr, error) {
		if err := w.fs.Admit(); err != nil {
			return cachefs.Attr{}, err
		}
		return w.fs.Tmpfile(&w.caller, meta.Ino(in.NodeId), w.regular(in))
	})
	if err == nil {
		fillEntry(&a, &out.EntryOut)
	}
	return w.status(err)
}

func (w *worker) Link(_ <-chan struct{}, in *fuse.LinkIn, name string, out *fuse.EntryOut) fuse.Status {
	a, err := w.firstEntry(func() (cachefs.Attr, error) {
		if err := w.fs.Admit(); err != nil {
			return cachefs.Attr{}, err
		}
		return w.fs.Link(&w.caller, meta.Ino(in.Oldnodeid), meta.Ino(in.NodeId), name)
	})
	if err == nil {
		fillEntry(&a, out)
	}
	return w.status(err)
}

func (w *worker) Unlink(_ <-chan struct{}, h *fuse.InHeader, name string) fuse.Status {
	return w.once(func() error { return w.fs.Unlink(&w.caller, meta.Ino(h.NodeId), name) })
}

func (w *worker) Rmdir(_ <-chan struct{}, h *fuse.InHeader, name string) fuse.Status {
	return w.once(func() error { return w.fs.Rmdir(&w.caller, meta.Ino(h.NodeId), name) })
}

func (w *worker) Rename(_ <-chan struct{}, in *fuse.RenameIn, name, newName string) fuse.Status {
	return w.once(func() error {
		return w.fs.Rename(&w.caller, meta.Ino(in.NodeId), name, meta.Ino(in.Newdir), newName, in.Flags)
	})
}

func (w *worker) Readlink(_ <-chan struct{}, h *fuse.InHeader) ([]byte, fuse.Status) {
	b, err := w.fs.Readlink(meta.Ino(h.NodeId))
	return b, w.status(err)
}

// OpenDir is never asked again after ENOSYS (NO_OPENDIR_SUPPORT): handles carry no state, and the kernel may keep what it has read.
func (w *worker) OpenDir(<-chan struct{}, *fuse.OpenIn, *fuse.OpenOut) fuse.Status {
	return fuse.ENOSYS
}

func (w *worker) ReadDir(_ <-chan struct{}, in *fuse.ReadIn, out *fuse.DirEntryList) fuse.Status {
	return w.status(w.fs.ReadDir(meta.Ino(in.NodeId), in.Offset, func(e meta.CookieEntry) bool {
		return out.AddDirEntry(dirEntry(e))
	}))
}

func (w *worker) ReadDirPlus(_ <-chan struct{}, in *fuse.ReadIn, out *fuse.DirEntryList) fuse.Status {
	return w.status(w.fs.ReadDirAttr(meta.Ino(in.NodeId), in.Offset, func(e meta.CookieEntry, a *cachefs.Attr) bool {
		entry := out.AddDirLookupEntry(dirEntry(e))
		if entry != nil && a != nil {
			fillEntry(a, entry)
			w.fs.Remembered(a.Ino)
		}
		return entry != nil
	}))
}

func dirEntry(e meta.CookieEntry) fuse.DirEntry {
	return fuse.DirEntry{Mode: uint32(e.Type) << 12, Name: e.Name, Ino: uint64(e.Ino), Off: e.Cookie}
}

func (w *worker) FsyncDir(<-chan struct{}, *fuse.FsyncIn) fuse.Status { return w.sync() }

func (w *worker) sync() fuse.Status { return w.status(w.fs.Sync(context.Background(), &w.caller)) }
