package e2e

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// comparer does calls in a directory and prints what they do.
type comparer struct{ dir string }

var comparisons = []struct {
	name string
	do   func(*comparer)
}{
	{"allocate", (*comparer).allocate},
	{"copies", (*comparer).copies},
	{"limits", (*comparer).limits},
	{"names", (*comparer).names},
	{"privileges", (*comparer).privileges},
	{"renames", (*comparer).renames},
	{"setuid", (*comparer).setuid},
	{"times", (*comparer).times},
	{"unnamed", (*comparer).unnamed},
	{"xattrs", (*comparer).xattrs},
}

// compare takes PART DIR.
func compare(args []string) error {
	unix.Umask(0o022)
	if err := os.Mkdir(args[1], 0o755); err != nil {
		return err
	}
	for _, c := range comparisons {
		if c.name == args[0] {
			c.do(&comparer{args[1]})
			return nil
		}
	}
	return fmt.Errorf("no comparison %q", args[0])
}

// in is the path of a name.
func (c *comparer) in(name string) string { return filepath.Join(c.dir, name) }

// say prints a line: what was done, and what came of it; of an error the errno alone.
func (c *comparer) say(what string, results ...any) {
	var b strings.Builder
	for _, r := range results {
		if err, ok := r.(error); ok {
			var e syscall.Errno
			if errors.As(err, &e) {
				r = unix.ErrnoName(e)
			}
		}
		fmt.Fprintf(&b, " %v", r)
	}
	fmt.Println(what + ":" + b.String())
}

// must is for what prepares a comparison.
func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func mustDo(err error) {
	if err != nil {
		panic(err)
	}
}

// file makes a file and opens it.
func (c *comparer) file(name string, content []byte) int {
	mustDo(os.WriteFile(c.in(name), content, 0o644))
	return must(unix.Open(c.in(name), unix.O_RDWR, 0))
}

// pattern is content without zeros.
func pattern(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(1 + i%251)
	}
	return b
}

// state is a file's size, content and data segments.
func state(fd int) string {
	var st unix.Stat_t
	mustDo(unix.Fstat(fd, &st))
	h := sha256.New()
	var segments []string
	for off := int64(0); off < st.Size; {
		data, err := unix.Seek(fd, off, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) {
			break
		}
		hole := must(unix.Seek(fd, must(data, err), unix.SEEK_HOLE))
		segments = append(segments, fmt.Sprintf("%d-%d", data, hole))
		off = hole
	}
	buf := make([]byte, 1<<16)
	for off := int64(0); off < st.Size && off < 8<<20; {
		n := must(unix.Pread(fd, buf, off))
		h.Write(buf[:n])
		off += int64(n)
	}
	return fmt.Sprintf("size %d sum %.4x data %v", st.Size, h.Sum(nil), segments)
}
