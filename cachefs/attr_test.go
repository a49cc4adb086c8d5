package cachefs

import (
	"log/slog"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/remora-storage/remora/cachefs/meta"
)

// A new owner takes the set-ID bits away from everything but directories.
func TestChownTakesSetIDBits(t *testing.T) {
	log := &keptLog{}
	fs, err := Open(t.Context(), Config{Log: log, State: log, Epoch: 1, Incarnation: 1, Session: 7, NewSession: true, Size: 1 << 40,
		Now: time.Now, Logger: slog.New(slog.DiscardHandler)}, true)
	require.NoError(t, err)
	defer fs.Close()
	for _, c := range []struct {
		name       string
		mode, want uint32
		uid, gid   uint32 // of the caller
	}{
		{"file", syscall.S_IFREG | 0o6755, 0o755, 0, 0},
		{"fifo", syscall.S_IFIFO | 0o6755, 0o755, 0, 0},
		{"socket", syscall.S_IFSOCK | 0o6711, 0o711, 0, 0},
		{"device", syscall.S_IFCHR | 0o6755, 0o755, 0, 0},
		{"directory", syscall.S_IFDIR | 0o6755, 0o6755, 0, 0},
		{"without group execution, root", syscall.S_IFREG | 0o6745, 0o2745, 0, 0},
		{"without group execution, in the group", syscall.S_IFREG | 0o6745, 0o2745, 50, 60},
		{"without group execution, not in the group", syscall.S_IFREG | 0o6745, 0o745, 50, 70},
	} {
		a, err := fs.Create(&Caller{UID: 50, GID: 60}, meta.Root, c.name, Node{Mode: c.mode})
		require.NoError(t, err, c.name)
		gid := uint32(70)
		a, err = fs.SetAttr(&Caller{UID: c.uid, GID: c.gid}, a.Ino, SetAttr{GID: &gid, KillSuidGid: true})
		require.NoError(t, err, c.name)
		require.Equal(t, gid, a.GID, c.name)
		require.Equal(t, c.want, a.Mode&0o7777, c.name)
	}
}
