package fsx

import (
	"bytes"
	"fmt"

	"golang.org/x/sys/unix"
)

// writeTo writes something somewhere in an open file.
func (t *tree) writeTo(fd int, n *node) error {
	off, b := t.r.IntN(12000), t.bytes(1+t.r.IntN(5000))
	written, err := unix.Pwrite(fd, b, int64(off))
	if err != nil || written != len(b) {
		return fmt.Errorf("wrote %d of %d: %w", written, len(b), err)
	}
	if end := off + len(b); end > len(n.Data) {
		n.Data = append(n.Data, make([]byte, end-len(n.Data))...)
	}
	copy(n.Data[off:], b)
	n.Mtime = 0
	return nil
}

func sameContent(fd int, n *node) error {
	got := make([]byte, len(n.Data)+100)
	k, err := unix.Pread(fd, got, 0)
	if err != nil {
		return fmt.Errorf("read: %w", err)
	}
	if !bytes.Equal(got[:k], n.Data) {
		return fmt.Errorf("%d bytes of content, want %d, or other ones", k, len(n.Data))
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil || int(st.Nlink) != n.nlink() {
		return fmt.Errorf("%d names, want %d, %w", st.Nlink, n.nlink(), err)
	}
	return nil
}

func (t *tree) write() error {
	s, ok := t.there((*node).regular)
	if !ok {
		return nil
	}
	t.did("write", s.path)
	fd, err := unix.Open(s.path, unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return answer(err, nil, s)
	}
	if err := t.writeTo(fd, s.node); err != nil {
		return err
	}
	if t.r.IntN(8) == 0 {
		if err := unix.Fsync(fd); err != nil {
			return fmt.Errorf("fsync: %w", err)
		}
	}
	return unix.Close(fd)
}

func (t *tree) truncate() error {
	s, ok := t.there((*node).regular)
	if !ok {
		return nil
	}
	t.did("truncate", s.path)
	size := t.r.IntN(15000)
	if err := unix.Truncate(s.path, int64(size)); err != nil {
		return answer(err, nil, s)
	}
	n := s.node
	n.Data = append(n.Data[:min(size, len(n.Data))], make([]byte, max(0, size-len(n.Data)))...)
	n.Mtime = 0
	return nil
}

func (t *tree) chmod() error {
	s, ok := t.there(func(n *node) bool { return n.Mode&unix.S_IFMT != unix.S_IFLNK })
	if !ok {
		return nil
	}
	t.did("chmod", s.path)
	mode := t.r.Uint32() & 0o7777
	if s.node.dir() { // what is made in a set-group-ID directory has its group: another test's
		mode &^= unix.S_ISGID
	}
	s.node.Mode = s.node.Mode&unix.S_IFMT | mode
	return answer(unix.Chmod(s.path, mode), nil, s)
}

// chown takes the set-ID bits of what is not a directory away, also when root does it.
func (t *tree) chown() error {
	s, ok := t.there(anyNode)
	if !ok {
		return nil
	}
	t.did("chown", s.path)
	n := s.node
	n.UID, n.GID = t.r.Uint32N(1<<16), t.r.Uint32N(1<<16)
	if n.regular() || n.Mode&unix.S_IFMT == unix.S_IFIFO || n.Mode&unix.S_IFMT == unix.S_IFSOCK {
		n.Mode &^= unix.S_ISUID
		if n.Mode&0o010 != 0 {
			n.Mode &^= unix.S_ISGID
		}
	}
	return answer(unix.Lchown(s.path, int(n.UID), int(n.GID)), nil, s)
}

func (t *tree) utimes() error {
	s, ok := t.there(anyNode)
	if !ok {
		return nil
	}
	t.did("utimes", s.path)
	s.node.Mtime = 1 + t.r.Int64N(1<<61)
	at := unix.NsecToTimespec(s.node.Mtime)
	return answer(unix.UtimesNanoAt(unix.AT_FDCWD, s.path, []unix.Timespec{at, at}, unix.AT_SYMLINK_NOFOLLOW), nil, s)
}

// xattr sets or removes an extended attribute; it must be there, must not be there, or may.
func (t *tree) xattr() error {
	s, ok := t.there(func(n *node) bool { return n.regular() || n.dir() })
	if !ok {
		return nil
	}
	name := []string{"user.a", "user.b", "user.long" + string(bytes.Repeat([]byte("x"), 200)), "trusted.c"}[t.r.IntN(4)]
	flags := []int{0, 0, unix.XATTR_CREATE, unix.XATTR_REPLACE, -1}[t.r.IntN(5)]
	value := t.bytes(t.r.IntN(900))
	_, there := s.node.Xattrs[name]
	var want error
	switch {
	case flags == unix.XATTR_CREATE && there:
		want = unix.EEXIST
	case flags != 0 && flags != unix.XATTR_CREATE && !there:
		want = unix.ENODATA
	}
	if flags < 0 {
		t.did("removexattr", s.path)
		if want == nil {
			delete(s.node.Xattrs, name)
		}
		return answer(unix.Removexattr(s.path, name), want, s)
	}
	t.did("setxattr", s.path)
	if want == nil {
		s.node.Xattrs[name] = value
	}
	return answer(unix.Setxattr(s.path, name, value, flags), want, s)
}
