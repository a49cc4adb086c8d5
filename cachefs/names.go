package cachefs

import (
	"encoding/binary"
	"errors"
	"strings"
	"syscall"

	"github.com/remora-storage/remora/cachefs/meta"
)

// Lookup finds a name in a directory and counts a reference of the kernel, which Forget gives back.
func (fs *FS) Lookup(parent meta.Ino, name string) (Attr, error) {
	if len(name) > MaxName {
		return Attr{}, syscall.ENAMETOOLONG
	}
	fs.mu.RLock()
	defer fs.mu.RUnlock()
	ino := parent
	switch name {
	case ".":
	case "..":
		in, err := fs.inode(parent)
		if err != nil {
			return Attr{}, err
		}
		ino = in.Parent
	default:
		d, err := fs.dirent(parent, name)
		if err != nil {
			return Attr{}, err
		}
		ino = d.Ino
	}
	in, err := fs.inode(ino)
	if err == nil {
		fs.Remembered(ino)
	}
	return Attr{ino, in}, err
}

// dirent looks up a name; ENOENT if there is none. The answer is remembered either way: the kernel looks a name up before it asks to
// create it. fs.mu must be held.
func (fs *FS) dirent(parent meta.Ino, name string) (meta.Dirent, error) {
	id := nameID{parent, name}
	fs.cacheMu.Lock()
	d, ok := fs.names[id]
	fs.cacheMu.Unlock()
	if !ok {
		b, found, err := fs.get(meta.DirentKey(parent, name))
		if err != nil {
			return meta.Dirent{}, err
		}
		if found {
			if d, err = meta.DecodeDirent(b); err != nil {
				return meta.Dirent{}, err
			}
		}
		id.name = strings.Clone(name) // it may be a part of the request's buffer
		remember(&fs.cacheMu, fs.names, id, d)
	}
	if d.Ino == 0 {
		return meta.Dirent{}, syscall.ENOENT
	}
	return d, nil
}

// directory reads an inode that must be a living directory.
func (fs *FS) directory(ino meta.Ino) (meta.Inode, error) {
	in, err := fs.inode(ino)
	switch {
	case err != nil:
	case in.Mode&syscall.S_IFMT != syscall.S_IFDIR:
		err = syscall.ENOTDIR
	case in.Nlink == 0:
		err = syscall.ENOENT
	}
	return in, err
}

// link puts a name into a directory: dir is changed, and set by the caller.
func (c *change) link(parent meta.Ino, dir *meta.Inode, name string, ino meta.Ino, mode uint32) {
	c.linkAt(parent, dir, name, ino, mode, c.counters.NextCookie)
	c.counters.NextCookie++
}

// linkAt is link with a place in the listing, which must be free.
func (c *change) linkAt(parent meta.Ino, dir *meta.Inode, name string, ino meta.Ino, mode uint32, cookie uint64) {
	d := meta.Dirent{Ino: ino, Type: uint8(mode >> 12 & 15), Cookie: cookie}
	c.set(meta.DirentKey(parent, name), d.Append(make([]byte, 0, 17)))
	e := meta.CookieEntry{Ino: ino, Type: d.Type, Name: name}
	c.set(meta.CookieKey(parent, d.Cookie), e.AppendValue(make([]byte, 0, 9+len(name))))
	c.names = append(c.names, nameChange{nameID{parent, strings.Clone(name)}, d})
	dir.Size++
	dir.Mtime, dir.Ctime = c.now, c.now
}

// unlink takes a name out of a directory.
func (c *change) unlink(parent meta.Ino, dir *meta.Inode, name string, d meta.Dirent) {
	c.delete(meta.DirentKey(parent, name))
	c.delete(meta.CookieKey(parent, d.Cookie))
	c.names = append(c.names, nameChange{id: nameID{parent, strings.Clone(name)}})
	dir.Size--
	dir.Mtime, dir.Ctime = c.now, c.now
}

// Node is what Create makes.
type Node struct {
	Mode   uint32 // type and permissions
	Umask  uint32 // taken off the permissions, unless the directory has a default ACL; 0 where the kernel has done that
	Rdev   uint32
	Target string // of a symlink
}

