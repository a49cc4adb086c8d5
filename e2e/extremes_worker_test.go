package e2e

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// manyOpen takes DIR N: it opens N new files, and uses each before and after it has lost its name.
func manyOpen(args []string) error {
	n, err := strconv.Atoi(args[1])
	if err != nil {
		return err
	}
	limit := unix.Rlimit{Cur: uint64(n) + 90, Max: uint64(n) + 90}
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		return fmt.Errorf("RLIMIT_NOFILE: %w", err)
	}
	path := func(k int) string { return filepath.Join(args[0], strconv.Itoa(k/1000), strconv.Itoa(k)) }
	fds := make([]int, n)
	for k := range fds {
		if k%1000 == 0 {
			if err := os.MkdirAll(filepath.Dir(path(k)), 0o755); err != nil {
				return err
			}
		}
		if fds[k], err = unix.Open(path(k), unix.O_CREAT|unix.O_EXCL|unix.O_RDWR, 0o600); err != nil {
			return fmt.Errorf("open file %d of %d: %w", k, n, err)
		}
		if _, err := unix.Write(fds[k], []byte(path(k))); err != nil {
			return err
		}
	}
	for round, step := range []string{"open", "unlinked"} {
		if err := say(step); err != nil {
			return err
		}
		for k, fd := range fds {
			b := make([]byte, 300)
			m, err := unix.Pread(fd, b, 0)
			want := path(k) + strings.Repeat("!", round)
			if err != nil || string(b[:m]) != want {
				return fmt.Errorf("file %d has %q, want %q, %w", k, b[:m], want, err)
			}
			if round == 0 {
				_, err = unix.Pwrite(fd, []byte("!"), int64(m))
				err = errors.Join(err, unix.Unlink(path(k)))
			} else {
				err = unix.Close(fd)
			}
			if err != nil {
				return err
			}
		}
	}
	return os.RemoveAll(args[0])
}

// largeDirectory takes DIR N.
func largeDirectory(args []string) error {
	n, err := strconv.Atoi(args[1])
	if err != nil {
		return err
	}
	began := time.Now()
	took := func(what string) { // goes to standard error: standard output is the dialog
		fmt.Fprintf(os.Stderr, "%s: %v\n", what, time.Since(began).Round(time.Millisecond))
		began = time.Now()
	}
	if err := os.Mkdir(args[0], 0o755); err != nil {
		return err
	}
	for k := range n {
		fd, err := unix.Open(filepath.Join(args[0], strconv.Itoa(k)), unix.O_CREAT|unix.O_EXCL|unix.O_WRONLY, 0o644)
		if err != nil {
			return fmt.Errorf("entry %d: %w", k, err)
		}
		if err := unix.Close(fd); err != nil {
			return err
		}
	}
	took("make")
	if err := say("made"); err != nil {
		return err
	}
	d, err := os.Open(args[0])
	if err != nil {
		return err
	}
	l := &listing{fd: int(d.Fd()), seen: make([]uint8, n)}
	if err := l.some(n / 2); err != nil {
		return err
	}
	place, next, err := l.place()
	if err != nil {
		return err
	}
	if err := say("half listed"); err != nil {
		return err
	}
	began = time.Now()
	for k := range n / 10 {
		if err := os.Remove(filepath.Join(args[0], strconv.Itoa(k*10))); err != nil {
			return err
		}
	}
	took("remove a tenth")
	if err := l.some(n); err != nil {
		return err
	}
	took("list the other half")
	for k, times := range l.seen {
		if times > 1 || times == 0 && k%10 != 0 {
			return fmt.Errorf("entry %d was listed %d times", k, times)
		}
	}
	if err := l.goBack(place, next); err != nil {
		return err
	}
	r := rand.New(rand.NewPCG(1, 2))
	for range 1000 {
		k := r.IntN(n)
		var st unix.Stat_t
		if err := unix.Stat(filepath.Join(args[0], strconv.Itoa(k)), &st); err != nil != (k%10 == 0) {
			return fmt.Errorf("entry %d: %w", k, err)
		}
	}
	began = time.Now()
	if err := os.RemoveAll(args[0]); err != nil {
		return err
	}
	took("remove the rest")
	return d.Close()
}

