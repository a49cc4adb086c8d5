package fsx

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// crowd is a directory with many entries, which is listed while it changes.
const crowd = "crowd"

const crowdSize = 300

func sortedNames(n *node) []string { return slices.Sorted(maps.Keys(n.Kids)) }

// growTree takes DIR STATE SEED OPS SHARED TALLY, does so many operations on a tree in DIR and in the directory SHARED, which others
// change, too, and saves the tree to STATE and what it did in SHARED to TALLY. If they are there already, it goes on from there.
func growTree(args []string) error {
	seed, err := strconv.ParseUint(args[2], 10, 64)
	if err != nil {
		return err
	}
	ops, err := strconv.Atoi(args[3])
	if err != nil {
		return err
	}
	t, s := newTree(args[0], seed), newSharer(args[4], seed)
	if err := load(args[1], &t.top); err == nil {
		err = load(args[5], &s.Tally)
		t.adopt(t.top, map[int]*node{})
		if err := errors.Join(err, same(t.root, t.top)); err != nil {
			return fmt.Errorf("before the first operation: %w", err)
		}
	} else if err := t.fillCrowd(); err != nil {
		return t.report(err)
	}
	for range ops {
		if err := t.step(); err != nil {
			return t.report(err)
		}
		if err := s.step(); err != nil {
			return err
		}
	}
	for _, o := range t.open {
		if err := errors.Join(sameContent(o.fd, o.node), unix.Close(o.fd)); err != nil {
			return t.report(fmt.Errorf("a file without a name: %w", err))
		}
	}
	if err := same(t.root, t.top); err != nil {
		return t.report(err)
	}
	fmt.Printf("%d nodes; calls %v; shared %s\n", t.count, t.calls, s)
	return errors.Join(save(args[1], t.top), save(args[5], s.Tally))
}

// step does one operation, more often one that makes while the tree is small.
func (t *tree) step() error {
	if t.count < fewNodes+crowdSize && t.r.IntN(3) == 0 || t.r.IntN(8) == 0 && t.count < manyNodes+crowdSize {
		makers := []func() error{t.create, t.create, t.mkdir, t.mkdir, t.symlink, t.mknod, t.link, t.link}
		return makers[t.r.IntN(len(makers))]()
	}
	all := []func() error{t.unlink, t.unlink, t.rmdir, t.rename, t.rename, t.rename, t.rename, t.write, t.truncate, t.chmod, t.chown, t.utimes, t.xattr,
		t.xattr, t.unlinkOpen, t.useOpen, t.look, t.look, t.removed}
	n := t.r.IntN(len(all) + 1)
	if n == len(all) {
		if n = t.r.IntN(40); n == 0 {
			return t.list()
		} else if n < 3 || t.count > manyNodes+crowdSize {
			return t.removeTree()
		}
		return nil
	}
	return all[n]()
}

func (t *tree) report(err error) error {
	return fmt.Errorf("%w\nthe last operations:\n  %s", err, strings.Join(t.last[max(0, len(t.last)-40):], "\n  "))
}

// look compares one name with the model, there or not.
func (t *tree) look() error {
	s := t.spot()
	if s.node == nil {
		return answer(unix.Lstat(s.path, new(unix.Stat_t)), unix.ENOENT, s)
	}
	if s.node.dir() {
		return sameAttributes(s.path, s.node, map[int]uint64{})
	}
	return sameNode(s.path, s.node, map[int]uint64{})
}

// removed looks at a name in a directory that is gone, and at one below a file.
func (t *tree) removed() error {
	s, ok := t.there((*node).regular)
	if !ok {
		return nil
	}
	_, err := unix.Open(s.path+"/below", unix.O_CREAT|unix.O_RDWR, 0o644)
	return answer(err, unix.ENOTDIR, s)
}

