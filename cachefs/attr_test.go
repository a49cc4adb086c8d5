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
	}{
		{"file", syscall.S_IFREG | 0o6755, 0o755},
		{"without group execution", syscall.S_IFREG | 0o6745, 0o2745},
		{"fifo", syscall.S_IFIFO | 0o6755, 0o755},
		{"socket", syscall.S_IFSOCK | 0o6711, 0o711},
		{"device", syscall.S_IFCHR | 0o6755, 0o755},
		{"directory", syscall.S_IFDIR | 0o6755, 0o6755},
	} {
		a, err := fs.Create(&Caller{}, meta.Root, c.name, Node{Mode: c.mode})
		require.NoError(t, err, c.name)
		uid := uint32(1000)
		a, err = fs.SetAttr(&Caller{}, a.Ino, SetAttr{UID: &uid, KillSuidGid: true})
		require.NoError(t, err, c.name)
		require.Equal(t, c.want, a.Mode&0o7777, c.name)
	}
}
