package e2e

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// namer changes names in two directories that other namers change, too, each only names of its own, and knows what must be there.
type namer struct {
	dir, id string
	r       *rand.Rand
	inodes  map[string]*inode // by path below dir
	calls   int
	made    int
}

type inode struct {
	ino     uint64
	dir     bool
	content string // of a file; target of a symlink
	links   int
	symlink bool
	attr    bool
}

// changeNames takes DIR STOP ID SEED and works until the file STOP is there. It prints its files, calls, and its share of the counter.
func changeNames(args []string) error {
	seed, err := strconv.ParseUint(args[3], 10, 64)
	if err != nil {
		return err
	}
	n := &namer{dir: args[0], id: args[2], r: rand.New(rand.NewPCG(seed, 0)), inodes: map[string]*inode{}}
	counted := 0
	for {
		if _, err := os.Stat(args[1]); err == nil {
			break
		}
		for range 50 {
			if err := n.step(); err != nil {
				return err
			}
		}
		if err := n.count(); err != nil {
			return err
		}
		counted++
	}
	for path, in := range n.inodes {
		links, what := in.links, ""
		switch {
		case in.dir:
			links = 2
		case in.symlink:
			what = " " + in.content
		default:
			what = fmt.Sprintf(" %x", sha256.Sum256([]byte(in.content)))
		}
		fmt.Printf("%q ino=%d nlink=%d%s\n", "/"+path, in.ino, links, what)
	}
	fmt.Printf("calls %d\ncounted %d\n", n.calls, counted)
	return nil
}

func (n *namer) path(name string) string { return filepath.Join(n.dir, name) }

func (n *namer) name() string {
	return []string{"a/", "b/"}[n.r.IntN(2)] + "p" + n.id + "-" + strconv.Itoa(n.r.IntN(8))
}

// step makes one call, of which it knows how it must end.
func (n *namer) step() error {
	n.calls++
	from, to := n.name(), n.name()
	steps := []func(from, to string) error{n.create, n.mkdir, n.symlink, n.remove, n.remove, n.link, n.rename, n.rename, n.exchange, n.xattr}
	return steps[n.r.IntN(len(steps))](from, to)
}

// end compares how a call ended with how it must end.
func (n *namer) end(err, want error, call string, names ...string) error {
	if errors.Is(err, want) {
		return nil
	}
	return fmt.Errorf("call %d: %s %s: got %v, want %v", n.calls, call, strings.Join(names, " "), err, want)
}

// free is what a call that makes a name must return.
func (n *namer) free(name string) error {
	if n.inodes[name] != nil {
		return syscall.EEXIST
	}
	return nil
}

// add takes in what a call made.
func (n *namer) add(name string, in *inode) error {
	var st unix.Stat_t
	if err := unix.Lstat(n.path(name), &st); err != nil {
		return fmt.Errorf("call %d: made %s, and then: %w", n.calls, name, err)
	}
	in.ino, in.links = st.Ino, 1
	n.inodes[name] = in
	return nil
}

func (n *namer) create(name, _ string) error {
	want := n.free(name)
	f, err := os.OpenFile(n.path(name), os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
	if endErr := n.end(err, want, "create", name); endErr != nil || want != nil {
		return endErr
	}
	n.made++
	in := &inode{content: fmt.Sprintf("file %d of %s", n.made, n.id)}
	if _, err := f.WriteString(in.content); err != nil {
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	return n.add(name, in)
}

func (n *namer) mkdir(name, _ string) error {
	want := n.free(name)
	if err := n.end(unix.Mkdir(n.path(name), 0o755), want, "mkdir", name); err != nil || want != nil {
		return err
	}
	return n.add(name, &inode{dir: true})
}

func (n *namer) symlink(name, _ string) error {
	want := n.free(name)
	n.made++
	in := &inode{symlink: true, content: fmt.Sprintf("to-%d-of-%s", n.made, n.id)}
	if err := n.end(unix.Symlink(in.content, n.path(name)), want, "symlink", name); err != nil || want != nil {
		return err
	}
	return n.add(name, in)
}

func (n *namer) remove(name, _ string) error {
	in := n.inodes[name]
	var want error
	if in == nil {
		want = syscall.ENOENT
	}
	call := unix.Unlink
	if in != nil && in.dir {
		call = unix.Rmdir
	}
	if err := n.end(call(n.path(name)), want, "remove", name); err != nil || want != nil {
		return err
	}
	in.links--
	delete(n.inodes, name)
	return nil
}

func (n *namer) link(from, to string) error {
	in := n.inodes[from]
	if in == nil || in.dir {
		return nil
	}
	want := n.free(to)
	if err := n.end(unix.Link(n.path(from), n.path(to)), want, "link", from, to); err != nil || want != nil {
		return err
	}
	in.links++
	n.inodes[to] = in
	return nil
}

func (n *namer) rename(from, to string) error {
	in, old := n.inodes[from], n.inodes[to]
	var want error
	switch {
	case in == nil:
		want = syscall.ENOENT
	case old == nil || in == old:
	case in.dir && !old.dir:
		want = syscall.ENOTDIR
	case !in.dir && old.dir:
		want = syscall.EISDIR
	}
	if err := n.end(unix.Rename(n.path(from), n.path(to)), want, "rename", from, to); err != nil || want != nil || in == old {
		return err
	}
	if old != nil {
		old.links--
	}
	delete(n.inodes, from)
	n.inodes[to] = in
	return nil
}

// exchange swaps two names. Happening twice, it would not have happened.
func (n *namer) exchange(from, to string) error {
	a, b := n.inodes[from], n.inodes[to]
	if a == nil || b == nil {
		return nil
	}
	err := unix.Renameat2(unix.AT_FDCWD, n.path(from), unix.AT_FDCWD, n.path(to), unix.RENAME_EXCHANGE)
	n.inodes[from], n.inodes[to] = b, a
	return n.end(err, nil, "exchange", from, to)
}

func (n *namer) xattr(name, _ string) error {
	in := n.inodes[name]
	if in == nil || in.symlink {
		return nil
	}
	if in.attr {
		in.attr = false
		return n.end(unix.Removexattr(n.path(name), "user.a"), nil, "removexattr", name)
	}
	in.attr = true
	return n.end(unix.Setxattr(n.path(name), "user.a", []byte("1"), unix.XATTR_CREATE), nil, "setxattr", name)
}

// count adds one to a number in a file, under a lock that is the existence of another file.
func (n *namer) count() error {
	lock, file := n.path("lock"), n.path("count")
	for deadline := time.Now().Add(30 * time.Second); ; {
		fd, err := unix.Open(lock, unix.O_CREAT|unix.O_EXCL|unix.O_WRONLY|unix.O_CLOEXEC, 0o644)
		if err == nil {
			if err := unix.Close(fd); err != nil {
				return err
			}
			break
		}
		if !errors.Is(err, syscall.EEXIST) || time.Now().After(deadline) {
			return fmt.Errorf("take the lock: %w", err)
		}
		time.Sleep(time.Millisecond) // another has it
	}
	b, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	number, err := strconv.Atoi(strings.TrimSpace(string(b)))
	if err != nil {
		return err
	}
	if err := os.WriteFile(file, fmt.Appendln(nil, number+1), 0o644); err != nil {
		return err
	}
	if err := unix.Unlink(lock); err != nil {
		return fmt.Errorf("give the lock back: %w", err)
	}
	return nil
}
