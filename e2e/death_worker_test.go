package e2e

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"
)

// rounds makes a worker of what takes a directory and the number of a round. It takes DIR ROUNDS, and leaves DIR empty.
func rounds(do func(dir string, round int) error) func(args []string) error {
	return func(args []string) error {
		most, err := strconv.Atoi(args[1])
		if err != nil {
			return err
		}
		for round := range most {
			if err := do(args[0], round); err != nil {
				return fmt.Errorf("round %d: %w", round, err)
			}
		}
		return nil
	}
}

const manyEntries = 5000

// getDents lists a directory of 5,000 entries, some at a time: each must come exactly once.
func getDents(dir string, _ int) error {
	name := func(n int) string { return fmt.Sprintf("%s/entry-%d", dir, n) }
	for n := range manyEntries {
		if err := os.Symlink("x", name(n)); err != nil {
			return err
		}
	}
	for range 10 {
		if err := listAll(dir); err != nil {
			return err
		}
		// The kernel may keep what it has read as long as the directory does not change.
		if err := errors.Join(os.Remove(name(17)), os.Symlink("x", name(17))); err != nil {
			return err
		}
	}
	for n := range manyEntries {
		if err := os.Remove(name(n)); err != nil {
			return err
		}
	}
	return nil
}

func listAll(dir string) error {
	fd, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	seen, buf := map[string]int{}, make([]byte, 1024)
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
	}
	for n := range manyEntries {
		if times := seen[fmt.Sprintf("entry-%d", n)]; times != 1 {
			return fmt.Errorf("entry-%d came %d times", n, times)
		}
	}
	return errors.Join(check(len(seen) == manyEntries, "%d entries", len(seen)), unix.Close(fd))
}

// useHandles works through handles of directories and files: of a directory that is gone, of a file whose name changes, by O_APPEND.
func useHandles(dir string, _ int) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	gone := filepath.Join(dir, "gone")
	if err := os.Mkdir(gone, 0o755); err != nil {
		return err
	}
	sub, err := os.Open(gone)
	if err != nil {
		return err
	}
	if err := os.Remove(gone); err != nil {
		return err
	}
	at := int(d.Fd())
	fd, err := unix.Openat(at, "0", unix.O_CREAT|unix.O_EXCL|unix.O_RDWR|unix.O_APPEND|unix.O_CLOEXEC, 0o644)
	if err != nil {
		return err
	}
	var want []byte
	for n := range 400 {
		if err := useHandle(at, fd, int(sub.Fd()), n); err != nil {
			return fmt.Errorf("turn %d: %w", n, err)
		}
		want = append(want, strconv.Itoa(n)...)
		var st unix.Stat_t
		if err := unix.Fstat(fd, &st); err != nil || st.Size != int64(len(want)) {
			return fmt.Errorf("turn %d: %d bytes after an append, want %d, %w", n, st.Size, len(want), err)
		}
	}
	got := make([]byte, len(want))
	if _, err := unix.Pread(fd, got, 0); err != nil || !bytes.Equal(got, want) {
		return fmt.Errorf("what was appended is not there, %w", err)
	}
	return errors.Join(unix.Close(fd), sub.Close(), unix.Unlinkat(at, "400", 0), d.Close())
}

func useHandle(dir, file, gone, n int) error {
	name, next := strconv.Itoa(n), strconv.Itoa(n+1)
	if err := unix.Renameat2(dir, name, dir, next, unix.RENAME_NOREPLACE); err != nil {
		return fmt.Errorf("rename: %w", err)
	}
	if _, err := unix.Write(file, []byte(name)); err != nil {
		return fmt.Errorf("append: %w", err)
	}
	value := bytes.Repeat([]byte(name), 1+n%200)
	if err := unix.Fsetxattr(file, "user.a", value, 0); err != nil {
		return fmt.Errorf("setxattr: %w", err)
	}
	got := make([]byte, 4096)
	size, err := unix.Fgetxattr(file, "user.a", got)
	if err != nil || !bytes.Equal(got[:max(size, 0)], value) {
		return fmt.Errorf("getxattr: %q, %w", got[:max(size, 0)], err)
	}
	if err := unix.Fremovexattr(file, "user.a"); err != nil {
		return fmt.Errorf("removexattr: %w", err)
	}
	_, err = unix.Openat(gone, "file", unix.O_CREAT|unix.O_WRONLY, 0o644)
	if err := wantErr(err, syscall.ENOENT, "create in a directory that is gone"); err != nil {
		return err
	}
	return errors.Join(unix.Mkdirat(dir, "d", 0o755), wantErr(unix.Mkdirat(dir, "d", 0o755), syscall.EEXIST, "mkdir again"),
		unix.Unlinkat(dir, "d", unix.AT_REMOVEDIR), wantErr(unix.Unlinkat(dir, "d", unix.AT_REMOVEDIR), syscall.ENOENT, "rmdir again"))
}

// writeMuch writes 48 MiB in one call, so that many requests are in flight.
func writeMuch(dir string, round int) error {
	f, err := os.OpenFile(filepath.Join(dir, "big"), os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o644)
	if err != nil {
		return err
	}
	r := &randomFile{f: f, want: make([]byte, 48<<20)}
	for range 8 {
		fillRandom(r.want, rand.New(rand.NewPCG(rand.Uint64(), uint64(round))))
		n, err := f.WriteAt(r.want, 0)
		if err != nil || n != len(r.want) {
			return fmt.Errorf("wrote %d of %d: %w", n, len(r.want), err)
		}
		if err := r.verify(0, len(r.want)); err != nil {
			return err
		}
	}
	return errors.Join(f.Sync(), os.Remove(f.Name()), f.Close())
}

// syncMuch has a sync in flight nearly all the time.
func syncMuch(dir string, _ int) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	f, err := os.OpenFile(filepath.Join(dir, "synced"), os.O_CREATE|os.O_EXCL|os.O_RDWR|os.O_SYNC, 0o644)
	if err != nil {
		return err
	}
	r := &randomFile{f: f, want: make([]byte, 4000)}
	for n := range 200 {
		fillRandom(r.want, rand.New(rand.NewPCG(uint64(n), 1)))
		if _, err := f.WriteAt(r.want, 0); err != nil {
			return err
		}
		if err := errors.Join(f.Sync(), unix.Fdatasync(int(f.Fd())), d.Sync()); err != nil {
			return err
		}
	}
	return errors.Join(r.verify(0, len(r.want)), os.Remove(f.Name()), f.Close(), d.Close())
}

// mapMuch writes a shared map and has it written back.
func mapMuch(dir string, _ int) error {
	f, err := os.OpenFile(filepath.Join(dir, "mapped"), os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o644)
	if err != nil {
		return err
	}
	r := &randomFile{f: f, want: make([]byte, 8<<20)}
	if err := f.Truncate(int64(len(r.want))); err != nil {
		return err
	}
	m, err := unix.Mmap(int(f.Fd()), 0, len(r.want), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return err
	}
	for n := range 15 {
		fillRandom(r.want, rand.New(rand.NewPCG(uint64(n), 2)))
		copy(m, r.want)
		if err := unix.Msync(m, unix.MS_SYNC); err != nil {
			return err
		}
		if err := r.verify(0, len(r.want)); err != nil {
			return err
		}
	}
	return errors.Join(unix.Munmap(m), os.Remove(f.Name()), f.Close())
}
