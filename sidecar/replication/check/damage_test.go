package check_test

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/stretchr/testify/require"

	"github.com/remora-storage/remora/cachefs/meta"
	"github.com/remora-storage/remora/cachefs/record"
	"github.com/remora-storage/remora/cachefs/store"
	"github.com/remora-storage/remora/disk"
)

// keys are the metadata of a specimen, to be changed.
type keys struct {
	t  testing.TB
	db *pebble.DB
}

// all returns the first key of a kind that pick likes.
func (k keys) find(kind meta.KeyKind, pick func(k meta.Key, value []byte) bool) (key, value []byte) {
	it, err := k.db.NewIter(nil)
	require.NoError(k.t, err)
	defer it.Close()
	for ok := it.First(); ok; ok = it.Next() {
		if parsed, err := meta.ParseKey(it.Key()); err == nil && parsed.Kind == kind && pick(parsed, it.Value()) {
			return append([]byte{}, it.Key()...), append([]byte{}, it.Value()...)
		}
	}
	k.t.Fatalf("no key of kind %d", kind)
	return nil, nil
}

func (k keys) locals(pick func(l store.Local) bool) (found [][2][]byte) {
	it, err := k.db.NewIter(&pebble.IterOptions{LowerBound: []byte{meta.LocalPrefix}})
	require.NoError(k.t, err)
	defer it.Close()
	for ok := it.First(); ok; ok = it.Next() {
		if l, err := store.DecodeLocal(it.Key(), it.Value()); err == nil && pick(l) {
			found = append(found, [2][]byte{append([]byte{}, it.Key()...), append([]byte{}, it.Value()...)})
		}
	}
	require.NotEmpty(k.t, found)
	return found
}

func (k keys) set(key, value []byte) { require.NoError(k.t, k.db.Set(key, value, pebble.NoSync)) }
func (k keys) delete(key []byte)     { require.NoError(k.t, k.db.Delete(key, pebble.NoSync)) }

func anyKey(meta.Key, []byte) bool { return true }

func isFormat(format uint32) func(meta.Key, []byte) bool {
	return func(k meta.Key, v []byte) bool {
		in, err := meta.DecodeInode(v)
		return err == nil && in.Mode&syscall.S_IFMT == format && in.Nlink > 0 && k.Ino != meta.Root
	}
}

func (k keys) inode(format uint32, change func(*meta.Inode)) {
	key, value := k.find(meta.KeyInode, isFormat(format))
	in, err := meta.DecodeInode(value)
	require.NoError(k.t, err)
	change(&in)
	k.set(key, in.Append(nil))
}

func (k keys) counters(change func(*meta.Counters)) {
	key, value := k.find(meta.KeyCounters, anyKey)
	c, err := meta.DecodeCounters(value)
	require.NoError(k.t, err)
	change(&c)
	k.set(key, c.Append(nil))
}

func (k keys) chunk(change func(*meta.Chunk)) {
	key, value := k.find(meta.KeyChunk, anyKey)
	c, err := meta.DecodeChunk(value)
	require.NoError(k.t, err)
	change(&c)
	k.set(key, c.Append(nil))
}

func (k keys) residency(n int, change func(b [][2][]byte)) {
	rs := k.locals(func(l store.Local) bool { return l.Residency != nil })
	require.GreaterOrEqual(k.t, len(rs), n)
	change(rs)
	for _, r := range rs[:n] {
		k.set(r[0], r[1])
	}
}

func u64(b []byte) uint64      { return binary.LittleEndian.Uint64(b) }
func put64(b []byte, v uint64) { binary.LittleEndian.PutUint64(b, v) }

