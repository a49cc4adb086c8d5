package e2e

import (
	"crypto/sha256"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// makeTree makes files of many sizes, with holes and without, symlinks, hard links, extended attributes, modes, owners and times.
func makeTree(args []string) error {
	root := args[0]
	seed, err := strconv.ParseUint(args[1], 10, 64)
	if err != nil {
		return err
	}
	r := rand.New(rand.NewPCG(seed, 0))
	for n := range 60 {
		dir := filepath.Join(root, fmt.Sprint("d", n%7), fmt.Sprint("e", n%3))
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
		file := filepath.Join(dir, fmt.Sprint("f", n))
		if err := makeFile(r, file, n); err != nil {
			return err
		}
		if err := decorate(r, file); err != nil {
			return err
		}
	}
	if err := unix.Mkfifo(filepath.Join(root, "fifo"), 0o600); err != nil {
		return err
	}
	return os.Chmod(filepath.Join(root, "d3"), os.ModeSticky|os.ModeSetgid|0o770)
}

func makeFile(r *rand.Rand, file string, n int) (err error) {
	f, err := os.Create(file)
	if err != nil {
		return err
	}
	defer func() {
		if closeErr := f.Close(); err == nil {
			err = closeErr
		}
	}()
	sizes := []int{0, 1, 2047, 2048, 2049, 4095, 4096, 4097, 100_000, 1 << 20, 1<<20 + 1, 3_000_000}
	b := make([]byte, sizes[n%len(sizes)])
	for i := range b {
		b[i] = byte(r.Uint32())
	}
	if _, err := f.WriteAt(b, int64(r.IntN(3)*5_000_000)); err != nil {
		return err
	}
	if n%5 == 0 && len(b) > 0 { // a file that was longer once
		info, err := f.Stat()
		if err != nil {
			return err
		}
		return f.Truncate(r.Int64N(info.Size()))
	}
	return nil
}

func decorate(r *rand.Rand, file string) error {
	if err := os.Link(file, file+".link"); err != nil {
		return err
	}
	if err := os.Symlink(strings.Repeat("x", 1+r.IntN(4000)), file+".symlink"); err != nil {
		return err
	}
	if err := os.Lchown(file+".symlink", r.IntN(1<<16), r.IntN(1<<16)); err != nil {
		return err
	}
	if err := unix.Setxattr(file, "user.text", []byte(fmt.Sprint(r.Uint64())), 0); err != nil {
		return err
	}
	if err := unix.Setxattr(file, "trusted.long", make([]byte, r.IntN(60_000)), 0); err != nil {
		return err
	}
	if err := os.Chown(file, r.IntN(1<<16), r.IntN(1<<16)); err != nil {
		return err
	}
	if err := unix.Chmod(file, r.Uint32()&0o7777); err != nil {
		return err
	}
	// Before 1970, and beyond what 32 bits hold.
	return os.Chtimes(file, time.Unix(r.Int64N(1<<33)-1<<32, r.Int64N(1e9)), time.Unix(r.Int64N(1<<33)-1<<32, r.Int64N(1e9)))
}

// describe prints a line for each file below a directory: all that stat(2) shows, extended attributes and content.
func describe(args []string) error {
	return filepath.WalkDir(args[0], func(path string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		var st unix.Stat_t
		if err := unix.Lstat(path, &st); err != nil {
			return err
		}
		what, err := content(path, &st)
		if err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
		fmt.Printf("%q ino=%d mode=%o nlink=%d owner=%d:%d size=%d blocks=%d atime=%d.%09d mtime=%d.%09d ctime=%d.%09d %s\n",
			strings.TrimPrefix(path, args[0]), st.Ino, st.Mode, st.Nlink, st.Uid, st.Gid, st.Size, st.Blocks,
			st.Atim.Sec, st.Atim.Nsec, st.Mtim.Sec, st.Mtim.Nsec, st.Ctim.Sec, st.Ctim.Nsec, what)
		return nil
	})
}

func content(path string, st *unix.Stat_t) (string, error) {
	switch st.Mode & syscall.S_IFMT {
	case syscall.S_IFLNK:
		return os.Readlink(path)
	case syscall.S_IFREG:
		b, err := os.ReadFile(path)
		if err != nil {
			return "", err
		}
		attrs, err := xattrs(path)
		return fmt.Sprintf("%x %s", sha256.Sum256(b), attrs), err
	default:
		return "", nil
	}
}

func xattrs(path string) (string, error) {
	b := make([]byte, 64<<10)
	n, err := unix.Listxattr(path, b)
	if err != nil {
		return "", err
	}
	names := strings.Split(strings.Trim(string(b[:n]), "\x00"), "\x00")
	slices.Sort(names)
	var all []string
	for _, name := range names {
		if name == "" {
			continue
		}
		n, err := unix.Getxattr(path, name, b)
		if err != nil {
			return "", err
		}
		all = append(all, fmt.Sprintf("%s=%x", name, sha256.Sum256(b[:n])))
	}
	return strings.Join(all, " "), nil
}

// streamFiles makes numbered files, without fsync, and prints each number once close(2) has returned, until the mount is gone.
func streamFiles(args []string) error {
	for n := 0; ; n++ {
		if err := os.WriteFile(filepath.Join(args[0], fmt.Sprint("s", n)), streamed(n), 0o644); err != nil {
			return nil // this is how it ends
		}
		fmt.Println(n)
	}
}

func streamed(n int) []byte {
	return []byte(strings.Repeat(fmt.Sprintf("content of file %d\n", n), 1+n*37%400))
}