// adopt makes one node again of those that were one before they were saved.
func (t *tree) adopt(dir *node, known map[int]*node) {
	for name, kid := range dir.Kids {
		if one := known[kid.ID]; one != nil {
			dir.Kids[name] = one
			continue
		}
		known[kid.ID] = kid
		t.next = max(t.next, kid.ID+1)
		t.count++
		if kid.Xattrs == nil { // gob leaves out what is empty
			kid.Xattrs = map[string][]byte{}
		}
		if kid.dir() && kid.Kids == nil {
			kid.Kids = map[string]*node{}
		}
		t.adopt(kid, known)
	}
}

func (t *tree) fillCrowd() error {
	t.did("mkdir", crowd)
	s := t.in(t.top, t.root, crowd)
	if err := unix.Mkdir(s.path, 0o755); err != nil {
		return err
	}
	dir := t.make(s, unix.S_IFDIR|0o755)
	for n := range crowdSize {
		s := t.in(dir, s.path, "c"+strconv.Itoa(n))
		if err := unix.Mknod(s.path, unix.S_IFREG|0o600, 0); err != nil {
			return err
		}
		t.make(s, unix.S_IFREG|0o600)
	}
	return nil
}

// list lists the crowd in small steps while entries come, go and change their names. What is there all the time comes exactly once.
func (t *tree) list() error {
	dir, at := t.top.Kids[crowd], filepath.Join(t.root, crowd)
	t.did("list", at)
	fd, err := unix.Open(at, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	stay := maps.Clone(dir.Kids) // what is neither removed nor renamed meanwhile
	seen, ever := map[string]int{}, map[string]bool{}
	for name := range stay {
		ever[name] = true
	}
	buf := make([]byte, 600)
	for {
		n, err := unix.ReadDirent(fd, buf)
		if err != nil {
			return fmt.Errorf("getdents after %d entries: %w", len(seen), err)
		}
		if n == 0 {
			break
		}
		_, _, names := unix.ParseDirent(buf[:n], -1, nil)
		for _, name := range names {
			seen[name]++
		}
		if t.r.IntN(3) == 0 {
			if err := t.stir(dir, at, stay, ever); err != nil {
				return err
			}
		}
	}
	for name := range stay {
		if seen[name] != 1 {
			return fmt.Errorf("a listing of %s: %q, which was there all the time, came %d times", at, name, seen[name])
		}
	}
	for name := range seen {
		if !ever[name] {
			return fmt.Errorf("a listing of %s: %q came, which was never there", at, name)
		}
	}
	return unix.Close(fd)
}

// stir makes, removes or renames an entry of the crowd.
func (t *tree) stir(dir *node, at string, stay map[string]*node, ever map[string]bool) error {
	a := t.in(dir, at, "c"+strconv.Itoa(t.r.IntN(crowdSize+100)))
	b := t.in(dir, at, "c"+strconv.Itoa(t.r.IntN(crowdSize+100)))
	delete(stay, a.name)
	ever[a.name] = true
	if a.node == nil {
		if err := unix.Mknod(a.path, unix.S_IFREG|0o600, 0); err != nil {
			return answer(err, nil, a)
		}
		t.make(a, unix.S_IFREG|0o600)
		return nil
	}
	if b.node != nil || t.r.IntN(2) == 0 {
		err := unix.Unlink(a.path)
		t.remove(a)
		return answer(err, nil, a)
	}
	delete(stay, b.name)
	ever[b.name] = true
	delete(dir.Kids, a.name)
	dir.Kids[b.name] = a.node
	dir.Mtime = 0
	return answer(unix.Rename(a.path, b.path), nil, a)
}

// sameTree takes DIR STATE and compares the tree in DIR with what growTree saved.
func sameTree(args []string) error {
	var top node
	if err := load(args[1], &top); err != nil {
		return err
	}
	return same(args[0], &top)
}

// removeIn takes DIR and removes everything in it.
func removeIn(args []string) error {
	entries, err := os.ReadDir(args[0])
	if err != nil {
		return err
	}
	for _, e := range entries {
		if err := os.RemoveAll(filepath.Join(args[0], e.Name())); err != nil {
			return err
		}
	}
	return nil
}