var semantic = []struct {
	name string
	do   func(k keys)
	want string
}{
	{"a name is gone", func(k keys) { key, _ := k.find(meta.KeyDirent, anyKey); k.delete(key) }, "no name has this cookie"},
	{"a listed entry is gone", func(k keys) { key, _ := k.find(meta.KeyCookie, anyKey); k.delete(key) }, "has a name and is not listed"},
	{"a name leads nowhere", func(k keys) {
		key, v := k.find(meta.KeyDirent, anyKey)
		put64(v, 1<<40)
		k.set(key, v)
	}, "which does not exist"},
	{"a name has another type", func(k keys) {
		key, v := k.find(meta.KeyDirent, anyKey)
		v[8] ^= 1
		k.set(key, v)
	}, "says type"},
	{"a listed entry has another name", func(k keys) {
		key, v := k.find(meta.KeyCookie, anyKey)
		k.set(key, append(v, 'x'))
	}, "is listed with another name"},
	{"an inode is gone", func(k keys) { key, _ := k.find(meta.KeyInode, isFormat(syscall.S_IFREG)); k.delete(key) }, "which does not exist"},
	{"the root is gone", func(k keys) { k.delete(meta.InodeKey(meta.Root)) }, "the root directory is missing"},
	{"a file's link count", func(k keys) { k.inode(syscall.S_IFREG, func(in *meta.Inode) { in.Nlink++ }) }, "names lead to it"},
	{"a directory's link count", func(k keys) { k.inode(syscall.S_IFDIR, func(in *meta.Inode) { in.Nlink++ }) }, "subdirectories it must be"},
	{"a directory's size", func(k keys) { k.inode(syscall.S_IFDIR, func(in *meta.Inode) { in.Size++ }) }, "entries, and has"},
	{"a directory's parent", func(k keys) { k.inode(syscall.S_IFDIR, func(in *meta.Inode) { in.Parent += 1000 }) }, "its parent is"},
	{"a file's blocks", func(k keys) { k.inode(syscall.S_IFREG, func(in *meta.Inode) { in.Blocks++ }) }, "its chunks have"},
	{"a file that is none", func(k keys) { k.inode(syscall.S_IFREG, func(in *meta.Inode) { in.Mode &^= syscall.S_IFMT }) }, "of no type"},
	{"inline content is gone", func(k keys) { key, _ := k.find(meta.KeyInline, anyKey); k.delete(key) }, "is missing"},
	{"inline content is longer", func(k keys) {
		key, v := k.find(meta.KeyInline, anyKey)
		k.set(key, append(v, 0))
	}, "bytes, and its content has"},
	{"an orphan without inode", func(k keys) { k.set(meta.OrphanKey(1<<40), []byte{1}) }, "marks an inode that does not exist"},
	{"an orphan with a name", func(k keys) {
		key, _ := k.find(meta.KeyInode, isFormat(syscall.S_IFREG))
		k.set(meta.OrphanKey(meta.Ino(binary.BigEndian.Uint64(key[1:]))), []byte{1})
	}, "is marked as unlinked"},
	{"an attribute without inode", func(k keys) { k.set(meta.XattrKey(1<<40, "user.x"), nil) }, "belongs to an inode that does not exist"},
	{"a flag without ACL", func(k keys) { k.inode(syscall.S_IFREG, func(in *meta.Inode) { in.Flags |= meta.FlagAccessACL }) }, "and no ACL"},
	{"an ACL without flag", func(k keys) {
		key, _ := k.find(meta.KeyInode, isFormat(syscall.S_IFREG))
		k.set(meta.XattrKey(meta.Ino(binary.BigEndian.Uint64(key[1:])), meta.XattrAccessACL), someACL.Append(nil))
	}, "no flag that says so"},
	{"an ACL for another mode", func(k keys) {
		key, _ := k.find(meta.KeyInode, isFormat(syscall.S_IFREG))
		k.set(meta.XattrKey(meta.Ino(binary.BigEndian.Uint64(key[1:])), meta.XattrAccessACL), someACL.Append(nil))
		k.inode(syscall.S_IFREG, func(in *meta.Inode) { in.Flags |= meta.FlagAccessACL })
	}, "and the inode has mode"},
	{"used bytes", func(k keys) { k.counters(func(c *meta.Counters) { c.Used += 4096 }) }, "used: are"},
	{"number of inodes", func(k keys) { k.counters(func(c *meta.Counters) { c.Inodes-- }) }, "inodes: are"},
	{"next inode", func(k keys) { k.counters(func(c *meta.Counters) { c.NextIno = 2 }) }, "numbers would be given twice"},
	{"next blob", func(k keys) { k.counters(func(c *meta.Counters) { c.NextBlob = 1 }) }, "numbers would be given twice"},
	{"next cookie", func(k keys) { k.counters(func(c *meta.Counters) { c.NextCookie = 3 }) }, "numbers would be given twice"},
	{"no counters", func(k keys) { k.delete(meta.CountersKey()) }, "the volume has no file system"},
	{"a chunk is gone", func(k keys) { key, _ := k.find(meta.KeyChunk, anyKey); k.delete(key) }, "no chunk has this blob"},
	{"a chunk has another blob", func(k keys) { k.chunk(func(c *meta.Chunk) { c.Blob += 1 << 30 }) }, "is not here"},
	{"a chunk has a block more", func(k keys) {
		k.chunk(func(c *meta.Chunk) {
			for i := range uint32(record.ChunkBlocks) {
				if !c.Blocks.Has(i) {
					c.Blocks.Set(i)
					return
				}
			}
		})
	}, "blocks, and the chunk has"},
	{"a chunk of nobody", func(k keys) {
		_, v := k.find(meta.KeyChunk, anyKey)
		k.set(meta.ChunkKey(1<<40, 0), v)
	}, "has the same blob"},
	{"a chunk behind the end", func(k keys) {
		key, v := k.find(meta.KeyChunk, anyKey)
		k.delete(key)
		k.set(meta.ChunkKey(meta.Ino(binary.BigEndian.Uint64(key[1:])), 1<<20), v)
	}, "behind the end of the file"},
	{"a chunk changed later", func(k keys) { k.chunk(func(c *meta.Chunk) { c.Last.Seq++ }) }, "and the newest is"},
	{"two blobs on one slot", func(k keys) { k.residency(2, func(b [][2][]byte) { put64(b[0][1], u64(b[1][1])) }) }, "has the same slot"},
	{"a blob is not here", func(k keys) {
		k.delete(k.locals(func(l store.Local) bool { return l.Residency != nil })[0][0])
	}, "is not here, and"},
	{"seals are gone", func(k keys) { k.delete(k.locals(func(l store.Local) bool { return l.Seals != nil })[0][0]) }, "reading the block is EIO"},
	{"seals of nothing", func(k keys) {
		s := k.locals(func(l store.Local) bool { return l.Seals != nil })[0]
		s[0][1] = 0x7f
		k.set(s[0], s[1])
	}, "are of a blob that is not here"},
	{"the applied index", func(k keys) {
		a := k.locals(func(l store.Local) bool { return l.Applied != nil })[0]
		put64(a[1], u64(a[1])+1000)
		k.set(a[0], a[1])
	}, "the log ends at"},
	{"the applied index, behind", func(k keys) {
		a := k.locals(func(l store.Local) bool { return l.Applied != nil })[0]
		put64(a[1], 1)
		k.set(a[0], a[1])
	}, "behind the checkpoint"},
	{"a key of a newer version", func(k keys) { k.set([]byte("\x42what"), nil) }, "unknown prefix"},
	{"a local key of a newer version", func(k keys) { k.set([]byte("\xfewhat"), nil) }, "not a key of a store"},
	{"a value that is cut", func(k keys) {
		key, v := k.find(meta.KeyDirent, anyKey)
		k.set(key, v[:5])
	}, "malformed metadata"},
}

