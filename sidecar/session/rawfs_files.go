package session

import (
	"math"
	"syscall"

	"github.com/hanwen/go-fuse/v2/fuse"

	"github.com/remora-storage/remora/cachefs"
	"github.com/remora-storage/remora/cachefs/meta"
	"github.com/remora-storage/remora/cachefs/record"
)

// Flags of requests that go-fuse does not export (linux/fuse.h).
const (
	writeKillSuidgid = 1 << 2
	attrKillSuidgid  = 1 << 11
)

func (w *worker) attr(a *cachefs.Attr, err error, out *fuse.AttrOut) fuse.Status {
	if err == nil {
		out.SetTimeout(cacheTime)
		fillAttr(a, &out.Attr)
	}
	return w.status(err)
}

func (w *worker) GetAttr(_ <-chan struct{}, in *fuse.GetAttrIn, out *fuse.AttrOut) fuse.Status {
	a, err := w.fs.Attr(meta.Ino(in.NodeId))
	return w.attr(&a, err, out)
}

func (w *worker) SetAttr(_ <-chan struct{}, in *fuse.SetAttrIn, out *fuse.AttrOut) fuse.Status {
	ino := meta.Ino(in.NodeId)
	if _, ok := w.first(); ok {
		a, err := w.fs.Attr(ino)
		return w.attr(&a, err, out)
	}
	if err := w.fs.Admit(); err != nil {
		return w.status(err)
	}
	a, err := w.fs.SetAttr(&w.caller, ino, setAttr(in))
	return w.attr(&a, err, out)
}

func setAttr(in *fuse.SetAttrIn) cachefs.SetAttr {
	has := func(f uint32) bool { return in.Valid&f != 0 }
	s := cachefs.SetAttr{
		AtimeNow: has(fuse.FATTR_ATIME_NOW),
		// A truncate sets the time even where the size stays, and the kernel leaves that to us.
		MtimeNow: has(fuse.FATTR_MTIME_NOW) || has(fuse.FATTR_SIZE) && !has(fuse.FATTR_MTIME),
		// A change of the owner always takes the bits away; a chmod in the same call says what they are.
		KillSuidGid: has(attrKillSuidgid) || has(fuse.FATTR_UID|fuse.FATTR_GID) && !has(fuse.FATTR_MODE),
	}
	if has(fuse.FATTR_MODE) {
		s.Mode = &in.Mode
	}
	if has(fuse.FATTR_UID) {
		s.UID = &in.Owner.Uid
	}
	if has(fuse.FATTR_GID) {
		s.GID = &in.Owner.Gid
	}
	if has(fuse.FATTR_SIZE) {
		s.Size = &in.Size
	}
	if has(fuse.FATTR_ATIME) {
		s.Atime = &meta.Time{Sec: int64(in.Atime), Nsec: in.Atimensec}
	}
	if has(fuse.FATTR_MTIME) {
		s.Mtime = &meta.Time{Sec: int64(in.Mtime), Nsec: in.Mtimensec}
	}
	if has(fuse.FATTR_CTIME) {
		s.Ctime = &meta.Time{Sec: int64(in.Ctime), Nsec: in.Ctimensec}
	}
	return s
}

// Open is never asked again after ENOSYS (NO_OPEN_SUPPORT): handles carry no state, and the kernel keeps what it has read.
func (w *worker) Open(<-chan struct{}, *fuse.OpenIn, *fuse.OpenOut) fuse.Status { return fuse.ENOSYS }

// Flush has nothing to do: writes are in the journal already. After ENOSYS the kernel does not ask again.
func (w *worker) Flush(<-chan struct{}, *fuse.FlushIn) fuse.Status { return fuse.ENOSYS }

func (w *worker) Fsync(<-chan struct{}, *fuse.FsyncIn) fuse.Status { return w.sync() }

func (w *worker) Read(_ <-chan struct{}, in *fuse.ReadIn, buf []byte) (fuse.ReadResult, fuse.Status) {
	w.caller.IO.SetRange(int64(in.Offset), int(in.Size))
	n, err := w.fs.Read(&w.caller, meta.Ino(in.NodeId), in.Offset, buf)
	if err != nil {
		return nil, w.status(err)
	}
	return fuse.ReadResultData(buf[:n]), fuse.OK
}

func (w *worker) Write(_ <-chan struct{}, in *fuse.WriteIn, data []byte) (uint32, fuse.Status) {
	w.caller.IO.SetRange(int64(in.Offset), len(data))
	defer w.demote(in.NodeId)
	if b, ok := w.first(); ok {
		return uint32(cachefs.AnswerSize(b, len(data))), fuse.OK
	}
	if err := w.fs.Admit(); err != nil {
		return 0, w.status(err)
	}
	n, err := w.fs.Write(&w.caller, meta.Ino(in.NodeId), in.Offset, data, in.WriteFlags&writeKillSuidgid != 0)
	return uint32(n), w.status(err)
}

