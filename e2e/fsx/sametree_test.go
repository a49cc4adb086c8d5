package fsx

import (
	"bytes"
	"fmt"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// same compares a directory, and everything below it, with the model.
func same(root string, top *node) error {
	return sameDir(root, top, map[int]uint64{})
}

// sameDir compares what is in a directory. inodes has the inode number of each node that was seen: names of one file share it, others
// do not.
func sameDir(dir string, n *node, inodes map[int]uint64) error {
	entries, err := readDir(dir)
	if err != nil {
		return err
	}
	var got []string
	for _, e := range entries {
		got = append(got, e.name)
	}
	slices.Sort(got)
	if want := sortedNames(n); !slices.Equal(got, want) {
		return fmt.Errorf("%q: entries %q, want %q", dir, got, want)
	}
	for _, e := range entries {
		path, kid := dir+"/"+e.name, n.Kids[e.name]
		if uint32(e.kind)<<12 != kid.Mode&unix.S_IFMT {
			return fmt.Errorf("%q: type %d in the directory, mode %o", path, e.kind, kid.Mode)
		}
		if err := sameNode(path, kid, inodes); err != nil {
			return err
		}
		if inodes[kid.ID] != e.ino {
			return fmt.Errorf("%q: inode %d in the directory, %d by stat", path, e.ino, inodes[kid.ID])
		}
	}
	return nil
}

type entry struct {
	name string
	ino  uint64
	kind byte // DT_REG, ...
}

// readDir lists a directory as it comes, duplicates included. unix.ParseDirent leaves out inode and type.
func readDir(dir string) (all []entry, err error) {
	fd, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open %q: %w", dir, err)
	}
	buf := make([]byte, 4096)
	for {
		n, err := unix.ReadDirent(fd, buf)
		if err != nil {
			return nil, fmt.Errorf("getdents of %q: %w", dir, err)
		}
		if n == 0 {
			return all, unix.Close(fd)
		}
		for b := buf[:n]; len(b) > 0; { // struct linux_dirent64, getdents(2)
			size := int(b[16]) | int(b[17])<<8
			e := entry{name: unix.ByteSliceToString(b[19:size]), kind: b[18]}
			for k := range 8 {
				e.ino |= uint64(b[k]) << (8 * k)
			}
			if e.name != "." && e.name != ".." {
				all = append(all, e)
			}
			b = b[size:]
		}
	}
}

// sameNode compares a file of any type, and what is below it.
func sameNode(path string, n *node, inodes map[int]uint64) error {
	if err := sameAttributes(path, n, inodes); err != nil {
		return err
	}
	switch n.Mode & unix.S_IFMT {
	case unix.S_IFDIR:
		return sameDir(path, n, inodes)
	case unix.S_IFLNK:
		b := make([]byte, 5000)
		k, err := unix.Readlink(path, b)
		if err != nil || !bytes.Equal(b[:k], n.Data) {
			return fmt.Errorf("%q: a target of %d bytes, want %d, or another: %w", path, k, len(n.Data), err)
		}
	case unix.S_IFREG:
		fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			return fmt.Errorf("open %q: %w", path, err)
		}
		if err := unix.Fadvise(fd, 0, 0, unix.FADV_DONTNEED); err != nil {
			return err
		}
		if err := sameContent(fd, n); err != nil {
			return fmt.Errorf("%q: %w", path, err)
		}
		return unix.Close(fd)
	}
	return nil
}

func sameAttributes(path string, n *node, inodes map[int]uint64) error {
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		return fmt.Errorf("lstat %q: %w", path, err)
	}
	if ino, seen := inodes[n.ID]; seen && ino != st.Ino {
		return fmt.Errorf("%q: inode %d, but another name of it has %d", path, st.Ino, ino)
	}
	inodes[n.ID] = st.Ino
	got := fmt.Sprintf("mode %o, owner %d:%d, %d links", st.Mode, st.Uid, st.Gid, st.Nlink)
	want := fmt.Sprintf("mode %o, owner %d:%d, %d links", n.Mode, n.UID, n.GID, n.nlink())
	if n.Mtime != 0 {
		got += fmt.Sprint(", mtime ", unix.TimespecToNsec(st.Mtim))
		want += fmt.Sprint(", mtime ", n.Mtime)
	}
	if !n.dir() {
		got += fmt.Sprint(", size ", st.Size)
		want += fmt.Sprint(", size ", len(n.Data))
	}
	if got != want {
		return fmt.Errorf("%q: %s; want %s", path, got, want)
	}
	if n.regular() || n.dir() {
		return sameXattrs(path, n)
	}
	return nil
}

func sameXattrs(path string, n *node) error {
	b := make([]byte, 10000)
	k, err := unix.Listxattr(path, b)
	if err != nil {
		return fmt.Errorf("listxattr %q: %w", path, err)
	}
	got := strings.FieldsFunc(string(b[:k]), func(r rune) bool { return r == 0 })
	if len(got) != len(n.Xattrs) {
		return fmt.Errorf("%q: extended attributes %q, want %d", path, got, len(n.Xattrs))
	}
	for name, value := range n.Xattrs {
		k, err := unix.Getxattr(path, name, b)
		if err != nil || !bytes.Equal(b[:k], value) {
			return fmt.Errorf("%q: attribute %q has %d bytes, want %d, or others: %w", path, name, k, len(value), err)
		}
	}
	return nil
}
