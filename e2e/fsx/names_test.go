package fsx

import (
	"errors"
	"fmt"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// answer compares what a call said with what it must say; both may be nil.
func answer(got, want error, s spot) error {
	if errors.Is(got, want) {
		return nil
	}
	return fmt.Errorf("%q said %v, want %v", s.path, got, want)
}

// free is what a call that makes a name must answer; it may be used again by renames.
func free(s spot) error {
	if s.node != nil {
		return unix.EEXIST
	}
	return nil
}

func (t *tree) create() error {
	s := t.spot()
	mode := uint32(t.r.IntN(0o1000))
	t.did("create", s.path)
	fd, err := unix.Open(s.path, unix.O_CREAT|unix.O_EXCL|unix.O_RDWR|unix.O_CLOEXEC, mode)
	if wrong := answer(err, free(s), s); wrong != nil || err != nil {
		return wrong
	}
	n := t.make(s, unix.S_IFREG|mode)
	n.Data = t.bytes(t.r.IntN(9000))
	written, err := unix.Pwrite(fd, n.Data, 0)
	if err != nil || written != len(n.Data) {
		return fmt.Errorf("wrote %d of %d: %w", written, len(n.Data), err)
	}
	return unix.Close(fd)
}

func (t *tree) bytes(n int) []byte {
	b := make([]byte, n)
	fill(b, 0, t.r.IntN(1<<20), 0)
	return b
}

func (t *tree) mkdir() error {
	s := t.spot()
	mode := []uint32{0o755, 0o700, 0o1777, 0o750}[t.r.IntN(4)]
	t.did("mkdir", s.path)
	err := unix.Mkdir(s.path, mode)
	if wrong := answer(err, free(s), s); wrong != nil || err != nil {
		return wrong
	}
	t.make(s, unix.S_IFDIR|mode)
	return nil
}

func (t *tree) symlink() error {
	s := t.spot()
	target := strings.Repeat("x", 1+t.r.IntN(200))
	if t.r.IntN(10) == 0 {
		target = strings.Repeat("y", 4095)
	}
	t.did("symlink", s.path)
	err := unix.Symlink(target, s.path)
	if wrong := answer(err, free(s), s); wrong != nil || err != nil {
		return wrong
	}
	t.make(s, unix.S_IFLNK|0o777).Data = []byte(target)
	return nil
}

func (t *tree) mknod() error {
	s := t.spot()
	mode := []uint32{unix.S_IFIFO, unix.S_IFSOCK, unix.S_IFREG}[t.r.IntN(3)] | 0o640
	t.did("mknod", s.path)
	err := unix.Mknod(s.path, mode, 0)
	if wrong := answer(err, free(s), s); wrong != nil || err != nil {
		return wrong
	}
	t.make(s, mode)
	return nil
}

func (t *tree) link() error {
	from, ok := t.there(anyNode)
	if !ok {
		return nil
	}
	to := t.spot()
	t.did("link", from.path, to.path)
	want := free(to)
	if want == nil && from.node.dir() {
		want = unix.EPERM
	}
	err := unix.Link(from.path, to.path)
	if wrong := answer(err, want, to); wrong != nil || err != nil {
		return wrong
	}
	from.node.Links++
	t.enter(to, from.node)
	return nil
}

func (t *tree) unlink() error {
	s := t.spot()
	t.did("unlink", s.path)
	var want error
	switch {
	case s.node == nil:
		want = unix.ENOENT
	case s.node.dir():
		want = unix.EISDIR
	}
	err := unix.Unlink(s.path)
	if wrong := answer(err, want, s); wrong != nil || err != nil {
		return wrong
	}
	t.remove(s)
	return nil
}

func (t *tree) rmdir() error {
	s := t.spot()
	t.did("rmdir", s.path)
	var want error
	switch {
	case s.node == nil:
		want = unix.ENOENT
	case !s.node.dir():
		want = unix.ENOTDIR
	case len(s.node.Kids) > 0:
		want = unix.ENOTEMPTY
	}
	err := unix.Rmdir(s.path)
	if wrong := answer(err, want, s); wrong != nil || err != nil {
		return wrong
	}
	t.remove(s)
	return nil
}

// removeTree removes a directory with all that is in it, name by name.
func (t *tree) removeTree() error {
	s, ok := t.there((*node).dir)
	if !ok {
		return nil
	}
	t.did("remove-tree", s.path)
	return t.removeAll(s)
}

func (t *tree) removeAll(s spot) error {
	if !s.node.dir() {
		err := unix.Unlink(s.path)
		if err == nil {
			t.remove(s)
		}
		return answer(err, nil, s)
	}
	for _, name := range sortedNames(s.node) {
		if err := t.removeAll(t.in(s.node, s.path, name)); err != nil {
			return err
		}
	}
	err := unix.Rmdir(s.path)
	if err == nil {
		t.remove(s)
	}
	return answer(err, nil, s)
}

// rename renames to what is free or not, exchanges, or insists on a free name.
func (t *tree) rename() error {
	from, to := t.spot(), t.spot()
	if s, ok := t.there(anyNode); ok && t.r.IntN(4) > 0 {
		from = s
	}
	flags := []uint{0, 0, unix.RENAME_NOREPLACE, unix.RENAME_EXCHANGE}[t.r.IntN(4)]
	t.did(fmt.Sprint("rename-", flags), from.path, to.path)
	want := renameAnswer(from, to, flags)
	err := unix.Renameat2(unix.AT_FDCWD, from.path, unix.AT_FDCWD, to.path, flags)
	if wrong := answer(err, want, from); wrong != nil {
		return fmt.Errorf("rename to %q: %w", to.path, wrong)
	}
	if err != nil || from.node == to.node {
		return nil
	}
	if flags == unix.RENAME_EXCHANGE {
		t.enter(from, to.node)
		t.enter(to, from.node)
		return nil
	}
	if to.node != nil {
		t.remove(to)
	}
	delete(from.parent.Kids, from.name)
	from.parent.Mtime = 0
	t.enter(to, from.node)
	return nil
}

// renameAnswer is what Linux says, in the order in which it looks (do_renameat2 and vfs_rename in fs/namei.c).
func renameAnswer(from, to spot, flags uint) error {
	exchange := flags == unix.RENAME_EXCHANGE
	switch {
	case from.node == nil:
		return unix.ENOENT
	case flags == unix.RENAME_NOREPLACE && to.node != nil:
		return unix.EEXIST
	case exchange && to.node == nil:
		return unix.ENOENT
	case from.node.dir() && above(from.node, to.parent): // into itself
		return unix.EINVAL
	case to.node != nil && to.node.dir() && above(to.node, from.parent):
		if exchange {
			return unix.EINVAL
		}
		return unix.ENOTEMPTY
	case from.node == to.node || exchange || to.node == nil:
		return nil
	case from.node.dir() && !to.node.dir():
		return unix.ENOTDIR
	case !from.node.dir() && to.node.dir():
		return unix.EISDIR
	case to.node.dir() && len(to.node.Kids) > 0:
		return unix.ENOTEMPTY
	}
	return nil
}

// unlinkOpen opens a file and takes its name away. It stays open, and its content with it.
func (t *tree) unlinkOpen() error {
	s, ok := t.there(func(n *node) bool { return n.regular() })
	if !ok || len(t.open) >= 10 {
		return nil
	}
	t.did("unlink-open", s.path)
	fd, err := unix.Open(s.path, unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	if err := unix.Unlink(s.path); err != nil {
		return answer(err, nil, s)
	}
	t.remove(s)
	t.open = append(t.open, &nameless{fd, s.node})
	return nil
}

// useOpen writes to a file without a name and compares it; half of the time it closes it then.
func (t *tree) useOpen() error {
	if len(t.open) == 0 {
		return nil
	}
	k := t.r.IntN(len(t.open))
	o := t.open[k]
	t.did("use-open", filepath.Base(fmt.Sprint(o.node.ID)))
	if err := t.writeTo(o.fd, o.node); err != nil {
		return err
	}
	if err := sameContent(o.fd, o.node); err != nil {
		return fmt.Errorf("a file without a name: %w", err)
	}
	if t.r.IntN(2) == 0 {
		return nil
	}
	t.open = append(t.open[:k], t.open[k+1:]...)
	return unix.Close(o.fd)
}
