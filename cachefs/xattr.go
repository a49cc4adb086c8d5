package cachefs

import (
	"cmp"
	"strings"
	"syscall"

	"github.com/remora-storage/remora/cachefs/meta"
)

// badXattr refuses names that are in no namespace of ours: EOPNOTSUPP, or EINVAL if they are a namespace and nothing else.
func badXattr(name string) error {
	for _, space := range []string{"user.", "trusted.", "security."} {
		if rest, ok := strings.CutPrefix(name, space); ok {
			if rest == "" {
				return syscall.EINVAL
			}
			return nil
		}
	}
	if isACL(name) {
		return nil
	}
	return syscall.EOPNOTSUPP
}

// xattrSELinux is a label that no kernel of ours sets. Where there is none, GetXattr says that there are none at all: then ls -l, cp -a and
// others ask once instead of once a file.
const xattrSELinux = "security.selinux"

// GetXattr returns an extended attribute.
func (fs *FS) GetXattr(ino meta.Ino, name string) ([]byte, error) {
	fs.mu.RLock()
	defer fs.mu.RUnlock()
	in, err := fs.inode(ino)
	if err != nil {
		return nil, err
	}
	if isACL(name) && in.Flags&aclFlag(name) == 0 { // asked for at the first check of every file that is not the caller's own
		return nil, syscall.ENODATA
	}
	var b []byte
	ok := false
	if in.Flags&meta.FlagPlain == 0 { // security.capability is asked for at the first write to every file
		b, ok, err = fs.get(meta.XattrKey(ino, name))
	}
	if err == nil && !ok {
		err = cmp.Or(badXattr(name), error(syscall.ENODATA))
		if name == xattrSELinux {
			err = syscall.EOPNOTSUPP
		}
	}
	return b, err
}

// ListXattr returns the names of the extended attributes.
func (fs *FS) ListXattr(ino meta.Ino) ([]string, error) {
	fs.mu.RLock()
	defer fs.mu.RUnlock()
	in, err := fs.inode(ino)
	if err != nil || in.Flags&meta.FlagPlain != 0 {
		return nil, err
	}
	var names []string
	lower, upper := meta.XattrRange(ino)
	err = fs.scan(lower, upper, func(key, _ []byte) (bool, error) {
		names = append(names, meta.XattrName(key))
		return true, nil
	})
	return names, err
}

// Flags of SetXattr.
const (
	XattrCreate  = 1
	XattrReplace = 2
	// XattrKillSgid: whoever sets the access ACL may not keep the set-group-ID bit. Not a flag of setxattr(2).
	XattrKillSgid = 1 << 31
)

const maxXattrList = 64 << 10 // XATTR_LIST_MAX of Linux

// SetXattr sets an extended attribute. An access ACL sets the mode, too.
func (fs *FS) SetXattr(caller *Caller, ino meta.Ino, name string, value []byte, flags uint32) error {
	if len(name) > MaxName {
		return syscall.ERANGE
	}
	if len(value) > MaxXattr {
		return syscall.E2BIG
	}
	if err := badXattr(name); err != nil {
		return err
	}
	if err := fs.cfg.Log.Room(int64(len(value))); err != nil {
		return err
	}
	fs.mu.Lock()
	defer fs.mu.Unlock()
	in, err := fs.inode(ino)
	if err != nil {
		return err
	}
	key := meta.XattrKey(ino, name)
	_, exists, err := fs.get(key)
	switch {
	case err != nil:
		return err
	case exists && flags&XattrCreate != 0:
		return syscall.EEXIST
	case !exists && flags&XattrReplace != 0:
		return syscall.ENODATA
	}
	if !exists {
		if err := fs.listFits(ino, name); err != nil {
			return err
		}
	}
	c := fs.begin(caller)
	if !isACL(name) {
		in.Flags &^= meta.FlagPlain
		c.set(key, append([]byte{}, value...))
	} else if err := c.putACL(ino, &in, name, value, flags&XattrKillSgid != 0); err != nil {
		return err
	}
	in.Ctime = c.now
	c.setInode(ino, in)
	return c.commit(nil)
}

// listFits is ENOSPC if the list of the names would be longer than the kernel can hand over with one name more. fs.mu must be held.
func (fs *FS) listFits(ino meta.Ino, name string) error {
	size := len(name) + 1
	lower, upper := meta.XattrRange(ino)
	err := fs.scan(lower, upper, func(key, _ []byte) (bool, error) {
		size += len(meta.XattrName(key)) + 1
		return true, nil
	})
	if err == nil && size > maxXattrList {
		err = syscall.ENOSPC
	}
	return err
}

// RemoveXattr removes an extended attribute.
func (fs *FS) RemoveXattr(caller *Caller, ino meta.Ino, name string) error {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	in, err := fs.inode(ino)
	if err != nil {
		return err
	}
	key := meta.XattrKey(ino, name)
	if _, exists, err := fs.get(key); err != nil {
		return err
	} else if !exists {
		if isACL(name) {
			return nil // as local file systems answer
		}
		return cmp.Or(badXattr(name), error(syscall.ENODATA))
	}
	c := fs.begin(caller)
	c.delete(key)
	if isACL(name) {
		in.Flags &^= aclFlag(name)
	}
	in.Ctime = c.now
	c.setInode(ino, in)
	return c.commit(nil)
}
