package fsx

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strconv"

	"golang.org/x/sys/unix"
)

// Names in the shared directory. Each call there makes or takes away a name, or fails because another process was first.
const (
	sharedNames = 24
	sharedLinks = "linked"  // a file of which all processes make links
	sharedFile  = "current" // a file that is replaced again and again, always as a whole
)

// sharer works in a directory that other sharers change at the same time. Nobody knows what is there; but whoever made or took away a
// name knows that it did, so that over all processes the sum for each name is what is there at the end.
type sharer struct {
	dir   string
	r     *rand.Rand
	id    uint64
	n     int
	Tally map[string]int // how often a name was made, less how often it was taken away
	done  int
	late  int // another process was first
}

func newSharer(dir string, seed uint64) *sharer {
	return &sharer{dir: dir, r: rand.New(rand.NewPCG(seed, 5)), id: seed, Tally: map[string]int{}}
}

func (s *sharer) String() string { return fmt.Sprintf("%d calls, %d too late", s.done, s.late) }

func (s *sharer) name() string { return "n" + strconv.Itoa(s.r.IntN(sharedNames)) }

func (s *sharer) path(name string) string { return filepath.Join(s.dir, name) }

// step does one call.
func (s *sharer) step() error {
	if s.dir == "" {
		return nil
	}
	s.n++
	a, b := s.name(), s.name()
	switch s.r.IntN(10) {
	case 0:
		fd, err := unix.Open(s.path(a), unix.O_CREAT|unix.O_EXCL|unix.O_WRONLY|unix.O_CLOEXEC, 0o644)
		if err == nil {
			err = unix.Close(fd)
		}
		return s.tally(err, a, "")
	case 1:
		return s.tally(unix.Mkdir(s.path(a), 0o755), a, "")
	case 2:
		return s.tally(unix.Symlink("target", s.path(a)), a, "")
	case 3:
		return s.tally(unix.Link(s.path(sharedLinks), s.path(a)), a, "")
	case 4:
		return s.tally(unix.Unlink(s.path(a)), "", a)
	case 5:
		return s.tally(unix.Rmdir(s.path(a)), "", a)
	case 6, 7:
		if a == b {
			return nil
		}
		return s.tally(unix.Renameat2(unix.AT_FDCWD, s.path(a), unix.AT_FDCWD, s.path(b), unix.RENAME_NOREPLACE), b, a)
	case 8: // nothing comes or goes
		return s.tally(unix.Renameat2(unix.AT_FDCWD, s.path(a), unix.AT_FDCWD, s.path(b), unix.RENAME_EXCHANGE), "", "")
	default:
		return s.current()
	}
}

// tally notes a name that was made and one that was taken away, if the call succeeded.
func (s *sharer) tally(err error, made, gone string) error {
	s.done++
	if err != nil {
		s.late++
		for _, is := range []error{unix.EEXIST, unix.ENOENT, unix.ENOTDIR, unix.EISDIR, unix.ENOTEMPTY} {
			if errors.Is(err, is) {
				return nil
			}
		}
		return fmt.Errorf("in the shared directory, +%s -%s: %w", made, gone, err)
	}
	if made != "" {
		s.Tally[made]++
	}
	if gone != "" {
		s.Tally[gone]--
	}
	return nil
}

// current replaces the current file, or reads it: it is always there, and always whole.
func (s *sharer) current() error {
	path := s.path(sharedFile)
	if s.r.IntN(2) == 0 {
		return s.wholeFile(path)
	}
	mine := s.path(fmt.Sprint("next-", s.id))
	fd, err := unix.Open(mine, unix.O_CREAT|unix.O_EXCL|unix.O_WRONLY|unix.O_CLOEXEC, 0o644)
	if err != nil {
		return fmt.Errorf("create %q: %w", mine, err)
	}
	b := make([]byte, 8+s.r.IntN(6000))
	for i := range b {
		b[i] = byte(len(b))
	}
	if n, err := unix.Write(fd, b); err != nil || n != len(b) {
		return fmt.Errorf("wrote %d of %d: %w", n, len(b), err)
	}
	if err := unix.Close(fd); err != nil {
		return err
	}
	if err := unix.Rename(mine, path); err != nil {
		return fmt.Errorf("rename over the current file: %w", err)
	}
	return nil
}

// wholeFile: all bytes of the current file say how long it is.
func (s *sharer) wholeFile(path string) error {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("the current file, which is always there: %w", err)
	}
	b := make([]byte, 10000)
	n, err := unix.Pread(fd, b, 0)
	if err != nil || slices.ContainsFunc(b[:n], func(x byte) bool { return x != byte(n) }) {
		return fmt.Errorf("the current file has %d bytes and is not whole: %w", n, err)
	}
	return unix.Close(fd)
}

// makeShared takes DIR and makes what is there from the start.
func makeShared(args []string) error {
	for _, name := range []string{sharedFile, sharedLinks} {
		if err := unix.Mknod(filepath.Join(args[0], name), unix.S_IFREG|0o644, 0); err != nil {
			return err
		}
	}
	return nil
}

// sameShared takes DIR TALLY... and compares what is in DIR with what all processes did.
func sameShared(args []string) error {
	want := map[string]int{sharedFile: 1, sharedLinks: 1}
	for _, file := range args[1:] {
		var one map[string]int
		if err := load(file, &one); err != nil {
			return err
		}
		for name, n := range one {
			want[name] += n
		}
	}
	entries, err := readDir(args[0])
	if err != nil {
		return err
	}
	var linked unix.Stat_t
	if err := unix.Stat(filepath.Join(args[0], sharedLinks), &linked); err != nil {
		return err
	}
	links := 0
	for _, e := range entries {
		want[e.name]--
		if e.ino == linked.Ino {
			links++
		}
	}
	for name, n := range want {
		if n != 0 {
			return fmt.Errorf("%q: %d more than is there (made less taken away)", name, n)
		}
	}
	if links != int(linked.Nlink) {
		return fmt.Errorf("%q: %d links, but %d names", sharedLinks, linked.Nlink, links)
	}
	return nil
}
