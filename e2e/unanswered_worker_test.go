package e2e

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// unansweredCall is a call whose request would fail, or do harm, if it were done twice.
type unansweredCall struct {
	name    string
	opcode  uint32 // of linux/fuse.h
	prepare func() error
	call    func() error
	want    string // of tell, afterwards
}

// unansweredCalls work on the names a and b in the working directory.
func unansweredCalls() []unansweredCall {
	both := func() error { return errors.Join(write("a", "A"), write("b", "B")) }
	one := func() error { return write("a", "A") }
	nothing := func() error { return nil }
	linked := func() error { return errors.Join(write("a", "A"), os.Link("a", "b")) }
	dir := func() error { return os.Mkdir("a", 0o755) }
	rename := func(flags uint) func() error {
		return func() error { return unix.Renameat2(unix.AT_FDCWD, "a", unix.AT_FDCWD, "b", flags) }
	}
	return []unansweredCall{
		{"mkdir", 9, nothing, dir, "a/2"},
		{"mkfifo", 8, nothing, func() error { return unix.Mkfifo("a", 0o644) }, "a=1"},
		{"symlink", 6, nothing, func() error { return os.Symlink("x", "a") }, "a=1"},
		{"create", 35, nothing, func() error { return openWrite("a", os.O_CREATE|os.O_EXCL, "") }, "a=1"},
		{"link", 13, one, func() error { return os.Link("a", "b") }, "a=2A b=2A"},
		{"unlink", 10, linked, func() error { return unix.Unlink("a") }, "b=1A"},
		{"rmdir", 11, dir, func() error { return unix.Rmdir("a") }, ""},
		{"rename", 12, both, func() error { return os.Rename("a", "b") }, "b=1A"},
		{"rename without replacing", 45, one, rename(unix.RENAME_NOREPLACE), "b=1A"},
		{"exchange", 45, both, rename(unix.RENAME_EXCHANGE), "a=1B b=1A"},
		{"setxattr", 21, one, func() error { return unix.Setxattr("a", "user.x", []byte("X"), unix.XATTR_CREATE) }, "a=1A"},
		{"removexattr", 24, func() error { return errors.Join(write("a", "A"), unix.Setxattr("a", "user.x", []byte("X"), 0)) },
			func() error { return unix.Removexattr("a", "user.x") }, "a=1A"},
		{"append", 16, one, func() error { return openWrite("a", os.O_APPEND, "A") }, "a=1AA"},
		{"truncate", 4, one, func() error { return os.Truncate("a", 0) }, "a=1"},
		{"allocate", 43, one, func() error {
			return openAnd("a", os.O_RDWR, func(f *os.File) error { return unix.Fallocate(int(f.Fd()), 0, 0, 2) })
		},
			"a=1A\x00"},
		{"file without a name", 51, nothing, func() error {
			return openAnd(".", unix.O_TMPFILE|os.O_RDWR, func(f *os.File) error {
				_, err := f.WriteString("T")
				return errors.Join(err, unix.Linkat(unix.AT_FDCWD, fmt.Sprintf("/proc/self/fd/%d", f.Fd()), unix.AT_FDCWD, "a", unix.AT_SYMLINK_FOLLOW))
			})
		}, "a=1T"},
	}
}

func write(name, text string) error { return os.WriteFile(name, []byte(text), 0o644) }

func openAnd(name string, flags int, use func(f *os.File) error) error {
	f, err := os.OpenFile(name, flags, 0o644)
	if err != nil {
		return err
	}
	return errors.Join(use(f), f.Close())
}

func openWrite(name string, flags int, text string) error {
	return openAnd(name, flags|os.O_WRONLY, func(f *os.File) error {
		if text == "" {
			return nil
		}
		_, err := f.WriteString(text)
		return err
	})
}

// makeUnansweredCall takes DIR and the call's number: it prepares DIR, waits for the word, makes the call and looks what came of it.
func makeUnansweredCall(args []string) error {
	n, err := strconv.Atoi(args[1])
	if err != nil {
		return err
	}
	c := unansweredCalls()[n]
	if err := errors.Join(os.Mkdir(args[0], 0o755), os.Chdir(args[0]), c.prepare()); err != nil {
		return err
	}
	if err := say("prepared"); err != nil {
		return err
	}
	if err := c.call(); err != nil {
		return fmt.Errorf("%s: %w", c.name, err)
	}
	is, err := contentOf(".")
	return errors.Join(err, check(is == c.want, "%s: there is %q, want %q", c.name, is, c.want))
}

// contentOf tells a directory's names, link counts, and what is in its files.
func contentOf(dir string) (string, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return "", err
	}
	var all []string
	for _, e := range entries {
		path := filepath.Join(dir, e.Name())
		var st unix.Stat_t
		if err := unix.Lstat(path, &st); err != nil {
			return "", err
		}
		text := fmt.Sprintf("%s=%d", e.Name(), st.Nlink)
		switch {
		case e.IsDir():
			text = fmt.Sprintf("%s/%d", e.Name(), st.Nlink)
		case e.Type().IsRegular():
			b, err := os.ReadFile(path)
			if err != nil {
				return "", err
			}
			text += string(b)
		}
		all = append(all, text)
	}
	return strings.Join(all, " "), nil
}
