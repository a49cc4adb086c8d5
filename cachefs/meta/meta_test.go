package meta

import (
	"encoding/hex"
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

var update = flag.Bool("update", false, "rewrite golden files")

var (
	sampleInode    = Inode{Mode: 0o100644, UID: 1, GID: 2, Nlink: 3, Rdev: 4, Flags: FlagInline, Size: 5, Blocks: 6, Parent: 7, Atime: Time{-8, 9}, Mtime: Time{10, 11}, Ctime: Time{12, 13}, Btime: Time{14, 15}}
	sampleChunk    = Chunk{Blob: 1, Birth: Change{2, 3}, Last: Change{4, 5}, Blocks: Bitmap{1, 2, 3, 4}}
	sampleDirent   = Dirent{Ino: 9, Type: 8, Cookie: 77}
	sampleCookie   = CookieEntry{Cookie: 77, Ino: 9, Type: 8, Name: "naïve"}
	sampleACLInode = Inode{Mode: 0o40755, Nlink: 2, Flags: FlagAccessACL | FlagDefaultACL, Parent: Root}
	sampleACL      = ACL{{ACLUserObj, 7, none}, {ACLUser, 6, 1000}, {ACLGroupObj, 5, none}, {ACLGroup, 4, 0x01020304}, {ACLMask, 5, none},
		{ACLOther, 1, none}}
	sampleCounters = Counters{1, 2, 3, 4, 5}
)

func TestGolden(t *testing.T) {
	var b strings.Builder
	for _, row := range []struct {
		name       string
		key, value []byte
	}{
		{"inode", InodeKey(258), sampleInode.Append(nil)},
		{"inline", InlineKey(258), []byte("x")},
		{"dirent", DirentKey(258, "name"), sampleDirent.Append(nil)},
		{"cookie", CookieKey(258, 77), sampleCookie.AppendValue(nil)},
		{"chunk", ChunkKey(258, 513), sampleChunk.Append(nil)},
		{"orphan", OrphanKey(258), []byte{byte(OrphanUnlinked)}},
		{"xattr", XattrKey(258, "user.a"), []byte("v")},
		{"inode with ACLs", InodeKey(259), sampleACLInode.Append(nil)},
		{"acl", XattrKey(259, XattrAccessACL), sampleACL.Append(nil)},
		{"counters", CountersKey(), sampleCounters.Append(nil)},
		{"salt", SaltKey(3), nil},
	} {
		fmt.Fprintf(&b, "%s %s = %s\n", row.name, hex.EncodeToString(row.key), hex.EncodeToString(row.value))
	}
	const file = "testdata/golden.txt"
	if *update {
		require.NoError(t, os.MkdirAll("testdata", 0o755))
		require.NoError(t, os.WriteFile(file, []byte(b.String()), 0o644))
	}
	want, err := os.ReadFile(file)
	require.NoError(t, err)
	require.Equal(t, string(want), b.String())
}

func TestRoundTrip(t *testing.T) {
	in, err := DecodeInode(sampleInode.Append(nil))
	require.NoError(t, err)
	require.Equal(t, sampleInode, in)
	ch, err := DecodeChunk(sampleChunk.Append(nil))
	require.NoError(t, err)
	require.Equal(t, sampleChunk, ch)
	de, err := DecodeDirent(sampleDirent.Append(nil))
	require.NoError(t, err)
	require.Equal(t, sampleDirent, de)
	ce, err := DecodeCookieEntry(CookieKey(1, 77), sampleCookie.AppendValue(nil))
	require.NoError(t, err)
	require.Equal(t, sampleCookie, ce)
	co, err := DecodeCounters(sampleCounters.Append(nil))
	require.NoError(t, err)
	require.Equal(t, sampleCounters, co)
}

func FuzzDecode(f *testing.F) {
	f.Add(InodeKey(1), sampleInode.Append(nil))
	f.Add(CookieKey(1, 77), sampleCookie.AppendValue(nil))
	f.Add(ChunkKey(1, 2), sampleChunk.Append(nil))
	f.Fuzz(func(t *testing.T, key, b []byte) {
		if in, err := DecodeInode(b); err == nil {
			again, err := DecodeInode(in.Append(nil))
			require.NoError(t, err)
			require.Equal(t, in, again)
		}
		if c, err := DecodeChunk(b); err == nil {
			require.Equal(t, b, c.Append(nil))
		}
		if d, err := DecodeDirent(b); err == nil {
			require.Equal(t, b, d.Append(nil))
		}
		if e, err := DecodeCookieEntry(key, b); err == nil {
			require.Equal(t, b, e.AppendValue(nil))
		}
		if c, err := DecodeCounters(b); err == nil {
			require.Equal(t, b, c.Append(nil))
		}
		_ = Describe(key)
	})
}
