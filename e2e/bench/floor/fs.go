package floor

import (
	"sync"
	"syscall"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
)

// cacheTime and the answers ENOSYS are those of sidecar/session.
const cacheTime = 365 * 24 * time.Hour

// fileSystem answers from memory. The tree has one lock, each file's content its own.
type fileSystem struct {
	fuse.RawFileSystem // ENOSYS for everything that is not here
	journal            *journal

	mu    sync.RWMutex // names and nodes, attributes of directories; before any node's
	nodes map[uint64]*node
	last  uint64
}

func newFileSystem(j *journal) *fileSystem {
	root := newNode(fuse.FUSE_ROOT_ID, syscall.S_IFDIR|0o755, fuse.Owner{})
	return &fileSystem{
		RawFileSystem: fuse.NewDefaultRawFileSystem(), journal: j,
		nodes: map[uint64]*node{fuse.FUSE_ROOT_ID: root}, last: fuse.FUSE_ROOT_ID,
	}
}

func (fs *fileSystem) node(ino uint64) *node {
	fs.mu.RLock()
	defer fs.mu.RUnlock()
	return fs.nodes[ino]
}

// changed makes a change's record, without content.
func (fs *fileSystem) changed() fuse.Status { return fuse.ToStatus(fs.journal.append(nil)) }

func fillEntry(n *node, out *fuse.EntryOut) {
	out.NodeId, out.Generation = n.attr.Ino, 1
	out.SetEntryTimeout(cacheTime)
	out.SetAttrTimeout(cacheTime)
	n.mu.RLock()
	out.Attr = n.attr
	n.mu.RUnlock()
}

func (fs *fileSystem) Lookup(_ <-chan struct{}, h *fuse.InHeader, name string, out *fuse.EntryOut) fuse.Status {
	fs.mu.RLock()
	defer fs.mu.RUnlock()
	e, ok := fs.nodes[h.NodeId].entries[name]
	if !ok {
		out.NodeId = 0
		out.SetEntryTimeout(cacheTime)
		return fuse.OK
	}
	fillEntry(e.node, out)
	return fuse.OK
}

// Forget comes when the kernel lets an inode go; what has no name then is gone.
func (fs *fileSystem) Forget(ino, _ uint64) {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	if n := fs.nodes[ino]; n != nil && n.attr.Nlink == 0 {
		delete(fs.nodes, ino)
	}
}

func (fs *fileSystem) GetAttr(_ <-chan struct{}, in *fuse.GetAttrIn, out *fuse.AttrOut) fuse.Status {
	fs.mu.RLock()
	defer fs.mu.RUnlock()
	n := fs.nodes[in.NodeId]
	n.mu.RLock()
	defer n.mu.RUnlock()
	out.SetTimeout(cacheTime)
	out.Attr = n.attr
	return fuse.OK
}

func (fs *fileSystem) SetAttr(_ <-chan struct{}, in *fuse.SetAttrIn, out *fuse.AttrOut) fuse.Status {
	fs.mu.RLock()
	defer fs.mu.RUnlock()
	n := fs.nodes[in.NodeId]
	n.mu.Lock()
	defer n.mu.Unlock()
	if mode, ok := in.GetMode(); ok {
		n.attr.Mode = n.attr.Mode&syscall.S_IFMT | mode&0o7777
	}
	if uid, ok := in.GetUID(); ok {
		n.attr.Uid = uid
	}
	if gid, ok := in.GetGID(); ok {
		n.attr.Gid = gid
	}
	if size, ok := in.GetSize(); ok {
		n.truncate(size)
	}
	if t, ok := in.GetMTime(); ok {
		n.attr.Mtime, n.attr.Mtimensec = uint64(t.Unix()), uint32(t.Nanosecond())
	}
	out.SetTimeout(cacheTime)
	out.Attr = n.attr
	return fs.changed()
}

func (fs *fileSystem) create(parent uint64, name string, mode uint32, owner fuse.Owner, out *fuse.EntryOut) (*node, fuse.Status) {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	dir := fs.nodes[parent]
	if _, ok := dir.entries[name]; ok {
		return nil, fuse.Status(syscall.EEXIST)
	}
	fs.last++
	n := newNode(fs.last, mode, owner)
	fs.nodes[fs.last] = n
	dir.add(name, n)
	if n.isDir() {
		dir.attr.Nlink++
	}
	fillEntry(n, out)
	return n, fs.changed()
}

