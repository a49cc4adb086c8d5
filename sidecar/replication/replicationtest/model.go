package replicationtest

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"sort"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/remora-storage/remora/cachefs"
	"github.com/remora-storage/remora/cachefs/meta"
	"github.com/remora-storage/remora/cachefs/record"
	"github.com/remora-storage/remora/cachefs/store"
)

// model is what a volume should look like: the simplest file system that is right.
type model struct {
	nodes map[string]*modelNode // by path; the root is ""
}

type modelNode struct {
	id     int // hard links share it
	mode   uint32
	data   []byte
	target string
	xattrs map[string]string

	changes int    // of its content, though it may be what it was
	written [2]int // the last write's range, if nothing has made holes since
}

func newModel() *model {
	return &model{nodes: map[string]*modelNode{"": {mode: syscall.S_IFDIR | 0o777}}}
}

func (m *model) dirs() []string {
	var ds []string
	for p, n := range m.nodes {
		if n.mode&syscall.S_IFMT == syscall.S_IFDIR {
			ds = append(ds, p)
		}
	}
	sort.Strings(ds)
	return ds
}

func (m *model) files() []string {
	var fs []string
	for p, n := range m.nodes {
		if n.mode&syscall.S_IFMT == syscall.S_IFREG {
			fs = append(fs, p)
		}
	}
	sort.Strings(fs)
	return fs
}

func (m *model) links(n *modelNode) (k int) {
	for _, o := range m.nodes {
		if o == n {
			k++
		}
	}
	return k
}

func (m *model) empty(dir string) bool {
	for p := range m.nodes {
		if strings.HasPrefix(p, dir+"/") {
			return false
		}
	}
	return true
}

// move renames a path and everything below it.
func (m *model) move(from, to string) {
	moved := map[string]*modelNode{}
	for p, n := range m.nodes {
		if p == from || strings.HasPrefix(p, from+"/") {
			moved[to+p[len(from):]] = n
			delete(m.nodes, p)
		}
	}
	delete(m.nodes, to)
	maps.Copy(m.nodes, moved)
}

// String describes the whole state; two states are the same if their strings are.
func (m *model) String() string { return m.without(nil) }

// without describes the state as it is read where the content of some files is EIO.
func (m *model) without(unreadable map[string]bool) string {
	var b strings.Builder
	for _, p := range slices.Sorted(maps.Keys(m.nodes)) {
		n := m.nodes[p]
		describe(&b, p, n.mode, m.links(n), content(n.data, unreadable[p]), n.target, n.xattrs)
	}
	return b.String()
}

// content is how the content of a file is described.
func content(data []byte, unreadable bool) string {
	if unreadable {
		return fmt.Sprintf("size=%d EIO", len(data))
	}
	return fmt.Sprintf("size=%d sum=%08x", len(data), record.Checksum(data))
}

func describe(b *strings.Builder, path string, mode uint32, links int, content, target string, xattrs map[string]string) {
	fmt.Fprintf(b, "%s %o", path, mode)
	if mode&syscall.S_IFMT == syscall.S_IFREG {
		fmt.Fprintf(b, " links=%d %s", links, content)
	}
	if target != "" {
		fmt.Fprintf(b, " -> %s", target)
	}
	for _, k := range slices.Sorted(maps.Keys(xattrs)) {
		fmt.Fprintf(b, " %s=%s", k, printable(k, xattrs[k]))
	}
	b.WriteByte('\n')
}

// printable is the value of an attribute as text.
func printable(name, value string) string {
	if strings.HasPrefix(name, "system.") {
		return fmt.Sprintf("%x", value)
	}
	return value
}

// DescribeFS reads a whole volume in the same words.
func DescribeFS(t testing.TB, fs *cachefs.FS) string {
	s, unreadable := describeFS(t, fs)
	require.Empty(t, unreadable, "files that cannot be read")
	return s
}

// describeFS is DescribeFS, with the files whose content is EIO.
func describeFS(t testing.TB, fs *cachefs.FS) (string, map[string]bool) {
	lines, unreadable := map[string]string{}, map[string]bool{}
	var walk func(path string, ino meta.Ino)
	walk = func(path string, ino meta.Ino) {
		a, err := fs.Attr(ino)
		require.NoError(t, err, path)
		var b strings.Builder
		var data []byte
		var target []byte
		switch a.Mode & syscall.S_IFMT {
		case syscall.S_IFREG:
			if data, err = readAll(fs, ino, a.Size); err != nil {
				require.ErrorIs(t, err, store.ErrDamaged, path)
				unreadable[path] = true
			}
		case syscall.S_IFLNK:
			target, err = fs.Readlink(ino)
			require.NoError(t, err)
		}
		xattrs := map[string]string{}
		names, err := fs.ListXattr(ino)
		require.NoError(t, err)
		for _, name := range names {
			v, err := fs.GetXattr(ino, name)
			require.NoError(t, err)
			xattrs[name] = string(v)
		}
		describe(&b, path, a.Mode, int(a.Nlink), content(data, unreadable[path]), string(target), xattrs)
		lines[path] = b.String()
		if a.Mode&syscall.S_IFMT != syscall.S_IFDIR {
			return
		}
		entries := list(t, fs, ino)
		require.EqualValues(t, len(entries), a.Size, "entries of %q", path)
		for _, e := range entries {
			found, err := fs.Lookup(ino, e.Name)
			require.NoError(t, err)
			require.Equal(t, e.Ino, found.Ino)
			walk(path+"/"+e.Name, e.Ino)
		}
	}
	walk("", meta.Root)
	var b strings.Builder
	for _, p := range slices.Sorted(maps.Keys(lines)) {
		b.WriteString(lines[p])
	}
	return b.String(), unreadable
}

func list(t testing.TB, fs *cachefs.FS, ino meta.Ino) []meta.CookieEntry {
	var es []meta.CookieEntry
	after := uint64(0)
	for {
		n := 0
		require.NoError(t, fs.ReadDir(ino, after, func(e meta.CookieEntry) bool {
			if n == 3 { // small pages, so that cookies are used
				return false
			}
			n++
			after = e.Cookie
			if e.Name != "." && e.Name != ".." {
				es = append(es, e)
			}
			return true
		}))
		if n == 0 {
			return es
		}
	}
}

// readAll reads a file; with an error, what it has is zeros.
func readAll(fs *cachefs.FS, ino meta.Ino, size uint64) ([]byte, error) {
	b := make([]byte, size)
	for off := uint64(0); off < size; {
		n, err := fs.Read(&cachefs.Caller{}, ino, off, b[off:min(size, off+100_000)])
		if err == nil && n == 0 {
			err = io.ErrUnexpectedEOF
		}
		if err != nil {
			return make([]byte, size), err
		}
		off += uint64(n)
	}
	return b, nil
}
