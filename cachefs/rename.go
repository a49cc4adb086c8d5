package cachefs

import (
	"errors"
	"syscall"

	"github.com/remora-storage/remora/cachefs/meta"
)

// Flags of Rename, as renameat2(2).
const (
	RenameNoReplace = 1
	RenameExchange  = 2
)

// place is one end of a rename.
type place struct {
	parent meta.Ino
	name   string
	d      meta.Dirent
	in     meta.Inode
	exists bool
}

func (fs *FS) place(parent meta.Ino, name string) (place, error) {
	p := place{parent: parent, name: name}
	if len(name) > MaxName {
		return p, syscall.ENAMETOOLONG
	}
	var err error
	if p.d, err = fs.dirent(parent, name); err != nil {
		if errors.Is(err, syscall.ENOENT) {
			err = nil
		}
		return p, err
	}
	p.exists = true
	p.in, err = fs.inode(p.d.Ino)
	return p, err
}

func (p *place) isDir() bool { return p.in.Mode&syscall.S_IFMT == syscall.S_IFDIR }

// dirs holds the one or two directories of a rename, so that both ends change the same copy.
type dirs map[meta.Ino]*meta.Inode

func (fs *FS) directories(inos ...meta.Ino) (dirs, error) {
	ds := dirs{}
	for _, ino := range inos {
		in, err := fs.directory(ino)
		if err != nil {
			return nil, err
		}
		if ds[ino] == nil {
			ds[ino] = &in
		}
	}
	return ds, nil
}

// Rename moves a name over another, or exchanges the two. A longer name needs room on the disk; others do not, for the sake of those
// who replace a file by a new one. The kernel has made sure that no directory moves into itself.
func (fs *FS) Rename(caller *Caller, parent meta.Ino, name string, newParent meta.Ino, newName string, flags uint32) error {
	if flags&^(RenameNoReplace|RenameExchange) != 0 || flags == RenameNoReplace|RenameExchange {
		return syscall.EINVAL
	}
	if len(newName) > len(name) {
		if err := fs.cfg.Log.Room(0); err != nil {
			return err
		}
	}
	fs.mu.Lock()
	defer fs.mu.Unlock()
	ds, err := fs.directories(parent, newParent)
	if err != nil {
		return err
	}
	from, err := fs.place(parent, name)
	if err != nil {
		return err
	}
	to, err := fs.place(newParent, newName)
	if err != nil {
		return err
	}
	switch {
	case !from.exists:
		return syscall.ENOENT
	case flags&RenameExchange != 0 && !to.exists:
		return syscall.ENOENT
	case flags&RenameNoReplace != 0 && to.exists:
		return syscall.EEXIST
	case to.exists && from.d.Ino == to.d.Ino:
		return nil // two names of one file: POSIX says that nothing happens
	}
	c := fs.begin(caller)
	if flags&RenameExchange != 0 {
		c.exchange(ds, &from, &to)
	} else if err := c.replace(ds, &from, &to); err != nil {
		return err
	}
	for ino, in := range ds {
		c.setInode(ino, *in)
	}
	return c.commit(nil)
}

func (c *change) replace(ds dirs, from, to *place) error {
	if to.exists {
		if err := removable(&to.in, from.isDir()); err != nil {
			return err
		}
		c.unlink(to.parent, ds[to.parent], to.name, to.d)
		c.dropLink(to.d.Ino, &to.in, ds[to.parent])
	}
	c.unlink(from.parent, ds[from.parent], from.name, from.d)
	switch {
	case to.exists: // the name was there all the time: whoever lists the directory sees it once
		c.linkAt(to.parent, ds[to.parent], to.name, from.d.Ino, from.in.Mode, to.d.Cookie)
	case to.parent == from.parent: // at a new place, a listing that renames what it shows would never end
		c.linkAt(to.parent, ds[to.parent], to.name, from.d.Ino, from.in.Mode, from.d.Cookie)
	default:
		c.link(to.parent, ds[to.parent], to.name, from.d.Ino, from.in.Mode)
	}
	c.moved(ds, from, to.parent)
	return nil
}

func (c *change) exchange(ds dirs, a, b *place) {
	c.unlink(a.parent, ds[a.parent], a.name, a.d)
	c.unlink(b.parent, ds[b.parent], b.name, b.d)
	c.linkAt(b.parent, ds[b.parent], b.name, a.d.Ino, a.in.Mode, b.d.Cookie)
	c.linkAt(a.parent, ds[a.parent], a.name, b.d.Ino, b.in.Mode, a.d.Cookie)
	c.moved(ds, a, b.parent)
	c.moved(ds, b, a.parent)
}

// moved writes the inode of p, whose name is now in another directory.
func (c *change) moved(ds dirs, p *place, newParent meta.Ino) {
	p.in.Ctime = c.now
	if p.isDir() && p.parent != newParent {
		p.in.Parent = newParent
		ds[p.parent].Nlink--
		ds[newParent].Nlink++
	}
	c.setInode(p.d.Ino, p.in)
}