func (fs *fileSystem) Mknod(_ <-chan struct{}, in *fuse.MknodIn, name string, out *fuse.EntryOut) fuse.Status {
	_, status := fs.create(in.NodeId, name, in.Mode, in.Owner, out)
	return status
}

func (fs *fileSystem) Mkdir(_ <-chan struct{}, in *fuse.MkdirIn, name string, out *fuse.EntryOut) fuse.Status {
	_, status := fs.create(in.NodeId, name, in.Mode&0o7777|syscall.S_IFDIR, in.Owner, out)
	return status
}

func (fs *fileSystem) Create(_ <-chan struct{}, in *fuse.CreateIn, name string, out *fuse.CreateOut) fuse.Status {
	out.OpenFlags = fuse.FOPEN_KEEP_CACHE
	_, status := fs.create(in.NodeId, name, in.Mode&0o7777|syscall.S_IFREG, in.Owner, &out.EntryOut)
	return status
}

func (fs *fileSystem) Symlink(_ <-chan struct{}, h *fuse.InHeader, target, name string, out *fuse.EntryOut) fuse.Status {
	n, status := fs.create(h.NodeId, name, syscall.S_IFLNK|0o777, h.Owner, out)
	if n != nil {
		n.target = []byte(target)
	}
	return status
}

func (fs *fileSystem) Readlink(_ <-chan struct{}, h *fuse.InHeader) ([]byte, fuse.Status) {
	return fs.node(h.NodeId).target, fuse.OK
}

func (fs *fileSystem) Link(_ <-chan struct{}, in *fuse.LinkIn, name string, out *fuse.EntryOut) fuse.Status {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	n, dir := fs.nodes[in.Oldnodeid], fs.nodes[in.NodeId]
	if _, ok := dir.entries[name]; ok {
		return fuse.Status(syscall.EEXIST)
	}
	n.mu.Lock()
	n.attr.Nlink++
	n.mu.Unlock()
	dir.add(name, n)
	fillEntry(n, out)
	return fs.changed()
}

func (fs *fileSystem) Unlink(_ <-chan struct{}, h *fuse.InHeader, name string) fuse.Status {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	return fs.drop(fs.nodes[h.NodeId], name)
}

func (fs *fileSystem) Rmdir(_ <-chan struct{}, h *fuse.InHeader, name string) fuse.Status {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	dir := fs.nodes[h.NodeId]
	if e, ok := dir.entries[name]; ok && len(e.node.entries) > 0 {
		return fuse.Status(syscall.ENOTEMPTY)
	}
	return fs.drop(dir, name)
}

// drop removes a name; fs.mu is held. A node without a name is there until the kernel forgets it.
func (fs *fileSystem) drop(dir *node, name string) fuse.Status {
	e, ok := dir.entries[name]
	if !ok {
		return fuse.ENOENT
	}
	n := e.node
	dir.remove(name)
	n.mu.Lock()
	n.attr.Nlink--
	if n.isDir() {
		dir.attr.Nlink--
		n.attr.Nlink = 0
	}
	n.mu.Unlock()
	return fs.changed()
}

func (fs *fileSystem) Rename(_ <-chan struct{}, in *fuse.RenameIn, name, newName string) fuse.Status {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	if in.Flags != 0 {
		return fuse.EINVAL
	}
	from, to := fs.nodes[in.NodeId], fs.nodes[in.Newdir]
	e, ok := from.entries[name]
	if !ok {
		return fuse.ENOENT
	}
	n := e.node
	if old, ok := to.entries[newName]; ok {
		if old.node == n {
			return fuse.OK
		}
		if len(old.node.entries) > 0 {
			return fuse.Status(syscall.ENOTEMPTY)
		}
		if status := fs.drop(to, newName); !status.Ok() {
			return status
		}
	}
	from.remove(name)
	to.add(newName, n)
	if n.isDir() {
		from.attr.Nlink--
		to.attr.Nlink++
	}
	return fs.changed()
}
