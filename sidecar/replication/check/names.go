package check

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"syscall"

	"github.com/remora-storage/remora/cachefs/meta"
)

// inode is what is known of an inode: what it says, and what was found.
type inode struct {
	mode, nlink uint32
	inlined     bool   // says so
	acls        uint32 // flags of ACLs that it says it has and that were not found yet
	hasInline   bool
	size        uint64
	blocks      uint64
	parent      meta.Ino

	names      uint32 // that lead here
	in         meta.Ino
	subdirs    uint32
	entries    uint32
	inlineSize int
	found      uint64 // blocks of its chunks
	orphan     meta.OrphanKind
	plain      bool // says that it has no extended attribute
}

const aclFlags = meta.FlagAccessACL | meta.FlagDefaultACL

func (i *inode) format() uint32 { return i.mode & syscall.S_IFMT }
func (i *inode) isDir() bool    { return i.format() == syscall.S_IFDIR }

func inoName(ino meta.Ino) string { return fmt.Sprintf("inode %d", ino) }

func (c *content) inode(ino meta.Ino, value []byte) error {
	in, err := meta.DecodeInode(value)
	if err != nil {
		return err
	}
	c.inodes[ino] = &inode{mode: in.Mode, nlink: in.Nlink, inlined: in.Flags&meta.FlagInline != 0, size: in.Size, blocks: in.Blocks, parent: in.Parent,
		acls: in.Flags & aclFlags, plain: in.Flags&meta.FlagPlain != 0}
	c.lastIno = max(c.lastIno, ino)
	if in.Flags&^(meta.FlagInline|meta.FlagPlain|aclFlags) != 0 {
		return fmt.Errorf("unknown flags %#x", in.Flags)
	}
	return nil
}

func (c *content) inline(ino meta.Ino, value []byte) error {
	c.used += uint64(len(value))
	in := c.inodes[ino]
	if in == nil {
		return errors.New("content of an inode that does not exist")
	}
	in.hasInline, in.inlineSize = true, len(value)
	return nil
}

// dirent takes a name. What its cookie says is compared when the directory is complete.
func (c *content) dirent(k meta.Key, value []byte) error {
	d, err := meta.DecodeDirent(value)
	if err != nil {
		return err
	}
	if k.Ino != c.dir {
		c.endNames()
		c.dir, c.names, c.nameSums = k.Ino, map[uint64]meta.Dirent{}, map[uint64]string{}
	}
	where := fmt.Sprintf("entry of %s with cookie %d", inoName(k.Ino), d.Cookie)
	if _, twice := c.names[d.Cookie]; twice {
		c.find(c.path, "directory", where, "two names have this cookie")
	}
	c.names[d.Cookie], c.nameSums[d.Cookie] = d, k.Name
	c.lastCookie = max(c.lastCookie, d.Cookie)
	if k.Name == "." || k.Name == ".." || len(k.Name) > 255 || strings.ContainsAny(k.Name, "/\x00") {
		c.find(c.path, "directory", where, "its name is not one")
	}
	dir, in := c.inodes[k.Ino], c.inodes[d.Ino]
	if dir == nil || !dir.isDir() {
		c.find(c.path, "directory", where, "%s is not a directory", inoName(k.Ino))
	} else {
		dir.entries++
	}
	if in == nil {
		c.find(c.path, "directory", where, "leads to %s, which does not exist: whoever opens it gets ESTALE", inoName(d.Ino))
		return nil
	}
	in.names, in.in = in.names+1, k.Ino
	if in.isDir() && dir != nil {
		dir.subdirs++
	}
	if want := uint8(in.mode >> 12 & 15); d.Type != want {
		c.find(c.path, "directory", where, "says type %d, and %s has type %d", d.Type, inoName(d.Ino), want)
	}
	return nil
}

// endNames compares the names of a directory with what readdir would list.
func (c *content) endNames() {
	if c.dir == 0 {
		return
	}
	err := c.store.Scan(meta.CookieKey(c.dir, 0), meta.CookieKey(c.dir+1, 0), func(key, value []byte) error {
		e, err := meta.DecodeCookieEntry(key, value)
		if err != nil {
			return nil //nolint:nilerr // the scan of all keys says so
		}
		where := fmt.Sprintf("entry of %s with cookie %d", inoName(c.dir), e.Cookie)
		d, ok := c.names[e.Cookie]
		switch {
		case !ok:
			c.find(c.path, "directory", where, "is listed, and no name has this cookie")
		case d.Ino != e.Ino || d.Type != e.Type || c.nameSums[e.Cookie] != e.Name:
			c.find(c.path, "directory", where, "is listed with another name, inode (%d) or type than its name has (%d)", e.Ino, d.Ino)
		}
		delete(c.names, e.Cookie)
		return nil
	})
	if err != nil {
		c.find(c.path, "directory", inoName(c.dir), "listing it: %v", err)
		return
	}
	for _, cookie := range slices.Sorted(maps.Keys(c.names)) {
		c.find(c.path, "directory", fmt.Sprintf("entry of %s with cookie %d", inoName(c.dir), cookie), "has a name and is not listed")
	}
	c.dir = 0
}