// TestSemanticDamage changes the metadata in ways that no checksum knows.
func TestSemanticDamage(t *testing.T) {
	whole := makeSpecimen(t, rand.New(rand.NewPCG(11, 7)), true)
	for _, test := range semantic {
		t.Run(strings.ReplaceAll(test.name, " ", "-"), func(t *testing.T) {
			s := whole.copy()
			db := openMeta(t, s.fs, s.h, false)
			test.do(keys{t, db})
			require.NoError(t, db.Flush())
			require.NoError(t, db.Close())
			requireFinding(t, s.fs, s.h.Root(), test.want)
		})
	}
}

func requireFinding(t testing.TB, on disk.FS, dir, want string) {
	r := run(t, on, dir)
	require.True(t, r.Bad())
	var lines []string
	for _, f := range r.Findings {
		lines = append(lines, f.String())
	}
	all := strings.Join(lines, "\n")
	require.Contains(t, all, want)
	require.NotContains(t, all, "panic")
}

// copyTree copies a directory, from one disk in memory to another or the same.
func copyTree(t testing.TB, from vfs.FS, src string, to vfs.FS, dst string) {
	ok, err := vfs.Clone(from, to, src, dst)
	require.NoError(t, err)
	require.True(t, ok)
}

// TestFileDamage takes whole files away, cuts them, and exchanges them.
func TestFileDamage(t *testing.T) {
	rng := rand.New(rand.NewPCG(5, 9))
	whole, other := makeSpecimen(t, rng, true), makeSpecimen(t, rng, true)
	for _, test := range []struct {
		name string
		do   func(t *testing.T, s, other *specimen)
		want string
	}{
		{"a table is missing", func(t *testing.T, s, _ *specimen) { require.NoError(t, s.fs.Remove(s.files["sst"][0])) }, "the store does not open"},
		{"the manifest is missing", func(t *testing.T, s, _ *specimen) { require.NoError(t, s.fs.Remove(s.files["manifest"][0])) }, "the store does not open"},
		{"the metadata is missing", func(t *testing.T, s, _ *specimen) {
			require.NoError(t, s.fs.RemoveAll(filepath.Join(s.h.ReplicaDir(), "meta")))
		}, "the directory is missing"},
		{"the metadata is empty", func(t *testing.T, s, _ *specimen) {
			m := filepath.Join(s.h.ReplicaDir(), "meta")
			require.NoError(t, s.fs.RemoveAll(m))
			require.NoError(t, s.fs.MkdirAll(m, 0o700))
		}, "the store does not open"},
		{"the arena is missing", func(t *testing.T, s, _ *specimen) {
			require.NoError(t, s.fs.Remove(filepath.Join(s.h.ReplicaDir(), "arena")))
		}, "the content of all files is lost"},
		{"the arena is cut", func(t *testing.T, s, _ *specimen) {
			path := filepath.Join(s.h.ReplicaDir(), "arena")
			b := read(t, s.fs, path)
			last := int64(0)
			for at := range s.inUse {
				last = max(last, at)
			}
			write(t, s.fs, path, b[:last+100])
		}, "arena"},
		{"the arena of another", func(t *testing.T, s, other *specimen) {
			write(t, s.fs, filepath.Join(s.h.ReplicaDir(), "arena"), read(t, other.fs, filepath.Join(other.h.ReplicaDir(), "arena")))
		}, "arena"},
		{"the metadata of another", func(t *testing.T, s, other *specimen) {
			m := filepath.Join(s.h.ReplicaDir(), "meta")
			require.NoError(t, s.fs.RemoveAll(m))
			copyTree(t, other.fs, filepath.Join(other.h.ReplicaDir(), "meta"), s.fs, m)
		}, ""},
		{"the journal of another", func(t *testing.T, s, other *specimen) {
			j := filepath.Join(s.h.DiskDir(), "journal")
			require.NoError(t, s.fs.RemoveAll(j))
			copyTree(t, other.fs, filepath.Join(other.h.DiskDir(), "journal"), s.fs, j)
		}, "disk ID"},
		{"the journal is missing", func(t *testing.T, s, _ *specimen) {
			require.NoError(t, s.fs.RemoveAll(filepath.Join(s.h.DiskDir(), "journal")))
		}, "is empty"},
		{"a segment is missing", func(t *testing.T, s, _ *specimen) {
			require.NoError(t, s.fs.Remove(filepath.Join(s.h.DiskDir(), "journal", fmt.Sprintf("%016x.seg", int64(s.sum.Start)/s.segment))))
		}, "journal"},
		{"the replica of another disk", func(t *testing.T, s, other *specimen) {
			copyTree(t, other.fs, other.h.ReplicaDir(), s.fs, filepath.Join(s.h.DiskDir(), "replicas", other.h.ReplicaID().String()))
		}, "a replica cannot be copied"},
		{"a replica under another name", func(t *testing.T, s, _ *specimen) {
			require.NoError(t, s.fs.Rename(s.h.ReplicaDir(), filepath.Join(s.h.DiskDir(), "replicas", "00000000000000aa")))
		}, "its directory is missing"},
		{"the superblock of the replica is missing", func(t *testing.T, s, _ *specimen) {
			require.NoError(t, s.fs.Remove(filepath.Join(s.h.ReplicaDir(), "superblock")))
		}, "the replica cannot be opened"},
		{"the superblock of the disk is missing", func(t *testing.T, s, _ *specimen) {
			require.NoError(t, s.fs.Remove(filepath.Join(s.h.DiskDir(), "superblock")))
		}, "no replica in it can be opened"},
		{"the superblock of the disk is another's", func(t *testing.T, s, other *specimen) {
			write(t, s.fs, filepath.Join(s.h.DiskDir(), "superblock"), read(t, other.fs, filepath.Join(other.h.DiskDir(), "superblock")))
		}, ""},
		{"a superblock copy is older", func(t *testing.T, s, _ *specimen) {
			path := filepath.Join(s.h.ReplicaDir(), "superblock")
			b := read(t, s.fs, path)
			write(t, s.fs, path, append(append([]byte{}, b[:4096]...), b[:4096]...))
		}, "a write went astray"},
		{"a wrong key", func(t *testing.T, s, _ *specimen) {
			if s.h.Key() == nil {
				t.Skip("this volume is not sealed")
			}
			write(t, s.fs, "keys/v.key", []byte(strings.Repeat("ab", 32)))
		}, "the store does not open"},
		{"no key", func(t *testing.T, s, _ *specimen) {
			if s.h.Key() == nil {
				t.Skip("this volume is not sealed")
			}
			require.NoError(t, s.fs.Remove("keys/v.key"))
		}, "there is no key file"},
	} {
		t.Run(strings.ReplaceAll(test.name, " ", "-"), func(t *testing.T) {
			s := whole.copy()
			test.do(t, s, other)
			requireFinding(t, s.fs, s.h.Root(), test.want)
		})
	}
}

// someACL is for mode 0111.
var someACL = meta.ACL{{Tag: meta.ACLUserObj, Perm: 1}, {Tag: meta.ACLGroupObj, Perm: 1}, {Tag: meta.ACLMask, Perm: 1}, {Tag: meta.ACLOther, Perm: 1}}
