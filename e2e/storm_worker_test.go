package e2e

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// randomFile is a file of which a process knows every byte.
type randomFile struct {
	f    *os.File
	want []byte
}

const randomSize = 6 << 20 // of a random file, at most

// randomIO takes DIR STOP SEED, and writes, reads, cuts and syncs files of its own at random until the file STOP is there. Whatever it
// reads must be what it wrote last.
func randomIO(args []string) error {
	seed, err := strconv.ParseUint(args[2], 10, 64)
	if err != nil {
		return err
	}
	r := rand.New(rand.NewPCG(seed, 7))
	var files []*randomFile
	for n := range 6 {
		f, err := os.OpenFile(filepath.Join(args[0], fmt.Sprint("random", n)), os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o644)
		if err != nil {
			return err
		}
		if n < 2 { // these have no name: their content is there as long as they are open
			if err := os.Remove(f.Name()); err != nil {
				return err
			}
		}
		files = append(files, &randomFile{f: f})
	}
	calls, mapped := 0, 0
	for {
		if _, err := os.Stat(args[1]); err == nil {
			break
		}
		for range 20 {
			calls++
			if err := files[r.IntN(len(files))].step(r); err != nil {
				return fmt.Errorf("call %d: %w", calls, err)
			}
		}
		if mapped++; mapped%10 == 0 {
			if err := files[r.IntN(len(files))].writeByMap(r); err != nil {
				return fmt.Errorf("map %d: %w", mapped, err)
			}
			if err := shortLived(args[0], r); err != nil {
				return err
			}
		}
	}
	fmt.Printf("random calls %d\n", calls)
	for _, f := range files {
		if err := f.verify(0, len(f.want)); err != nil {
			return err
		}
		if err := f.f.Close(); err != nil {
			return err
		}
	}
	return nil
}

func (f *randomFile) step(r *rand.Rand) error {
	off := r.IntN(randomSize)
	size := min(1+r.IntN(64<<10), randomSize-off)
	if r.IntN(8) == 0 {
		size = min(3<<20, randomSize-off) // several requests of the kernel
	}
	switch r.IntN(10) {
	case 0, 1, 2, 3, 4:
		b := make([]byte, size)
		fillRandom(b, r)
		n, err := f.f.WriteAt(b, int64(off))
		if err != nil || n != size {
			return fmt.Errorf("write of %d at %d: %d, %w", size, off, n, err)
		}
		f.grow(off + size)
		copy(f.want[off:], b)
	case 5:
		if err := f.f.Truncate(int64(off)); err != nil {
			return fmt.Errorf("truncate to %d: %w", off, err)
		}
		f.grow(off)
		f.want = f.want[:off]
	case 6:
		if err := f.f.Sync(); err != nil {
			return fmt.Errorf("fsync: %w", err)
		}
	default:
		off = min(off, len(f.want))
		return f.verify(off, min(off+size, len(f.want)))
	}
	return nil
}

// fillRandom makes content that differs from one write to the next.
func fillRandom(b []byte, r *rand.Rand) {
	x := r.Uint64()
	for n := range b {
		b[n] = byte(x >> (n % 8 * 8))
		if n%512 == 511 {
			x = x*6364136223846793005 + 1442695040888963407
		}
	}
}

// grow makes the file that is wanted at least as long; what is new is zero.
func (f *randomFile) grow(size int) {
	if old := len(f.want); size > old {
		f.want = slices.Grow(f.want, size-old)[:size]
		clear(f.want[old:])
	}
}

// verify reads a range from the sidecar, not from the page cache.
func (f *randomFile) verify(from, to int) error {
	if err := unix.Fadvise(int(f.f.Fd()), 0, 0, unix.FADV_DONTNEED); err != nil {
		return fmt.Errorf("fadvise: %w", err)
	}
	b := make([]byte, to-from)
	if len(b) == 0 {
		return nil
	}
	if _, err := f.f.ReadAt(b, int64(from)); err != nil {
		return fmt.Errorf("read of %d at %d: %w", len(b), from, err)
	}
	if !bytes.Equal(b, f.want[from:to]) {
		return fmt.Errorf("%s has other bytes at %d than were written", f.f.Name(), from+firstDifference(b, f.want[from:to]))
	}
	return nil
}

func firstDifference(a, b []byte) int {
	n := 0
	for a[n] == b[n] {
		n++
	}
	return n
}

func (f *randomFile) writeByMap(r *rand.Rand) error {
	if len(f.want) == 0 {
		return nil
	}
	m, err := unix.Mmap(int(f.f.Fd()), 0, len(f.want), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return err
	}
	for range 20 {
		n := r.IntN(len(m))
		m[n]++
		f.want[n]++
	}
	return errors.Join(unix.Msync(m, unix.MS_SYNC), unix.Munmap(m))
}

// shortLived is a file that is open, has no name, and goes away: its space must come back.
func shortLived(dir string, r *rand.Rand) error {
	f, err := os.OpenFile(filepath.Join(dir, "short-lived"), os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	b := make([]byte, 300<<10)
	fillRandom(b, r)
	_, err = f.Write(b)
	return errors.Join(err, os.Remove(f.Name()), sameContent(f, b), f.Close())
}

// probe takes FILE STOP and writes a few bytes again and again. It prints each call that took long: when it began (Unix time, ns) and
// how long it took (ns).
func probe(args []string) error {
	f, err := os.OpenFile(args[0], os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return err
	}
	var all []time.Duration
	for n := 0; ; n++ {
		if n%64 == 0 {
			if _, err := os.Stat(args[1]); err == nil {
				break
			}
		}
		began := time.Now()
		if _, err := f.WriteAt([]byte(strconv.Itoa(n)), 0); err != nil {
			return err
		}
		took := time.Since(began)
		if all = append(all, took); took > 20*time.Millisecond {
			fmt.Printf("pause %d %d\n", began.UnixNano(), took)
		}
		time.Sleep(time.Millisecond)
	}
	slices.Sort(all)
	fmt.Printf("median %d\np99 %d\n", all[len(all)/2], all[len(all)*99/100])
	return f.Close()
}