// Create makes a file, directory, symlink or device, and counts a reference of the kernel. EEXIST if the name is taken.
func (fs *FS) Create(caller *Caller, parent meta.Ino, name string, n Node) (Attr, error) {
	if len(name) > MaxName {
		return Attr{}, syscall.ENAMETOOLONG
	}
	if err := fs.cfg.Log.Room(0); err != nil {
		return Attr{}, err
	}
	fs.mu.Lock()
	defer fs.mu.Unlock()
	dir, err := fs.directory(parent)
	if err != nil {
		return Attr{}, err
	}
	if _, err := fs.dirent(parent, name); !errors.Is(err, syscall.ENOENT) {
		if err == nil {
			err = syscall.EEXIST
		}
		return Attr{}, err
	}
	c := fs.begin(caller)
	ino, in, err := c.newInode(parent, &dir, n)
	if err != nil {
		return Attr{}, err
	}
	if n.Mode&syscall.S_IFMT == syscall.S_IFDIR {
		if dir.Nlink >= MaxLinks {
			return Attr{}, syscall.EMLINK
		}
		in.Parent, in.Nlink = parent, 2
		dir.Nlink++
	}
	c.link(parent, &dir, name, ino, in.Mode)
	c.setInode(parent, dir)
	c.setInode(ino, in)
	if err := c.commit(answerIno(ino)); err != nil {
		return Attr{}, err
	}
	fs.Remembered(ino)
	return Attr{ino, in}, nil
}

// Tmpfile makes a file without a name (O_TMPFILE) in the file system of a directory, and counts a reference of the kernel. It goes when
// the kernel forgets it, unless Link gives it a name.
func (fs *FS) Tmpfile(caller *Caller, parent meta.Ino, n Node) (Attr, error) {
	if err := fs.cfg.Log.Room(0); err != nil {
		return Attr{}, err
	}
	fs.mu.Lock()
	defer fs.mu.Unlock()
	dir, err := fs.directory(parent)
	if err != nil {
		return Attr{}, err
	}
	c := fs.begin(caller)
	ino, in, err := c.newInode(parent, &dir, n)
	if err != nil {
		return Attr{}, err
	}
	in.Nlink = 0
	c.set(meta.OrphanKey(ino), []byte{byte(meta.OrphanUnlinked)})
	c.setInode(ino, in)
	if err := c.commit(answerIno(ino)); err != nil {
		return Attr{}, err
	}
	fs.Remembered(ino)
	return Attr{ino, in}, nil
}

// newInode makes an inode with one link in dir, by the rules of set-group-ID directories and default ACLs.
func (c *change) newInode(parent meta.Ino, dir *meta.Inode, n Node) (meta.Ino, meta.Inode, error) {
	ino, err := c.newIno()
	if err != nil {
		return 0, meta.Inode{}, err
	}
	in := meta.Inode{Mode: n.Mode, UID: c.caller.UID, GID: c.caller.GID, Nlink: 1, Rdev: n.Rdev, Flags: meta.FlagPlain,
		Atime: c.now, Mtime: c.now, Ctime: c.now, Btime: c.now}
	if dir.Mode&syscall.S_ISGID != 0 {
		in.GID = dir.GID
		if in.Mode&syscall.S_IFMT == syscall.S_IFDIR {
			in.Mode |= syscall.S_ISGID
		}
	}
	if err := c.inheritACL(parent, dir, ino, &in, n.Umask); err != nil {
		return 0, meta.Inode{}, err
	}
	if n.Target != "" {
		in.Size = uint64(len(n.Target))
		in.Flags |= meta.FlagInline
		c.set(meta.InlineKey(ino), []byte(n.Target))
		if err := c.use(int64(len(n.Target))); err != nil {
			return 0, meta.Inode{}, err
		}
	}
	return ino, in, nil
}

// answerIno is the answer of what makes an inode: its number.
func answerIno(ino meta.Ino) []byte {
	return binary.LittleEndian.AppendUint64(nil, uint64(ino))
}

