package cachefs

import (
	"fmt"
	"syscall"

	"github.com/remora-storage/remora/cachefs/meta"
)

// POSIX ACLs are extended attributes whose names the kernel knows (meta.XattrAccessACL, meta.XattrDefaultACL). The kernel checks
// accesses with them; this package keeps what they have in common with the mode the same in both, as a local file system does: an
// access ACL sets the mode, chmod sets the ACL's mask, and what is made in a directory with a default ACL inherits it. An inode's
// flags say whether it has them.

func isACL(name string) bool { return name == meta.XattrAccessACL || name == meta.XattrDefaultACL }

// aclFlag is the inode flag of an ACL.
func aclFlag(name string) uint32 {
	if name == meta.XattrDefaultACL {
		return meta.FlagDefaultACL
	}
	return meta.FlagAccessACL
}

// acl reads an ACL that the inode's flags announce. fs.mu must be held.
func (fs *FS) acl(ino meta.Ino, name string) (meta.ACL, error) {
	b, ok, err := fs.get(meta.XattrKey(ino, name))
	if err == nil && !ok {
		err = fmt.Errorf("inode %d: %s is missing", ino, name)
	}
	if err != nil {
		return nil, err
	}
	return meta.DecodeACL(b)
}

// putACL sets an ACL. An access ACL that says no more than the mode can is not kept.
func (c *change) putACL(ino meta.Ino, in *meta.Inode, name string, value []byte, killSgid bool) error {
	a, err := meta.DecodeACL(value)
	if err != nil {
		return syscall.EINVAL
	}
	if name == meta.XattrDefaultACL {
		if in.Mode&syscall.S_IFMT != syscall.S_IFDIR {
			return syscall.EACCES
		}
		c.set(meta.XattrKey(ino, name), append([]byte{}, value...))
		in.Flags = in.Flags&^meta.FlagPlain | meta.FlagDefaultACL
		return nil
	}
	c.setAccessACL(ino, in, a)
	if killSgid {
		in.Mode &^= syscall.S_ISGID
	}
	return nil
}

// setAccessACL sets the mode to what a says, and keeps the rest of it.
func (c *change) setAccessACL(ino meta.Ino, in *meta.Inode, a meta.ACL) {
	perm, extended := a.Mode()
	in.Mode = in.Mode&^0o777 | perm
	key := meta.XattrKey(ino, meta.XattrAccessACL)
	switch {
	case extended:
		c.set(key, a.Append(nil))
		in.Flags = in.Flags&^meta.FlagPlain | meta.FlagAccessACL
	case in.Flags&meta.FlagAccessACL != 0:
		c.delete(key)
		in.Flags &^= meta.FlagAccessACL
	}
}

// chmodACL makes an access ACL fit a new mode.
func (c *change) chmodACL(ino meta.Ino, in *meta.Inode) error {
	if in.Flags&meta.FlagAccessACL == 0 {
		return nil
	}
	a, err := c.fs.acl(ino, meta.XattrAccessACL)
	if err == nil {
		c.setAccessACL(ino, in, a.Chmod(in.Mode))
	}
	return err
}

// inheritACL gives a new inode what the default ACL of its directory says, or takes the umask off where there is none.
func (c *change) inheritACL(parent meta.Ino, dir *meta.Inode, ino meta.Ino, in *meta.Inode, umask uint32) error {
	if in.Mode&syscall.S_IFMT == syscall.S_IFLNK {
		return nil
	}
	if dir.Flags&meta.FlagDefaultACL == 0 {
		in.Mode &^= umask & 0o777
		return nil
	}
	a, err := c.fs.acl(parent, meta.XattrDefaultACL)
	if err != nil {
		return err
	}
	c.setAccessACL(ino, in, a.Inherit(in.Mode))
	if in.Mode&syscall.S_IFMT == syscall.S_IFDIR {
		c.set(meta.XattrKey(ino, meta.XattrDefaultACL), a.Append(nil))
		in.Flags = in.Flags&^meta.FlagPlain | meta.FlagDefaultACL
	}
	return nil
}