// listing reads a directory with getdents and numbers its entries.
type listing struct {
	fd   int
	seen []uint8
	buf  []byte // entries that were read and not visited
}

// some visits k entries, or all that are left.
func (l *listing) some(k int) error {
	for ; k > 0; k-- {
		name, _, err := l.next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if name == "." || name == ".." {
			continue
		}
		n, err := strconv.Atoi(name)
		if err != nil || n >= len(l.seen) {
			return fmt.Errorf("entry %q", name)
		}
		l.seen[n]++
	}
	return nil
}

// next takes the next entry, and the place behind it.
func (l *listing) next() (name string, place int64, err error) {
	if len(l.buf) == 0 {
		b := make([]byte, 1<<15)
		n, err := unix.Getdents(l.fd, b)
		if err != nil {
			return "", 0, err
		}
		if n == 0 {
			return "", 0, io.EOF
		}
		l.buf = b[:n]
	}
	// struct linux_dirent64: ino u64, off s64, length u16, type u8, name
	length := int(l.buf[16]) | int(l.buf[17])<<8
	for k := range 8 {
		place |= int64(l.buf[8+k]) << (8 * k)
	}
	raw := l.buf[19:length]
	l.buf = l.buf[length:]
	return string(raw[:bytes.IndexByte(raw, 0)]), place, nil
}

// place is where the listing is (telldir), and which entry comes next there.
func (l *listing) place() (int64, string, error) {
	name, place, err := l.next()
	if err != nil {
		return 0, "", err
	}
	n, err := strconv.Atoi(name)
	if err != nil {
		return 0, "", err
	}
	l.seen[n]++
	next, err := l.at(place)
	return place, next, err
}

// at goes to a place (seekdir) and says what comes there.
func (l *listing) at(place int64) (string, error) {
	seek := func() error {
		l.buf = nil
		return errOf(unix.Seek(l.fd, place, unix.SEEK_SET))
	}
	if err := seek(); err != nil {
		return "", err
	}
	name, _, err := l.next()
	return name, errors.Join(err, seek())
}

// goBack goes to a place of long ago: unless the entry that came there was removed, it still does.
func (l *listing) goBack(place int64, want string) error {
	name, err := l.at(place)
	if err != nil {
		return err
	}
	if n, _ := strconv.Atoi(want); n%10 != 0 && name != want {
		return fmt.Errorf("at place %d there was %s and is %s now", place, want, name)
	}
	return nil
}

// gibPart is repeated 256 times in 1 GiB.
func gibPart() []byte { return bytes.Repeat(pattern(1<<20-1), 5)[:4<<20] }

// writeGib takes FILE and writes 1 GiB to it in one call.
func writeGib(args []string) error {
	fd, err := unix.Open(args[0], unix.O_CREAT|unix.O_EXCL|unix.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	part := gibPart()
	parts := make([][]byte, 256)
	for i := range parts {
		parts[i] = part
	}
	n, err := unix.Writev(fd, parts)
	return errors.Join(err, fmt.Errorf("writev wrote all %d bytes before it was killed", n))
}

// checkGib takes FILE and looks whether it begins as writeGib writes it.
func checkGib(args []string) error {
	f, err := os.Open(args[0])
	if err != nil {
		return err
	}
	part, buf := gibPart(), make([]byte, 4<<20)
	for total := 0; ; {
		n, err := io.ReadFull(f, buf)
		if !bytes.Equal(buf[:n], part[:n]) {
			return fmt.Errorf("other content behind %d", total)
		}
		total += n
		switch {
		case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
			fmt.Printf("%d bytes were written before the end\n", total)
			return check(total > 0 && total < 1<<30, "the file has %d bytes", total)
		case err != nil:
			return err
		}
	}
}
