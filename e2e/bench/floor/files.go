package floor

import (
	"syscall"

	"github.com/hanwen/go-fuse/v2/fuse"
)

// Read copies into the worker's buffer, as the sidecar does.
func (fs *fileSystem) Read(_ <-chan struct{}, in *fuse.ReadIn, buf []byte) (fuse.ReadResult, fuse.Status) {
	return fuse.ReadResultData(buf[:fs.node(in.NodeId).read(buf, in.Offset)]), fuse.OK
}

func (fs *fileSystem) Write(_ <-chan struct{}, in *fuse.WriteIn, data []byte) (uint32, fuse.Status) {
	fs.node(in.NodeId).write(data, in.Offset)
	return uint32(len(data)), fuse.ToStatus(fs.journal.append(data))
}

func (fs *fileSystem) Fallocate(_ <-chan struct{}, in *fuse.FallocateIn) fuse.Status {
	if in.Mode != 0 {
		return fuse.Status(syscall.EOPNOTSUPP)
	}
	n := fs.node(in.NodeId)
	n.mu.Lock()
	defer n.mu.Unlock()
	if end := in.Offset + in.Length; end > n.attr.Size {
		n.truncate(end)
	}
	return fs.changed()
}

func (fs *fileSystem) Open(<-chan struct{}, *fuse.OpenIn, *fuse.OpenOut) fuse.Status {
	return fuse.ENOSYS
}

func (fs *fileSystem) OpenDir(<-chan struct{}, *fuse.OpenIn, *fuse.OpenOut) fuse.Status {
	return fuse.ENOSYS
}

func (fs *fileSystem) Flush(<-chan struct{}, *fuse.FlushIn) fuse.Status { return fuse.ENOSYS }

func (fs *fileSystem) Fsync(<-chan struct{}, *fuse.FsyncIn) fuse.Status {
	return fuse.ToStatus(fs.journal.sync())
}

func (fs *fileSystem) FsyncDir(<-chan struct{}, *fuse.FsyncIn) fuse.Status {
	return fuse.ToStatus(fs.journal.sync())
}

// GetXAttr: there are none, but the kernel goes on asking for security.capability, as it does with a file system that has some.
func (fs *fileSystem) GetXAttr(<-chan struct{}, *fuse.InHeader, string, []byte) (uint32, fuse.Status) {
	return 0, fuse.ENODATA
}

func (fs *fileSystem) ReadDir(_ <-chan struct{}, in *fuse.ReadIn, out *fuse.DirEntryList) fuse.Status {
	fs.list(in, func(e *entry, cookie uint64) bool { return out.AddDirEntry(dirEntry(e, cookie)) })
	return fuse.OK
}

func (fs *fileSystem) ReadDirPlus(_ <-chan struct{}, in *fuse.ReadIn, out *fuse.DirEntryList) fuse.Status {
	fs.list(in, func(e *entry, cookie uint64) bool {
		filled := out.AddDirLookupEntry(dirEntry(e, cookie))
		if filled != nil {
			fillEntry(e.node, filled)
		}
		return filled != nil
	})
	return fuse.OK
}

func dirEntry(e *entry, cookie uint64) fuse.DirEntry {
	e.node.mu.RLock()
	defer e.node.mu.RUnlock()
	return fuse.DirEntry{Mode: e.node.attr.Mode, Name: e.name, Ino: e.node.attr.Ino, Off: cookie}
}

// list calls add with the names behind the cookie that the kernel has, until it says no. "." and ".." are left out, as in Remora.
func (fs *fileSystem) list(in *fuse.ReadIn, add func(*entry, uint64) bool) {
	fs.mu.RLock()
	defer fs.mu.RUnlock()
	listed := fs.nodes[in.NodeId].listed
	for i := min(in.Offset, uint64(len(listed))); i < uint64(len(listed)); i++ {
		if listed[i].node != nil && !add(listed[i], i+1) {
			return
		}
	}
}

func (fs *fileSystem) StatFs(_ <-chan struct{}, _ *fuse.InHeader, out *fuse.StatfsOut) fuse.Status {
	*out = fuse.StatfsOut{Blocks: 2 << 20, Bfree: 2 << 20, Bavail: 2 << 20, Files: 1 << 20, Ffree: 1 << 20, Bsize: 4096, Frsize: 4096, NameLen: 255}
	return fuse.OK
}
