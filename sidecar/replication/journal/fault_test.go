package journal

import (
	crand "crypto/rand"
	"errors"
	"io"
	"log/slog"
	"math/rand/v2"
	"path"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/stretchr/testify/require"
)

// faultFS calls before ahead of each operation that changes the disk. An error of before is the operation's; for a write,
// the first n bytes reach the file all the same.
type faultFS struct {
	vfs.FS
	before func(op, name string, size int) (n int, err error)
}

func (f *faultFS) check(op, name string) error {
	_, err := f.before(op, path.Base(name), 0)
	return err
}

func (f *faultFS) Create(name string, c vfs.DiskWriteCategory) (vfs.File, error) {
	if err := f.check("create", name); err != nil {
		return nil, err
	}
	return f.wrap(name)(f.FS.Create(name, c))
}

func (f *faultFS) OpenReadWrite(name string, c vfs.DiskWriteCategory, opts ...vfs.OpenOption) (vfs.File, error) {
	return f.wrap(name)(f.FS.OpenReadWrite(name, c, opts...))
}

func (f *faultFS) OpenDir(name string) (vfs.File, error) { return f.wrap("dir")(f.FS.OpenDir(name)) }

func (f *faultFS) Remove(name string) error {
	if err := f.check("remove", name); err != nil {
		return err
	}
	return f.FS.Remove(name)
}

func (f *faultFS) Rename(from, to string) error {
	if err := f.check("rename", from); err != nil {
		return err
	}
	return f.FS.Rename(from, to)
}

func (f *faultFS) wrap(name string) func(vfs.File, error) (vfs.File, error) {
	return func(file vfs.File, err error) (vfs.File, error) {
		if err != nil {
			return nil, err
		}
		return &faultFile{File: file, fs: f, name: name}, nil
	}
}

type faultFile struct {
	vfs.File
	fs   *faultFS
	name string
}

func (f *faultFile) WriteAt(p []byte, off int64) (int, error) {
	n, err := f.fs.before("write", path.Base(f.name), len(p))
	if err == nil {
		return f.File.WriteAt(p, off)
	}
	if n > 0 {
		if _, werr := f.File.WriteAt(p[:n], off); werr != nil {
			return 0, werr
		}
	}
	return n, err
}

func (f *faultFile) Sync() error {
	if err := f.fs.check("sync", f.name); err != nil {
		return err
	}
	return f.File.Sync()
}

func (f *faultFile) SyncData() error {
	if err := f.fs.check("sync", f.name); err != nil {
		return err
	}
	return f.File.SyncData()
}

var errInjected = errors.New("injected")

const testDir = "j"

var testDisk = [16]byte{0xd1, 0x5c, 15: 0x01}

// chacha is a source of generations that a seed repeats.
func chacha(seed uint64) io.Reader {
	var key [32]byte
	key[0], key[1], key[2] = byte(seed), byte(seed>>8), byte(seed>>16)
	return rand.NewChaCha8(key)
}

func testOptions(fs vfs.FS) Options {
	return Options{
		FS: fs, Dir: testDir, DiskID: testDisk, SegmentBytes: minSegmentBytes, Rand: crand.Reader,
		Logger: slog.New(slog.DiscardHandler),
	}
}

// seen is a frame that was visited or appended, with a body of its own.
type seen struct {
	lsn, end, synced LSN
	kind             Kind
	group, replica   uint64
	body             string
}

func collect(into *[]seen) func(Frame) error {
	return func(f Frame) error {
		*into = append(*into, seen{f.LSN, f.End, f.SyncedEnd, f.Kind, f.Group, f.Replica, string(f.Body)})
		return nil
	}
}

func mustOpen(t testing.TB, o Options) (*Journal, []seen) {
	t.Helper()
	var frames []seen
	j, err := Open(o, collect(&frames))
	require.NoError(t, err)
	return j, frames
}

func mustAppend(t testing.TB, j *Journal, body string) LSN {
	t.Helper()
	end, err := j.Append(KindPayload, 7, 8, []byte(body))
	require.NoError(t, err)
	return end
}

func mustSync(t testing.TB, j *Journal) LSN {
	t.Helper()
	end, err := j.Sync()
	require.NoError(t, err)
	return end
}

func bodies(frames []seen) []string {
	var b []string
	for _, f := range frames {
		b = append(b, f.body)
	}
	return b
}
