package cachefs

import (
	"fmt"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/remora-storage/remora/cachefs/meta"
)

// The list of a file's attributes must fit what the kernel can hand over (64 KiB): one that would not is refused, instead of making all of
// them unlistable.
func TestXattrListIsBounded(t *testing.T) {
	fs, log := newFS(t, 1<<20)
	a, err := fs.Create(&Caller{}, meta.Root, "f", Node{Mode: syscall.S_IFREG | 0o644})
	require.NoError(t, err)
	name := func(i int) string { return fmt.Sprintf("user.%04d", i) + strings.Repeat("x", 255-9) }
	for i := range 256 { // 256 bytes each
		require.NoError(t, fs.SetXattr(&Caller{}, a.Ino, name(i), []byte("v"), 0))
	}
	n := len(log.kept)
	require.ErrorIs(t, fs.SetXattr(&Caller{}, a.Ino, "user.a", nil, 0), syscall.ENOSPC)
	require.Len(t, log.kept, n)
	require.NoError(t, fs.SetXattr(&Caller{}, a.Ino, name(7), []byte("another value"), 0))
	require.NoError(t, fs.RemoveXattr(&Caller{}, a.Ino, name(8)))
	require.NoError(t, fs.SetXattr(&Caller{}, a.Ino, "user.a", nil, 0))
	names, err := fs.ListXattr(a.Ino)
	require.NoError(t, err)
	require.Len(t, names, 256)
}

// Whoever asks each file for its SELinux label is told once that there are none; one that was set is there.
func TestNoSELinux(t *testing.T) {
	fs, _ := newFS(t, 1<<20)
	_, err := fs.GetXattr(meta.Root, "security.selinux")
	require.ErrorIs(t, err, syscall.EOPNOTSUPP)
	_, err = fs.GetXattr(meta.Root, "security.capability")
	require.ErrorIs(t, err, syscall.ENODATA)
	require.NoError(t, fs.SetXattr(&Caller{}, meta.Root, "security.selinux", []byte("label"), 0))
	b, err := fs.GetXattr(meta.Root, "security.selinux")
	require.NoError(t, err)
	require.Equal(t, "label", string(b))
}
