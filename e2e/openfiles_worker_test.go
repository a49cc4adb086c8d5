package e2e

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// useUnlinked keeps a file of 10 MiB open that has no name.
func useUnlinked(args []string) error {
	f, err := os.OpenFile(args[0], os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	b := bytes.Repeat([]byte("0123456789abcdef"), 10<<20/16)
	if _, err := f.Write(b); err != nil {
		return err
	}
	if err := os.Remove(args[0]); err != nil {
		return err
	}
	if err := os.WriteFile(args[0], []byte("another file"), 0o600); err != nil {
		return err
	}
	if err := say("unlinked"); err != nil {
		return err
	}
	copy(b[5<<20:], "changed")
	if _, err := f.WriteAt([]byte("changed"), 5<<20); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	if err := sameContent(f, b); err != nil {
		return err
	}
	if err := say("used"); err != nil {
		return err
	}
	if err := sameContent(f, b); err != nil {
		return err
	}
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return err
	}
	other, err := os.ReadFile(args[0])
	return errors.Join(err, check(st.Nlink == 0, "nlink is %d", st.Nlink),
		check(string(other) == "another file", "the new file of that name has %q", other), f.Close())
}

func sameContent(f *os.File, want []byte) error {
	got, err := io.ReadAll(io.NewSectionReader(f, 0, 1<<40))
	return errors.Join(err, check(bytes.Equal(got, want), "the content differs (%d bytes, want %d)", len(got), len(want)))
}

// listWhileItChanges lists a directory in three parts, changes it in between, and checks what POSIX promises: an entry that is there
// all the time comes exactly once.
func listWhileItChanges(args []string) error {
	dir := args[0]
	if err := os.Mkdir(dir, 0o755); err != nil {
		return err
	}
	const stable = 3000
	for n := range stable {
		if err := touch(dir, "stable", n); err != nil {
			return err
		}
		if n%3 == 0 {
			if err := touch(dir, "going", n); err != nil {
				return err
			}
		}
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	seen := map[string]int{}
	for part, name := range []string{"begun", "half", ""} {
		most := 1000
		if name == "" {
			most = -1 // all the rest
		}
		if err := listPart(d, seen, most); err != nil {
			return err
		}
		for n := part; n < stable; n += 6 {
			if n%3 == 0 {
				if err := os.Remove(filepath.Join(dir, fmt.Sprint("going", n))); err != nil {
					return err
				}
			}
			if err := touch(dir, fmt.Sprint("coming", part, "-"), n); err != nil {
				return err
			}
		}
		if name != "" {
			if err := say(name); err != nil {
				return err
			}
		}
	}
	for n := range stable {
		if got := seen[fmt.Sprint("stable", n)]; got != 1 {
			return fmt.Errorf("stable%d was listed %d times", n, got)
		}
	}
	for name, times := range seen {
		if times > 1 {
			return fmt.Errorf("%s was listed %d times", name, times)
		}
	}
	return d.Close()
}

func touch(dir, name string, n int) error {
	return os.WriteFile(filepath.Join(dir, name+strconv.Itoa(n)), nil, 0o644)
}

func listPart(d *os.File, seen map[string]int, most int) error {
	names, err := d.Readdirnames(most)
	for _, n := range names {
		seen[n]++
	}
	if errors.Is(err, io.EOF) {
		err = nil
	}
	return err
}

// writeByMap writes to a shared map before and after the pause, and prints the SHA-256 of what it has.
func writeByMap(args []string) error {
	f, err := os.OpenFile(args[0], os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	const size = 3 << 20
	if err := f.Truncate(size); err != nil {
		return err
	}
	m, err := unix.Mmap(int(f.Fd()), 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return err
	}
	for n := 0; n < size; n += 1000 {
		m[n] = byte(n / 1000)
	}
	if err := say("dirty"); err != nil {
		return err
	}
	for n := 500; n < size; n += 1000 {
		m[n] = byte(n / 1001)
	}
	if err := unix.Msync(m, unix.MS_SYNC); err != nil {
		return err
	}
	if err := say("synced"); err != nil {
		return err
	}
	fmt.Fprintf(os.Stderr, "%x\n", sha256.Sum256(m)) // standard output is the dialog's
	return errors.Join(sameContent(f, m), unix.Munmap(m), f.Close())
}

// appendRecords appends the records of one process.
func appendRecords(args []string) error {
	f, err := os.OpenFile(args[0], os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		return err
	}
	process, err := strconv.Atoi(args[1])
	if err != nil {
		return err
	}
	records, err := strconv.Atoi(args[2])
	if err != nil {
		return err
	}
	for n := range records {
		if _, err := f.WriteString(appended(process, n)); err != nil {
			return err
		}
	}
	return f.Close()
}

func appended(process, n int) string {
	return fmt.Sprintf("%d %d %s\n", process, n, strings.Repeat("x", n%250))
}

// holdLock takes a flock and an fcntl lock: "hold FILE", "wait FILE RELEASED", "try FILE".
func holdLock(args []string) error {
	f, err := os.OpenFile(args[1], os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return err
	}
	record := unix.Flock_t{Type: unix.F_WRLCK, Start: 10, Len: 10}
	both := func(flock, fcntl int) (error, error) {
		return unix.Flock(int(f.Fd()), flock), unix.FcntlFlock(f.Fd(), fcntl, &record)
	}
	if args[0] == "try" {
		word := func(err error) string {
			return map[bool]string{true: "free", false: "busy"}[err == nil]
		}
		a, b := both(unix.LOCK_EX|unix.LOCK_NB, unix.F_SETLK)
		fmt.Println(word(a), word(b))
		return nil
	}
	if err := errors.Join(both(unix.LOCK_EX, unix.F_SETLKW)); err != nil {
		return err
	}
	if args[0] == "wait" {
		_, err := os.Stat(args[2])
		return err
	}
	return say("locked")
}
