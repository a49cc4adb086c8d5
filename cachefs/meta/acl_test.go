package meta

import (
	"testing"

	"github.com/stretchr/testify/require"
)

const none = 0xffffffff

func TestACLRoundTrip(t *testing.T) {
	b := sampleACL.Append(nil)
	a, err := DecodeACL(b)
	require.NoError(t, err)
	require.Equal(t, sampleACL, a)
	require.Equal(t, "user::rwx,user:1000:rw-,group::r-x,group:16909060:r--,mask::r-x,other::--x", a.String())
	for n := range b {
		_, err := DecodeACL(b[:n])
		require.ErrorIs(t, err, ErrMalformed, "%d bytes", n)
	}
}

func TestACLMalformed(t *testing.T) {
	base := ACL{{ACLUserObj, 7, none}, {ACLGroupObj, 5, none}, {ACLOther, 1, none}}
	_, err := DecodeACL(base.Append(nil))
	require.NoError(t, err)
	for name, a := range map[string]ACL{
		"nothing":              {},
		"no owner":             base[1:],
		"no others":            base[:2],
		"the owner twice":      append(ACL{{ACLUserObj, 7, none}}, base...),
		"a user and no mask":   append(ACL{{ACLUser, 7, 1}}, base...),
		"a group and no mask":  append(ACL{{ACLGroup, 7, 1}}, base...),
		"two masks":            append(ACL{{ACLMask, 7, none}, {ACLMask, 7, none}}, base...),
		"an unknown tag":       append(ACL{{0x40, 7, none}}, base...),
		"a tag of two":         append(ACL{{3, 7, none}}, base...),
		"too many permissions": append(ACL{{ACLMask, 8, none}}, base...),
	} {
		_, err := DecodeACL(a.Append(nil))
		require.ErrorIs(t, err, ErrMalformed, name)
	}
	b := base.Append(nil)
	b[0] = 1
	_, err = DecodeACL(b)
	require.ErrorIs(t, err, ErrMalformed, "version 1")
}

// TestACLRules: acl(5), "correspondence between ACL entries and file permission bits" and "object creation and default ACLs".
func TestACLRules(t *testing.T) {
	small := ACL{{ACLUserObj, 6, none}, {ACLGroupObj, 4, none}, {ACLOther, 0, none}}
	masked := ACL{{ACLUserObj, 7, none}, {ACLUser, 7, 5}, {ACLGroupObj, 5, none}, {ACLMask, 7, none}, {ACLOther, 5, none}}
	for _, c := range []struct {
		name     string
		acl      ACL
		perm     uint32
		extended bool
	}{
		{"small", small, 0o640, false},
		{"masked: the group's bits are the mask", masked, 0o775, true},
		{"chmod of a small one", small.Chmod(0o4751), 0o751, false},
		{"chmod of a masked one", masked.Chmod(0o640), 0o640, true},
		{"a small default", small.Inherit(0o666), 0o640, false},
		{"a small default and a small mode", small.Inherit(0o422), 0o400, false},
		{"a masked default", masked.Inherit(0o100666), 0o664, true},
		{"a masked default and a small mode", masked.Inherit(0o700), 0o700, true},
	} {
		perm, extended := c.acl.Mode()
		require.Equal(t, c.perm, perm, c.name)
		require.Equal(t, c.extended, extended, c.name)
	}
	// Named entries and the masked group stay: the mask alone says what they are worth.
	require.Equal(t, ACL{{ACLUserObj, 6, none}, {ACLUser, 7, 5}, {ACLGroupObj, 5, none}, {ACLMask, 4, none}, {ACLOther, 0, none}}, masked.Chmod(0o640))
	require.Equal(t, ACL{{ACLUserObj, 6, none}, {ACLUser, 7, 5}, {ACLGroupObj, 5, none}, {ACLMask, 0, none}, {ACLOther, 4, none}}, masked.Inherit(0o606))
	require.EqualValues(t, 7, masked[3].Perm, "the default ACL itself stays as it is")
}

func FuzzDecodeACL(f *testing.F) {
	f.Add(sampleACL.Append(nil))
	f.Fuzz(func(t *testing.T, b []byte) {
		a, err := DecodeACL(b)
		if err != nil {
			return
		}
		require.Equal(t, b, a.Append(nil))
		perm, _ := a.Chmod(0o640).Mode()
		require.EqualValues(t, 0o640, perm)
		perm, _ = a.Inherit(0o750).Mode()
		require.Zero(t, perm&^0o750)
	})
}
