package cachefs

import (
	"syscall"

	"github.com/remora-storage/remora/cachefs/meta"
)

// Attr is an inode with its number.
type Attr struct {
	Ino meta.Ino
	meta.Inode
}

// Attr returns what stat shows.
func (fs *FS) Attr(ino meta.Ino) (Attr, error) {
	fs.mu.RLock()
	defer fs.mu.RUnlock()
	in, err := fs.inode(ino)
	return Attr{ino, in}, err
}

// SetAttr is what setattr changes; nil fields stay. A zero Time with Now set means the clock's.
type SetAttr struct {
	Mode         *uint32 // permissions
	UID, GID     *uint32
	Size         *uint64
	Atime, Mtime *meta.Time
	Ctime        *meta.Time
	AtimeNow     bool
	MtimeNow     bool
	KillSuidGid  bool // the caller may not keep suid and sgid (a write or truncate without CAP_FSETID, a chown)
}

// SetAttr changes attributes. Truncation to a smaller size frees what is behind it.
func (fs *FS) SetAttr(caller *Caller, ino meta.Ino, s SetAttr) (Attr, error) {
	for f := (fetcher{fs: fs, io: caller.IO}); ; {
		a, err := fs.setAttr(caller, ino, s)
		if err != nil {
			if err = f.fetch(err); err == nil {
				continue
			}
		}
		return a, err
	}
}

func (fs *FS) setAttr(caller *Caller, ino meta.Ino, s SetAttr) (Attr, error) {
	if s.Size != nil {
		if err := fs.roomToGrow(ino, *s.Size); err != nil {
			return Attr{}, err
		}
	}
	fs.mu.Lock()
	defer fs.mu.Unlock()
	in, err := fs.inode(ino)
	if err != nil {
		return Attr{}, err
	}
	if s.Size != nil {
		return fs.setAttrSize(caller, ino, in, s)
	}
	c := fs.begin(caller)
	if err := c.applyAttr(ino, &in, s); err != nil {
		return Attr{}, err
	}
	c.setInode(ino, in)
	return Attr{ino, in}, c.commit(nil)
}

func (c *change) applyAttr(ino meta.Ino, in *meta.Inode, s SetAttr) error {
	const perm = 0o7777
	if s.Mode != nil {
		in.Mode = in.Mode&^perm | *s.Mode&perm
		if err := c.chmodACL(ino, in); err != nil {
			return err
		}
	}
	if s.KillSuidGid { // as the owner was
		chown := s.UID != nil || s.GID != nil
		c.killSuidGid(in, chown && c.caller.UID == 0)
	}
	if s.UID != nil {
		in.UID = *s.UID
	}
	if s.GID != nil {
		in.GID = *s.GID
	}
	switch {
	case s.AtimeNow:
		in.Atime = c.now
	case s.Atime != nil:
		in.Atime = *s.Atime
	}
	switch {
	case s.MtimeNow:
		in.Mtime = c.now
	case s.Mtime != nil:
		in.Mtime = *s.Mtime
	}
	in.Ctime = c.now
	if s.Ctime != nil {
		in.Ctime = *s.Ctime
	}
	return nil
}

// killSuidGid does what the kernel does for its own file systems: to every file but directories; sgid without group execution is not a
// set-group-ID bit, and stays if the caller is in the group or capable (CAP_FSETID). Of his groups we know the first. The kernel asks for
// it at a write or a truncate only if he is not capable; at a chown always, and then we take root for capable.
func (c *change) killSuidGid(in *meta.Inode, capable bool) {
	if in.Mode&syscall.S_IFMT == syscall.S_IFDIR {
		return
	}
	before := in.Mode
	in.Mode &^= syscall.S_ISUID
	if in.Mode&syscall.S_IXGRP != 0 || c.caller.GID != in.GID && !capable {
		in.Mode &^= syscall.S_ISGID
	}
	c.caller.Demoted = c.caller.Demoted || in.Mode != before
}

// Readlink returns the target of a symlink.
func (fs *FS) Readlink(ino meta.Ino) ([]byte, error) {
	fs.mu.RLock()
	defer fs.mu.RUnlock()
	in, err := fs.inode(ino)
	if err != nil {
		return nil, err
	}
	if in.Mode&syscall.S_IFMT != syscall.S_IFLNK {
		return nil, syscall.EINVAL
	}
	return fs.inline(ino)
}

// inline reads the content of a small file, or a symlink's target. fs.mu must be held.
func (fs *FS) inline(ino meta.Ino) ([]byte, error) {
	b, _, err := fs.get(meta.InlineKey(ino))
	return b, err
}