// demote makes the kernel ask for a file's mode again after a change that took set-ID bits away, before that change is answered: it keeps
// the mode that it knows otherwise, and would start the program that somebody has just changed with its owner's rights (Linux 6.18). An
// earlier process may have died before it came to that.
func (w *worker) demote(node uint64) {
	if w.caller.Demoted || w.resent {
		_ = w.s.known(meta.Ino(node)) // asks the kernel to look again
	}
}

func (w *worker) Fallocate(_ <-chan struct{}, in *fuse.FallocateIn) fuse.Status {
	w.caller.IO.SetRange(int64(in.Offset), int(in.Length))
	defer w.demote(in.NodeId)
	return w.once(func() error {
		return w.fs.Fallocate(&w.caller, meta.Ino(in.NodeId), in.Mode, in.Offset, in.Length)
	})
}

func (w *worker) CopyFileRange(_ <-chan struct{}, in *fuse.CopyFileRangeIn) (uint32, fuse.Status) {
	w.caller.IO.SetRange(int64(in.OffIn), int(in.Len))
	asked := int(min(in.Len, math.MaxInt32))
	defer w.demote(in.NodeIdOut)
	if b, ok := w.first(); ok {
		return uint32(cachefs.AnswerSize(b, asked)), fuse.OK
	}
	if err := w.fs.Admit(); err != nil {
		return 0, w.status(err)
	}
	n, err := w.fs.CopyRange(&w.caller, meta.Ino(in.NodeId), in.OffIn, meta.Ino(in.NodeIdOut), in.OffOut, uint64(asked))
	return uint32(n), w.status(err)
}

func (w *worker) Lseek(_ <-chan struct{}, in *fuse.LseekIn, out *fuse.LseekOut) fuse.Status {
	off, err := w.fs.Seek(meta.Ino(in.NodeId), in.Offset, in.Whence)
	out.Offset = off
	return w.status(err)
}

func (w *worker) StatFs(_ <-chan struct{}, _ *fuse.InHeader, out *fuse.StatfsOut) fuse.Status {
	s := w.fs.Statfs()
	free := (s.Size - min(s.Used, s.Size)) / record.BlockSize
	*out = fuse.StatfsOut{Blocks: s.Size / record.BlockSize, Bfree: free, Bavail: s.Avail / record.BlockSize, Files: s.Inodes, Ffree: s.Inodes - min(s.Files, s.Inodes),
		Bsize: record.BlockSize, Frsize: record.BlockSize, NameLen: cachefs.MaxName}
	return fuse.OK
}

func (w *worker) GetXAttr(_ <-chan struct{}, h *fuse.InHeader, name string, dst []byte) (uint32, fuse.Status) {
	b, err := w.fs.GetXattr(meta.Ino(h.NodeId), name)
	return w.xattr(b, err, dst)
}

func (w *worker) xattr(b []byte, err error, dst []byte) (uint32, fuse.Status) {
	if err != nil {
		return 0, w.status(err)
	}
	if len(dst) < len(b) {
		return uint32(len(b)), fuse.ERANGE
	}
	return uint32(copy(dst, b)), fuse.OK
}

func (w *worker) ListXAttr(_ <-chan struct{}, h *fuse.InHeader, dst []byte) (uint32, fuse.Status) {
	names, err := w.fs.ListXattr(meta.Ino(h.NodeId))
	var b []byte
	for _, n := range names {
		b = append(append(b, n...), 0)
	}
	return w.xattr(b, err, dst)
}

func (w *worker) SetXAttr(_ <-chan struct{}, in *fuse.SetXAttrIn, name string, data []byte) fuse.Status {
	if w.refusedACL(name) {
		return fuse.Status(syscall.EOPNOTSUPP)
	}
	flags := in.Flags
	if w.s.flags&fuse.CAP_SETXATTR_EXT != 0 && in.SetXAttrFlags&fuse.SETXATTR_ACL_KILL_SGID != 0 {
		flags |= cachefs.XattrKillSgid
	}
	return w.once(func() error { return w.fs.SetXattr(&w.caller, meta.Ino(in.NodeId), name, data, flags) })
}

func (w *worker) RemoveXAttr(_ <-chan struct{}, h *fuse.InHeader, name string) fuse.Status {
	if w.refusedACL(name) {
		return fuse.Status(syscall.EOPNOTSUPP)
	}
	return w.once(func() error { return w.fs.RemoveXattr(&w.caller, meta.Ino(h.NodeId), name) })
}

// refusedACL: an ACL that nobody enforces must not be taken, as on a connection that was negotiated without ACLs.
func (w *worker) refusedACL(name string) bool {
	return (name == meta.XattrAccessACL || name == meta.XattrDefaultACL) && w.s.flags&fuse.CAP_POSIX_ACL == 0
}
