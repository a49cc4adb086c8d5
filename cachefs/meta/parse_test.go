package meta

import (
	"testing"

	"github.com/stretchr/testify/require"
)

var parsed = []struct {
	key  []byte
	want Key
}{
	{InodeKey(258), Key{Kind: KeyInode, Ino: 258}},
	{InlineKey(258), Key{Kind: KeyInline, Ino: 258}},
	{DirentKey(258, "name"), Key{Kind: KeyDirent, Ino: 258, Name: "name"}},
	{CookieKey(258, 77), Key{Kind: KeyCookie, Ino: 258, Number: 77}},
	{ChunkKey(258, 513), Key{Kind: KeyChunk, Ino: 258, Number: 513}},
	{OrphanKey(258), Key{Kind: KeyOrphan, Ino: 258}},
	{XattrKey(258, "user.a"), Key{Kind: KeyXattr, Ino: 258, Name: "user.a"}},
	{CountersKey(), Key{Kind: KeyCounters}},
	{SaltKey(3), Key{Kind: KeySalt, Number: 3}},
}

// build is the key that k was taken from.
func (k Key) build() []byte {
	switch k.Kind {
	case KeyInode:
		return InodeKey(k.Ino)
	case KeyInline:
		return InlineKey(k.Ino)
	case KeyDirent:
		return DirentKey(k.Ino, k.Name)
	case KeyCookie:
		return CookieKey(k.Ino, k.Number)
	case KeyChunk:
		return ChunkKey(k.Ino, k.Number)
	case KeyOrphan:
		return OrphanKey(k.Ino)
	case KeyXattr:
		return XattrKey(k.Ino, k.Name)
	case KeyCounters:
		return CountersKey()
	case KeySalt:
		return SaltKey(uint32(k.Number))
	}
	return nil
}

func TestParseKey(t *testing.T) {
	for _, p := range parsed {
		k, err := ParseKey(p.key)
		require.NoError(t, err)
		require.Equal(t, p.want, k)
		for n := range p.key {
			if p.want.Name != "" && n >= 10 {
				break // a shorter name is a name
			}
			_, err := ParseKey(p.key[:n])
			require.ErrorIs(t, err, ErrMalformed, "%x", p.key[:n])
		}
	}
	for _, b := range []string{"", "\x05", "\x01\x00\x00\x00\x00\x00\x00\x00\x01\x02", "\x08\x01", "\xf0\x00"} {
		_, err := ParseKey([]byte(b))
		require.ErrorIs(t, err, ErrMalformed, "%x", b)
	}
}

func FuzzParseKey(f *testing.F) {
	for _, p := range parsed {
		f.Add(p.key)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		_ = Describe(b)
		if k, err := ParseKey(b); err == nil {
			require.Equal(t, b, k.build())
		}
	})
}