// AnswerIno reads a first answer of Create or Link: the inode.
func AnswerIno(b []byte) (meta.Ino, bool) {
	if len(b) != 8 {
		return 0, false
	}
	return meta.Ino(binary.LittleEndian.Uint64(b)), true
}

// Link gives a file another name.
func (fs *FS) Link(caller *Caller, ino, parent meta.Ino, name string) (Attr, error) {
	if len(name) > MaxName {
		return Attr{}, syscall.ENAMETOOLONG
	}
	if err := fs.cfg.Log.Room(0); err != nil {
		return Attr{}, err
	}
	fs.mu.Lock()
	defer fs.mu.Unlock()
	if err := fs.endTruncate(ino); err != nil { // the mark of a file without a name is the only one, and goes here
		return Attr{}, err
	}
	in, err := fs.inode(ino)
	if err != nil {
		return Attr{}, err
	}
	dir, err := fs.directory(parent)
	if err != nil {
		return Attr{}, err
	}
	switch {
	case in.Mode&syscall.S_IFMT == syscall.S_IFDIR:
		return Attr{}, syscall.EPERM
	case in.Nlink >= MaxLinks:
		return Attr{}, syscall.EMLINK
	}
	if _, err := fs.dirent(parent, name); !errors.Is(err, syscall.ENOENT) {
		if err == nil {
			err = syscall.EEXIST
		}
		return Attr{}, err
	}
	c := fs.begin(caller)
	if in.Nlink == 0 {
		c.delete(meta.OrphanKey(ino))
	}
	in.Nlink++
	in.Ctime = c.now
	c.link(parent, &dir, name, ino, in.Mode)
	c.setInode(parent, dir)
	c.setInode(ino, in)
	if err := c.commit(answerIno(ino)); err != nil {
		return Attr{}, err
	}
	fs.Remembered(ino)
	return Attr{ino, in}, nil
}

// Unlink removes a name that is not a directory's.
func (fs *FS) Unlink(caller *Caller, parent meta.Ino, name string) error {
	return fs.remove(caller, parent, name, false)
}

// Rmdir removes the name of an empty directory.
func (fs *FS) Rmdir(caller *Caller, parent meta.Ino, name string) error {
	return fs.remove(caller, parent, name, true)
}

func (fs *FS) remove(caller *Caller, parent meta.Ino, name string, wantDir bool) error {
	if len(name) > MaxName {
		return syscall.ENAMETOOLONG
	}
	fs.mu.Lock()
	defer fs.mu.Unlock()
	dir, err := fs.directory(parent)
	if err != nil {
		return err
	}
	d, err := fs.dirent(parent, name)
	if err != nil {
		return err
	}
	in, err := fs.inode(d.Ino)
	if err != nil {
		return err
	}
	if err := removable(&in, wantDir); err != nil {
		return err
	}
	c := fs.begin(caller)
	c.unlink(parent, &dir, name, d)
	c.dropLink(d.Ino, &in, &dir)
	c.setInode(parent, dir)
	return c.commit(nil)
}

func removable(in *meta.Inode, wantDir bool) error {
	isDir := in.Mode&syscall.S_IFMT == syscall.S_IFDIR
	switch {
	case wantDir && !isDir:
		return syscall.ENOTDIR
	case !wantDir && isDir:
		return syscall.EISDIR
	case isDir && in.Size > 0:
		return syscall.ENOTEMPTY
	}
	return nil
}

// dropLink takes one link from an inode whose name in dir is gone. The last one leaves an orphan, until the kernel forgets it.
func (c *change) dropLink(ino meta.Ino, in *meta.Inode, dir *meta.Inode) {
	in.Ctime = c.now
	if in.Mode&syscall.S_IFMT == syscall.S_IFDIR {
		in.Nlink = 0
		dir.Nlink--
	} else {
		in.Nlink--
	}
	if in.Nlink == 0 {
		c.set(meta.OrphanKey(ino), []byte{byte(meta.OrphanUnlinked)})
	}
	c.setInode(ino, *in)
}
