package cachefs

import (
	"log/slog"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/remora-storage/remora/cachefs/meta"
)

// newFS is a file system of which nothing is applied: all state is overlay.
func newFS(t *testing.T, size uint64) (*FS, *keptLog) {
	t.Helper()
	log := &keptLog{}
	fs, err := Open(t.Context(), Config{Log: log, State: log, Epoch: 1, Incarnation: 1, Session: 7, NewSession: true, Size: size,
		Now: time.Now, Logger: slog.New(slog.DiscardHandler)}, true)
	require.NoError(t, err)
	t.Cleanup(fs.Close)
	return fs, log
}

const nobody = 0xffffffff

// forUser5 gives user 5 all that the mask allows.
func forUser5(mask uint16) meta.ACL {
	return meta.ACL{{Tag: meta.ACLUserObj, Perm: 7, ID: nobody}, {Tag: meta.ACLUser, Perm: 7, ID: 5}, {Tag: meta.ACLGroupObj, Perm: 5, ID: nobody},
		{Tag: meta.ACLMask, Perm: mask, ID: nobody}, {Tag: meta.ACLOther, Perm: 1, ID: nobody}}
}

// What stat shows and what the ACL says change together, in one record each.
func TestACLAndMode(t *testing.T) {
	fs, log := newFS(t, 1<<20)
	a, err := fs.Create(&Caller{UID: 1, GID: 2}, meta.Root, "f", Node{Mode: syscall.S_IFREG | 0o2755})
	require.NoError(t, err)
	is := func(mode uint32, acl meta.ACL) {
		t.Helper()
		in, err := fs.Attr(a.Ino)
		require.NoError(t, err)
		require.Equal(t, mode, in.Mode&0o7777)
		b, err := fs.GetXattr(a.Ino, meta.XattrAccessACL)
		if acl == nil {
			require.ErrorIs(t, err, syscall.ENODATA)
			return
		}
		require.NoError(t, err)
		require.Equal(t, acl.Append(nil), b)
	}
	chmod := func(mode uint32) {
		_, err := fs.SetAttr(&Caller{}, a.Ino, SetAttr{Mode: &mode})
		require.NoError(t, err)
	}
	set := func(acl meta.ACL, flags uint32) error {
		return fs.SetXattr(&Caller{}, a.Ino, meta.XattrAccessACL, acl.Append(nil), flags)
	}
	is(0o2755, nil)
	n := len(log.kept)
	require.NoError(t, set(forUser5(6), 0))
	is(0o2761, forUser5(6))
	chmod(0o2741)
	is(0o2741, forUser5(4))
	require.Len(t, log.kept, n+2)
	size, mode := uint64(100), uint32(0o2771)
	_, err = fs.SetAttr(&Caller{}, a.Ino, SetAttr{Size: &size, Mode: &mode})
	require.NoError(t, err)
	is(0o2771, forUser5(7))
	require.NoError(t, set(forUser5(6), XattrKillSgid))
	is(0o761, forUser5(6))
	require.NoError(t, fs.RemoveXattr(&Caller{}, a.Ino, meta.XattrAccessACL))
	is(0o761, nil)
	require.NoError(t, fs.RemoveXattr(&Caller{}, a.Ino, meta.XattrAccessACL), "there is none")
	require.NoError(t, set(forUser5(6), 0))
	require.NoError(t, set(meta.ACL{{Tag: meta.ACLUserObj, Perm: 6, ID: nobody}, {Tag: meta.ACLGroupObj, ID: nobody}, {Tag: meta.ACLOther, ID: nobody}}, 0))
	is(0o600, nil)
	require.ErrorIs(t, set(forUser5(8), 0), syscall.EINVAL)
	require.ErrorIs(t, fs.SetXattr(&Caller{}, a.Ino, meta.XattrDefaultACL, forUser5(7).Append(nil), 0), syscall.EACCES)
	is(0o600, nil)
}

// What is made in a directory with a default ACL inherits it instead of the umask.
func TestACLInheritance(t *testing.T) {
	fs, _ := newFS(t, 1<<20)
	make := func(parent meta.Ino, name string, mode uint32) Attr {
		t.Helper()
		n := Node{Mode: mode, Umask: 0o077}
		if mode&syscall.S_IFMT == syscall.S_IFLNK {
			n.Target = "x"
		}
		a, err := fs.Create(&Caller{}, parent, name, n)
		require.NoError(t, err)
		return a
	}
	acls := func(ino meta.Ino) (got [2]meta.ACL) {
		for i, name := range []string{meta.XattrAccessACL, meta.XattrDefaultACL} {
			if b, err := fs.GetXattr(ino, name); err == nil {
				got[i], err = meta.DecodeACL(b)
				require.NoError(t, err)
			}
		}
		return got
	}
	dir := make(meta.Root, "dir", syscall.S_IFDIR|0o777)
	require.EqualValues(t, 0o700, dir.Mode&0o777, "umask")
	def := forUser5(7)
	require.NoError(t, fs.SetXattr(&Caller{}, dir.Ino, meta.XattrDefaultACL, def.Append(nil), 0))
	require.Equal(t, [2]meta.ACL{nil, def}, acls(dir.Ino))
	file := make(dir.Ino, "file", syscall.S_IFREG|0o666)
	require.EqualValues(t, 0o660, file.Mode&0o777)
	require.Equal(t, [2]meta.ACL{def.Inherit(0o666), nil}, acls(file.Ino))
	sub := make(dir.Ino, "sub", syscall.S_IFDIR|0o2755)
	require.EqualValues(t, 0o2751, sub.Mode&0o7777)
	require.Equal(t, [2]meta.ACL{def.Inherit(0o755), def}, acls(sub.Ino))
	link := make(dir.Ino, "link", syscall.S_IFLNK|0o777)
	require.EqualValues(t, 0o777, link.Mode&0o777)
	require.Equal(t, [2]meta.ACL{}, acls(link.Ino))
	tmp, err := fs.Tmpfile(&Caller{}, dir.Ino, Node{Mode: syscall.S_IFREG | 0o640, Umask: 0o077})
	require.NoError(t, err)
	require.EqualValues(t, 0o640, tmp.Mode&0o777)
	require.Equal(t, [2]meta.ACL{def.Inherit(0o640), nil}, acls(tmp.Ino))
	require.NoError(t, fs.RemoveXattr(&Caller{}, dir.Ino, meta.XattrDefaultACL))
	require.Equal(t, [2]meta.ACL{}, acls(make(dir.Ino, "after", syscall.S_IFDIR|0o777).Ino))
}