// cookie takes an entry of readdir. Those of directories that have names were compared.
func (c *content) cookie(k meta.Key, value []byte) error {
	_, err := meta.DecodeCookieEntry(meta.CookieKey(k.Ino, k.Number), value)
	if err != nil {
		return err
	}
	c.lastCookie = max(c.lastCookie, k.Number)
	if dir := c.inodes[k.Ino]; dir == nil || dir.entries == 0 {
		return errors.New("is listed, and no name has this cookie")
	}
	return nil
}

func (c *content) orphan(ino meta.Ino, value []byte) error {
	if len(value) != 1 || value[0] < uint8(meta.OrphanUnlinked) || value[0] > uint8(meta.OrphanTruncated) {
		return fmt.Errorf("%w: orphan kind %x", meta.ErrMalformed, value)
	}
	in := c.inodes[ino]
	if in == nil {
		return errors.New("marks an inode that does not exist")
	}
	in.orphan = meta.OrphanKind(value[0])
	return nil
}

func (c *content) xattr(k meta.Key, value []byte) error {
	in := c.inodes[k.Ino]
	if in == nil {
		return errors.New("belongs to an inode that does not exist")
	}
	if in.plain {
		return errors.New("is an attribute, and the inode says that it never had one: it cannot be seen")
	}
	switch k.Name {
	case meta.XattrAccessACL:
		return in.acl(meta.FlagAccessACL, value)
	case meta.XattrDefaultACL:
		return in.acl(meta.FlagDefaultACL, value)
	}
	if len(k.Name) > 255 || len(value) > 64<<10 {
		return fmt.Errorf("attribute with a name of %d and a value of %d bytes", len(k.Name), len(value))
	}
	return nil
}

// acl takes an ACL of the inode.
func (i *inode) acl(flag uint32, value []byte) error {
	if i.acls&flag == 0 {
		return errors.New("is an ACL, and the inode has no flag that says so")
	}
	i.acls &^= flag
	a, err := meta.DecodeACL(value)
	if err != nil {
		return err
	}
	if perm, _ := a.Mode(); flag == meta.FlagAccessACL && perm != i.mode&0o777 {
		return fmt.Errorf("is an ACL for mode %o, and the inode has mode %o", perm, i.mode)
	}
	return nil
}

// checkInodes compares what inodes say with what was found.
func (c *content) checkInodes() {
	if c.inodes[meta.Root] == nil {
		c.find(c.path, "inode", inoName(meta.Root), "the root directory is missing")
	}
	for _, ino := range slices.Sorted(maps.Keys(c.inodes)) {
		in := c.inodes[ino]
		what := func(format string, args ...any) { c.find(c.path, "inode", inoName(ino), format, args...) }
		switch in.format() {
		case syscall.S_IFDIR:
			in.checkDir(ino, what)
		case syscall.S_IFREG, syscall.S_IFLNK, syscall.S_IFCHR, syscall.S_IFBLK, syscall.S_IFIFO, syscall.S_IFSOCK:
			in.checkFile(what)
		default:
			what("mode %o is of no type", in.mode)
		}
		if in.acls != 0 {
			what("has flags %#x, and no ACL", in.acls)
		}
		if in.orphan == meta.OrphanUnlinked && in.nlink > 0 {
			what("is marked as unlinked and has link count %d", in.nlink)
		}
		if in.nlink == 0 && in.orphan != meta.OrphanUnlinked {
			what("has no name and is not marked for removal: its space would never come back")
		}
	}
}

func (i *inode) checkDir(ino meta.Ino, what func(string, ...any)) {
	want := 2 + i.subdirs
	switch {
	case ino == meta.Root:
		i.in = meta.Root
		if i.names != 0 {
			what("the root directory has a name")
		}
	case i.names == 0:
		want = 0
	case i.names > 1:
		what("a directory with %d names", i.names)
	}
	if i.nlink != want {
		what("link count is %d, and with %d names and %d subdirectories it must be %d", i.nlink, i.names, i.subdirs, want)
	}
	if want > 0 && i.parent != i.in {
		what("its parent is %s, and its name is in %s", inoName(i.parent), inoName(i.in))
	}
	if i.size != uint64(i.entries) {
		what("says %d entries, and has %d", i.size, i.entries)
	}
	i.checkNoContent(what)
}

func (i *inode) checkFile(what func(string, ...any)) {
	if i.nlink != i.names {
		what("link count is %d, and %d names lead to it", i.nlink, i.names)
	}
	if i.format() != syscall.S_IFREG && i.format() != syscall.S_IFLNK {
		i.checkNoContent(what)
		return
	}
	if i.format() == syscall.S_IFLNK && !i.inlined {
		what("a symbolic link without a target")
	}
	switch {
	case i.inlined && !i.hasInline:
		what("its content should be in the metadata and is missing")
	case i.inlined && uint64(i.inlineSize) != i.size:
		what("says %d bytes, and its content has %d", i.size, i.inlineSize)
	case !i.inlined && i.hasInline:
		what("has content in the metadata, and says that it is in blocks")
	}
	if i.blocks != i.found {
		what("says %d blocks, and its chunks have %d", i.blocks, i.found)
	}
}

func (i *inode) checkNoContent(what func(string, ...any)) {
	if i.inlined || i.hasInline || i.blocks != 0 || i.found != 0 {
		what("has content, and is no file")
	}
}
